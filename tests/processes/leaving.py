"""A process of which rank 1 is done later than rank 0: ``leaving.py SECONDS``."""

import sys
import time

from advrbd_plugin.process_group import joined

if __name__ == "__main__":
    with joined("cpu") as (processes, _):
        time.sleep(float(sys.argv[1]) * processes.rank)
