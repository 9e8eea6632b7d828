"""Defenses of others that AdvrBD is compared with and that BackdoorBench lacks, written against their papers.

docs/baselines.md says what data each needs, where its settings come from and how it was checked.
"""

from __future__ import annotations

from advrbd_plugin.baselines.cutmix import CutMixConfig, CutMixResult, train_cutmix
from advrbd_plugin.baselines.scan import ScanConfig, ScanResult, scan
from advrbd_plugin.baselines.scanft import SCAnFTConfig, SCAnFTResult, scanft

__all__ = [
    "CutMixConfig",
    "CutMixResult",
    "SCAnFTConfig",
    "SCAnFTResult",
    "ScanConfig",
    "ScanResult",
    "scan",
    "scanft",
    "train_cutmix",
]
