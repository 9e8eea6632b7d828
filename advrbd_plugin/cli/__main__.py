"""``python -m advrbd_plugin.cli``: as ``python -m advrbd_plugin``."""

import sys

from advrbd_plugin.cli import console

if __name__ == "__main__":
    sys.exit(console())
