"""Random patch masking, sign-gradient perturbation and per-sample KL divergence, on CUDA, on CPU or in plain PyTorch."""

from .functions import ScoreStep, backend, kl_divergence, patch_origins, perturb, score_step

__all__ = ["ScoreStep", "backend", "kl_divergence", "patch_origins", "perturb", "score_step"]
