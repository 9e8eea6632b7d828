"""The ``advrbd`` command: its sub-commands, its exit status, and the one line that explains an error."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Sequence

from advrbd_plugin import __version__
from advrbd_plugin.cli import backdoorbench, compare, defend, demo, doctor, evaluate, repair, reproduce, stopping
from advrbd_plugin.errors import AdvrBDError, is_out_of_memory

_WRONG_USAGE = 2  # argparse's status
_TO_NEED_LESS = {
    "settings": "--set batch_size=... with a smaller number",
    "samples": "--samples for fewer images",
    "image_size": "--image-size for smaller ones",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0: done. 1: an error that one line explains. 2: wrong usage, no command included. 130 and 143: ended by Ctrl-C and
    by SIGTERM.
    """
    parser = build_parser()
    words = sys.argv[1:] if argv is None else argv
    if not words:
        parser.print_help()
        return _WRONG_USAGE
    arguments = parser.parse_args(words)
    stopping.advise(getattr(arguments, "interrupted", ""))
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            if not _may_run(arguments):
                return 1
            return arguments.run(arguments) or 0
        except AdvrBDError as error:
            return _fail(str(error))
        except KeyboardInterrupt as error:
            return _fail(*stopping.describe(error))
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away; so do we
            return 0
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return _fail(f"the disk is full ({error.filename or 'no file named'}): free some space and run again")
            return _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
        except (MemoryError, RuntimeError) as error:
            line = _out_of_memory(error, arguments)
            if line is None:
                raise
            return _fail(line)


def build_parser() -> argparse.ArgumentParser:
    """All commands. Nothing heavy is imported until one of them runs."""
    parser = argparse.ArgumentParser(
        prog="advrbd",
        description="Find the poisoned samples in a set of images and train a clean model, from that set alone.",
        epilog="Exit status: 0 done, 1 an error that is explained, 2 wrong usage, 130 ended by Ctrl-C, 143 by SIGTERM.",
    )
    parser.add_argument("--version", action="version", version=f"advrbd {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (defend, repair, evaluate, demo, reproduce, doctor, backdoorbench, compare):
        module.add_commands(commands)
    return parser


def _may_run(arguments: argparse.Namespace) -> bool:
    """Refuse what torchrun started in several processes that would all do the same; rank 0 says it."""
    if hasattr(arguments, "shares_work") or os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    if os.environ.get("RANK") == "0":
        raise AdvrBDError("of advrbd's commands only `defend` shares its work among the processes that torchrun starts")
    return False


def _out_of_memory(error: Exception, arguments: argparse.Namespace) -> str | None:
    """The line for an error that says that memory is used up; ``None`` for any other error."""
    on_gpu = type(error).__name__ == "OutOfMemoryError"  # PyTorch's, by its name: nothing here imports torch
    # Where the CPU's memory ends, PyTorch raises a plain RuntimeError.
    if not is_out_of_memory(error):
        return None
    ways = [words for option, words in _TO_NEED_LESS.items() if hasattr(arguments, option)]
    if on_gpu and hasattr(arguments, "device"):
        ways.append("--device cpu")
    advice = f"try {' or '.join(ways)}" if ways else "give fewer images, or end other programs"
    return f"the {'GPU' if on_gpu else 'computer'}'s memory is used up: {advice}"


def _fail(message: str, status: int = 1) -> int:
    from advrbd_plugin.report.text import one_line

    print(f"advrbd: error: {one_line(message)}", file=sys.stderr)
    return status


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line without the source code that Python would quote."""
    print(f"advrbd: note: {' '.join(str(message).split())}", file=sys.stderr)
