"""ULRL (arXiv 2405.14781): repair a backdoored model by unlearning, finding the neurons that react, and relearning."""

from advrbd_plugin.ulrl.clean_samples import CleanSamples, clean_from_poisoned
from advrbd_plugin.ulrl.config import ULRLConfig
from advrbd_plugin.ulrl.pipeline import ULRL, ULRLResult

__all__ = ["ULRL", "CleanSamples", "ULRLConfig", "ULRLResult", "clean_from_poisoned"]
