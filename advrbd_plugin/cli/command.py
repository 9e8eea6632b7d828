"""The ``advrbd`` command: its sub-commands, its exit status, and the one line that explains an error."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from advrbd_plugin import __version__
from advrbd_plugin.cli import (
    backdoorbench,
    clean,
    compare,
    defend,
    demo,
    doctor,
    evaluate,
    export,
    messages,
    option_file,
    repair,
    reproduce,
    scan,
    stopping,
)
from advrbd_plugin.cli.status import BAD_INPUT, EXPLAINED
from advrbd_plugin.errors import AdvrBDError, is_out_of_memory

_TO_NEED_LESS = {
    "settings": "--set batch_size=... with a smaller number",
    "samples": "--samples for fewer images",
    "image_size": "--image-size for smaller ones",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (see :mod:`advrbd_plugin.cli.status`)."""
    parser = build_parser()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        parser.print_help()
        return BAD_INPUT
    try:
        arguments = _parse(parser, words)
    except AdvrBDError as error:  # in the file of --config
        return _fail(str(error))
    stopping.advise(getattr(arguments, "interrupted", ""))
    with warnings.catch_warnings(), messages.shown(getattr(arguments, "quiet", False)):
        warnings.showwarning = _show_warning
        try:
            if not _may_run(arguments):
                return BAD_INPUT
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
        epilog=EXPLAINED,
    )
    parser.add_argument("--version", action="version", version=f"advrbd {__version__}")
    parser.add_argument(
        "--print-completion",
        metavar="SHELL",
        action=_Completion,
        help="print what makes bash, zsh or tcsh complete commands and options (needs shtab)",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (scan, defend, clean, repair, evaluate, export, demo, reproduce, doctor, backdoorbench, compare):
        module.add_commands(commands)
    for each in _commands_below(parser):
        if not any(action.nargs == argparse.REMAINDER for action in each._actions):
            option_file.add_option(each)
        each.set_defaults(parser=each)
    return parser


class _Completion(argparse.Action):
    """Prints a shell's completions and ends."""

    def __call__(self, parser: argparse.ArgumentParser, _: argparse.Namespace, shell: Any, __: Any = None) -> None:
        try:
            import shtab
        except ImportError:
            parser.exit(_fail("--print-completion needs the package shtab: pip install shtab"))
        if shell not in shtab.SUPPORTED_SHELLS:
            parser.exit(_fail(f"--print-completion must be one of {', '.join(shtab.SUPPORTED_SHELLS)}, got {shell!r}"))
        print(shtab.complete(parser, shell))
        parser.exit()


def _parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """The arguments; what is wrong with those of a command ends the process with the usage of that command."""
    command, rest = parser, list(words)
    while rest and (below := _choices(command)):
        if rest[0] not in below:
            break
        command, rest = below[rest[0]], rest[1:]
    if any(action.dest == "config" for action in command._actions):
        option_file.apply(command, rest)
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return arguments


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


def _commands_below(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers that carry out a command, at whatever depth."""
    for each in _choices(parser).values():
        yield from _commands_below(each) if _choices(each) else (each,)


def _may_run(arguments: argparse.Namespace) -> bool:
    """Refuse what torchrun started in several processes that would all do the same; rank 0 says it."""
    if hasattr(arguments, "shares_work") or os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    if os.environ.get("RANK") == "0":
        raise AdvrBDError("of advrbd's commands only `defend` and `scan` share their work among torchrun's processes")
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


def _fail(message: str, status: int = BAD_INPUT) -> int:
    from advrbd_plugin.report.text import one_line

    print(f"advrbd: error: {one_line(message)}", file=sys.stderr)
    return status


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line without the source code that Python would quote."""
    print(f"advrbd: note: {' '.join(str(message).split())}", file=sys.stderr)
