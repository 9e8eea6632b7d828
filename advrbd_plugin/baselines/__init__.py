"""Baselines that BackdoorBench lacks, written after their papers: CutMix, SCAn and SCAnFT.

docs/baselines.md says for each what data it needs, where its settings come from and how it was checked.
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
