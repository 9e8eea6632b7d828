"""The ``advrbd`` command line. Importing it is cheap: torch is loaded when a command runs."""

from advrbd_plugin.cli.main import main

__all__ = ["main"]
