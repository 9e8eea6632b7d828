"""Random patch masking, sign-gradient perturbation, per-sample KL divergence and random integers of a sample.

On CUDA, on CPU or in plain PyTorch.
"""

from .functions import ScoreStep, backend, kl_divergence, patch_origins, perturb, philox_uniform, score_step

__all__ = ["ScoreStep", "backend", "kl_divergence", "patch_origins", "perturb", "philox_uniform", "score_step"]
