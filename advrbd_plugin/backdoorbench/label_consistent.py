"""The images of the label-consistent attack: adversarial examples of the training images by PGD.

Its authors (Turner et al., arXiv 1912.02771) use an adversarially trained network, and the links to such networks in
the toolbox's ``resource/label-consistent`` are dead. Here the clean model of ``attack/prototype.py`` replaces it, so
the attack can be weaker than the published one.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin.backdoorbench import safe_pickle
from advrbd_plugin.backdoorbench.classifiers import model_maker, wrap_state
from advrbd_plugin.backdoorbench.compat import apply_patches_for_modules, use_local_data
from advrbd_plugin.backdoorbench.datasets import as_image_set
from advrbd_plugin.backdoorbench.requirements import explained_requirements
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import write_bytes
from advrbd_plugin.plain import brief

MODEL_FILE, SETTINGS_FILE = "clean_model.pth", "info.pickle"
_NEEDED: dict[str, type | tuple[type, ...]] = {
    "dataset": str,
    "dataset_path": str,
    "model": str,
    "num_classes": int,
    "img_size": (list, tuple),
}


def _check_settings(path: Path, settings: Any) -> None:
    """What attack/prototype.py wrote down of itself, each of the type that it must have."""
    if not isinstance(settings, dict):
        raise AdvrBDError(f"{path} holds {brief(settings)}, no dictionary: it is not from attack/prototype.py")
    for key, kind in _NEEDED.items():
        value = settings.get(key)
        if value is None:
            raise AdvrBDError(f"{path} lacks {key}: it is not from attack/prototype.py")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise AdvrBDError(f"{path}: {key} cannot be {brief(value)}: it is not from attack/prototype.py")
    size = settings["img_size"]
    if len(size) not in (2, 3) or not all(isinstance(side, int) and 1 <= side <= 4096 for side in size):
        raise AdvrBDError(f"{path}: img_size cannot be {brief(size)}: it is not from attack/prototype.py")
    if not 1 <= settings["num_classes"] <= 65_536:
        raise AdvrBDError(f"{path}: num_classes cannot be {brief(settings['num_classes'])}")


def push_away(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    batch_size: int = 128,
) -> Tensor:
    """Untargeted projected gradient descent (Madry et al., arXiv 1706.06083), started at the images.

    Args:
        model: from float images in pixel scale [0, 1] to logits, in eval mode.
        images, labels: (N, C, H, W) uint8 and (N,) int64.
        epsilon, step_size: largest change of a pixel in all and in one step, pixel scale [0, 1].
        steps: gradient steps.
        batch_size: images processed at once.

    Returns:
        (N, C, H, W) uint8.
    """
    moved = [
        _push_batch(model, part.float() / 255, label, epsilon, step_size, steps)
        for part, label in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)
    ]
    return (torch.cat(moved) * 255).round().to(torch.uint8)


def _push_batch(
    model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, step_size: float, steps: int
) -> Tensor:
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    moved = images
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(model(moved), labels), moved)
        moved = (moved.detach() + step_size * gradient.sign()).clamp(low, high)
    return moved.detach()


@explained_requirements()
def write_images(
    checkout: Path,
    prototype: str,
    *,
    epsilon: float = 8 / 255,
    step_size: float = 1.5 / 255,
    steps: int = 100,
    local_data: bool = False,
    trust_record: bool = False,
) -> tuple[Path, str]:
    """Write the adversarial training images as ``attack/lc.py`` reads them: one (N, H, W, C) uint8 array.

    Args:
        prototype: the record of ``attack/prototype.py``; the file goes there.
        epsilon, step_size, steps: as for :func:`push_away`; the defaults are the toolbox's.
        local_data: read the dataset files without download or checksum.
        trust_record: unpickle whatever the record holds, which can run any code that its maker put there.

    Returns:
        The file, and the name of the dataset.

    Raises:
        AdvrBDError: there is no such record, it holds a type outside the allow-list, its dataset is missing, or a
            package of the toolbox is not installed.
    """
    if not (0 < epsilon <= 1 and 0 < step_size <= 1 and steps > 0):
        raise AdvrBDError(
            f"--epsilon and --step_size must be in (0, 255] and --steps at least 1, got {255 * epsilon:g}, "
            f"{255 * step_size:g} and {steps}"
        )
    folder = checkout / "record" / prototype
    for name in (MODEL_FILE, SETTINGS_FILE):
        if not (folder / name).is_file():
            raise AdvrBDError(
                f"{folder} holds no {name}: train a clean model first, with "
                f"`advrbd backdoorbench run attack/prototype.py --save_folder_name {prototype}`"
            )
    # By the allow-list, unless the user vouches for the maker (--trust-record).
    settings = safe_pickle.load(folder / SETTINGS_FILE, trust=trust_record)
    _check_settings(folder / SETTINGS_FILE, settings)
    root = checkout / settings["dataset_path"]
    if not root.is_dir():
        raise AdvrBDError(f"{folder} was trained on {root}, which is not there")
    size = tuple(settings["img_size"])
    if os.fspath(checkout) not in sys.path:
        sys.path.insert(0, os.fspath(checkout))
    sys.dont_write_bytecode = True  # the checkout has no .gitignore
    apply_patches_for_modules()
    if local_data:
        use_local_data()
    make = model_maker(
        settings["model"], num_classes=settings["num_classes"], image_size=size[0], dataset=settings["dataset"]
    )
    # By the allow-list, unless the user vouches for the maker (--trust-record).
    state = safe_pickle.load(folder / MODEL_FILE, trust=trust_record)
    if not trust_record:
        state = safe_pickle.state_dict_of(state, str(folder / MODEL_FILE))
    model = wrap_state(state, make)
    from utils.aggregate_block.dataset_and_transform_generate import dataset_and_transform_generate

    wanted = argparse.Namespace(dataset=settings["dataset"], dataset_path=os.fspath(root), img_size=size)
    train_set = as_image_set(dataset_and_transform_generate(wanted)[0], size, settings["num_classes"])
    pushed = push_away(model, train_set.images, train_set.labels, epsilon=epsilon, step_size=step_size, steps=steps)
    content = io.BytesIO()
    numpy.save(content, pushed.permute(0, 2, 3, 1).contiguous().numpy())
    path = folder / "label_consistent_train.npy"
    write_bytes(path, content.getvalue())
    return path, settings["dataset"]
