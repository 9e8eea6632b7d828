"""``python -m advrbd_plugin.backdoorbench``: this package's commands alone, as compare starts them."""

from __future__ import annotations

import argparse
import sys

from advrbd_plugin.backdoorbench.cli import add_commands
from advrbd_plugin.errors import AdvrBDError


def main(arguments: list[str] | None = None) -> int:
    """Carry out one command; a user's error is one line on stderr and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m advrbd_plugin.backdoorbench")
    add_commands(parser.add_subparsers(required=True, metavar="COMMAND"))
    parsed = parser.parse_args(arguments)
    try:
        return parsed.run(parsed)
    except AdvrBDError as error:
        print(f"advrbd: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
