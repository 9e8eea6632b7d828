"""A process that has imported everything and forks a child for each command: a run without two seconds of imports.

Each line on stdin is a JSON list: the words after ``advrbd``, and the call of ``os.replace`` before or after which the
child kills itself (0 for none). Two lines are printed for it: the child's process id, and how it ended.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch
import torchvision  # noqa: F401

import advrbd_plugin.defense.pipeline  # noqa: F401
from advrbd_plugin.cli import main
from advrbd_plugin.report import output


def dying(replace: Callable[..., None], number: int) -> Callable[..., None]:
    """``os.replace`` that kills the process before its call ``number``, or after it for a negative one."""
    calls = itertools.count(1)

    def stand_in(*arguments: Any) -> None:
        call = next(calls)
        if call == number:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*arguments)
        if call == -number:
            os.kill(os.getpid(), signal.SIGKILL)

    return stand_in


def run_child(arguments: list[str], number: int) -> None:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
    if number:
        os.replace = dying(os.replace, number)
    os._exit(main(arguments))


torch.set_num_threads(1)
# Drawing takes longer than the rest of a small run, and has no part in what is stored.
output.overview_png = lambda record: b"picture"
output.report_html = lambda *_: "page"
print("ready", flush=True)
for line in sys.stdin:
    arguments, number = json.loads(line)
    child = os.fork()
    if not child:
        run_child(arguments, number)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
