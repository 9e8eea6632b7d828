"""The ``advrbd`` command line. Importing it is cheap: everything else is imported when a command runs."""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it, whose import takes time
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["console", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command in this process, whose signals stay as they are, and return its exit status.

    Args:
        argv: the words after ``advrbd``; those of this process by default.
    """
    from advrbd_plugin.cli import command

    return command.main(argv)


def console() -> int:
    """The process of ``advrbd`` and ``python -m advrbd_plugin``: :func:`main`, and Ctrl-C ends it with one line."""
    from advrbd_plugin.cli import stopping

    return stopping.run_process(main)
