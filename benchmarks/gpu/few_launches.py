"""A few launches of every op, small enough for compute-sanitizer; check_ops.py starts it."""

import torch
from check_ops import DEVICE, FEW_CLASSES, FEW_SIZES, check_divergence, check_perturb, check_score_step, ops

with torch.inference_mode():
    cases = check_perturb(FEW_SIZES) + check_divergence(FEW_CLASSES) + check_score_step()
print(f"{cases} cases agree, by {ops.backend(torch.empty(0, device=DEVICE))}")
