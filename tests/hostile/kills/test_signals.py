"""Ctrl-C and SIGTERM at any moment, the imports included: one line, the shell's exit status, nothing left behind."""

from __future__ import annotations

import signal
import sys
import time

import pytest

from .processes import AS_MODULE, AS_MODULE_OF_CLI, AS_SCRIPT, TORTURE, finish, start, wait_until_handled

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc when the command handles signals")

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
POINTS = [step * 0.05 for step in range(60)] if TORTURE else [0.0, 0.15, 0.4, 0.8, 1.3, 2.0]


def assert_ends_in_one_line(status, lines, number):
    assert status == 128 + number, lines
    told = [line for line in lines if line.startswith("advrbd: error: ")]
    assert told == lines[-1:] and told[0].startswith(f"advrbd: error: {WORDS[number]}"), lines
    text = "\n".join(lines)
    assert not any(word in text for word in ("Traceback", "Exception ignored", "Fatal", "KeyboardInterrupt")), text


@pytest.mark.parametrize("seconds", POINTS)
def test_a_signal_in_the_first_seconds(tmp_path, seconds):
    number = signal.SIGTERM if round(seconds / 0.05) % 4 == 2 else signal.SIGINT
    way = (AS_MODULE, AS_SCRIPT, AS_MODULE_OF_CLI)[round(seconds / 0.05) % 3]
    process = start("demo", "--out", tmp_path / "out", way=way)
    time.sleep(seconds)
    wait_until_handled(process)
    process.send_signal(number)
    status, out, lines = finish(process)
    assert_ends_in_one_line(status, lines, number)
    assert out == ""


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    process = start("demo", "--out", tmp_path / "out")
    while "training" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    status, _, lines = finish(process)
    assert_ends_in_one_line(status, lines, signal.SIGINT)
    assert lines[-1].endswith("run the same command again to go on from here")
    assert not any("done in" in line for line in lines)  # a stage that is cut off is not done


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_modules_are_imported_in_the_middle_of_a_run(tmp_path, number):
    """A slow module in the way, that also swallows whatever is raised in it."""
    (tmp_path / "slow.py").write_text(
        "import time\ntry:\n    print('importing', flush=True)\n    time.sleep(60)\nexcept BaseException:\n    pass\n"
    )
    code = (
        "import sys; from advrbd_plugin.cli import stopping; "
        f"sys.path.insert(0, {str(tmp_path)!r}); sys.exit(stopping.run_process(lambda: __import__('slow') and 0))"
    )
    process = start(way=(sys.executable, "-c", code))
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    status, _, lines = finish(process, seconds=30)
    assert_ends_in_one_line(status, lines, number)


def test_a_signal_in_a_destructor_is_not_dropped():
    code = (
        "import sys, time; from advrbd_plugin.cli import stopping\n"
        "class Slow:\n    def __del__(self):\n        print('in it', flush=True); time.sleep(60)\n"
        "def command():\n    Slow(); time.sleep(60); return 0\n"
        "sys.exit(stopping.run_process(command))"
    )
    process = start(way=(sys.executable, "-c", code))
    assert process.stdout.readline() == "in it\n"
    process.send_signal(signal.SIGINT)
    status, _, lines = finish(process, seconds=30)
    assert_ends_in_one_line(status, lines, signal.SIGINT)


def test_what_ignores_ctrl_c_goes_on_ignoring_it():
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); from advrbd_plugin.cli import stopping; "
        "sys.exit(stopping.run_process(lambda: signal.raise_signal(signal.SIGINT) or 7))"
    )
    assert finish(start(way=(sys.executable, "-c", code)))[0] == 7


def test_signals_of_the_caller_are_left_alone_by_main():
    from advrbd_plugin.cli import main

    before = [signal.getsignal(number) for number in WORDS]
    assert main([]) == 2
    assert [signal.getsignal(number) for number in WORDS] == before
