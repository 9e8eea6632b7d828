"""``python -m advrbd_plugin.cli`` where the ``advrbd`` script is not installed."""

import sys

from advrbd_plugin.cli.main import main

sys.exit(main())
