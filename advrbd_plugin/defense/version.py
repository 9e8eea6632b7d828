"""Which version of the algorithm decides a verdict."""

from __future__ import annotations

# Raised whenever the same input would give another result, so that no old stage is mixed with a new one.
ALGORITHM_VERSION = 7
