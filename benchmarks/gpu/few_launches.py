"""A few launches of every op, small enough for compute-sanitizer; check_ops.py starts it."""

import torch
from check_ops import FEW_CLASSES, FEW_SIZES, check_divergence, check_perturb, check_score_step

with torch.inference_mode():
    cases = check_perturb(FEW_SIZES) + check_divergence(FEW_CLASSES) + check_score_step()
print(f"{cases} cases agree")
