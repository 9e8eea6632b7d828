"""``python -m advrbd_plugin``: the ``advrbd`` command where its script is not on the path."""

import sys

from advrbd_plugin.cli import console

if __name__ == "__main__":
    sys.exit(console())
