"""Networks and a dataset that BackdoorBench lacks, added to its own functions in this process alone.

``generate_cls_model`` learns the networks of :mod:`advrbd_plugin.nn.models`. The dataset functions learn
``imagenette``, and give ``mnist`` as the toolbox's networks take it (:mod:`advrbd_plugin.backdoorbench.mnist`). So the
toolbox's attacks, defenses and detections take them by name. No file of the checkout changes: the modules are extended
right after their import, by whichever script.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from advrbd_plugin.backdoorbench import mnist
from advrbd_plugin.errors import AdvrBDError

IMAGENETTE_CLASSES = 10
IMAGENET_NORMALIZATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_IMAGENETTE_FOLDERS = {"imagenette2-160": "160px", "imagenette2-320": "320px", "imagenette2": "full"}


def install_additions() -> None:
    """Extend the toolbox's modules: those that are imported now, the others when they are."""
    if not any(isinstance(finder, _ExtendingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ExtendingFinder())
        for name, extend in _EXTENSIONS.items():
            if name in sys.modules:
                extend(sys.modules[name])


class _ExtendingFinder(MetaPathFinder):
    """Finds the toolbox's modules as Python does, and extends them after they ran."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        extend = _EXTENSIONS.get(fullname)
        spec = PathFinder.find_spec(fullname, path) if extend is not None else None
        if extend is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_extend(module: ModuleType) -> None:
            execute(module)
            extend(module)

        spec.loader.exec_module = execute_and_extend  # type: ignore[method-assign]
        return spec


def _extend_models(module: Any) -> None:
    from advrbd_plugin.backdoorbench.networks import NETWORKS, make_network

    original = module.generate_cls_model

    @functools.wraps(original)
    def generate_cls_model(model_name: str, num_classes: int = 10, image_size: int = 32, **options: Any) -> Any:
        if model_name in NETWORKS:
            return make_network(model_name, num_classes)
        return original(model_name, num_classes, image_size, **options)

    module.generate_cls_model = generate_cls_model


def _extend_datasets(module: Any) -> None:
    from torchvision.transforms import Normalize

    module.get_num_classes = _with_answers(module.get_num_classes, imagenette=lambda: IMAGENETTE_CLASSES)
    module.get_input_shape = _with_answers(
        module.get_input_shape, imagenette=lambda: (*imagenette_size(), 3), mnist=lambda: mnist.SHAPE
    )
    module.get_dataset_normalization = _with_answers(
        module.get_dataset_normalization,
        imagenette=lambda: Normalize(*map(list, IMAGENET_NORMALIZATION)),
        mnist=lambda: Normalize(list(mnist.MEAN), list(mnist.STD)),
    )
    original = module.dataset_and_transform_generate

    @functools.wraps(original)
    def dataset_and_transform_generate(args: Any) -> tuple[Any, ...]:
        if args.dataset == "mnist":
            return tuple(mnist.InColour(part) if hasattr(part, "targets") else part for part in original(args))
        if args.dataset != "imagenette":
            parts: tuple[Any, ...] = original(args)
            return parts
        found = []
        for train in (True, False):
            transform = module.get_transform(args.dataset, *args.img_size[:2], train=train)
            found += [imagenette_part(Path(args.dataset_path), "train" if train else "val"), transform, None]
        return tuple(found)

    module.dataset_and_transform_generate = dataset_and_transform_generate


def _extend_normalization(module: Any) -> None:
    """Extend a module that normalises batches itself (D-BR and D-ST)."""
    from torchvision.transforms.functional import normalize

    original = module.normalization

    @functools.wraps(original)
    def normalization(opt: Any, inputs: Any) -> Any:
        return normalize(inputs, *IMAGENET_NORMALIZATION) if opt.dataset == "imagenette" else original(opt, inputs)

    module.normalization = normalization


def _with_answers(original: Callable[[str], Any], **answers: Callable[[], Any]) -> Callable[[str], Any]:
    @functools.wraps(original)
    def known(dataset_name: str) -> Any:
        return answers[dataset_name]() if dataset_name in answers else original(dataset_name)

    return known


def imagenette_size() -> tuple[int, int]:
    """(height, width) of Imagenette's images, as everywhere in this package."""
    from advrbd_plugin.data.datasets import DATASETS

    return DATASETS["imagenette"].image_size


def imagenette_part(root: Path, part: str) -> Any:
    """Open ``train`` or ``val`` of torchvision's Imagenette in ``root``, in the smallest size that exists.

    As in other torchvision datasets, ``classes`` has one name a class, and ``targets`` are the labels.

    Raises:
        AdvrBDError: ``root`` holds no Imagenette.
    """
    from torchvision.datasets import Imagenette

    size = next((size for folder, size in _IMAGENETTE_FOLDERS.items() if (root / folder / part).is_dir()), None)
    if size is None:
        raise AdvrBDError(
            f"{root} holds no Imagenette: unpack imagenette2-160.tgz there, so that it holds imagenette2-160/{part}"
        )
    found = Imagenette(root, split=part, size=size)
    found.classes = [names[0] for names in found.classes]
    found.targets = [label for _, label in found._samples]
    return found


_EXTENSIONS: dict[str, Callable[[ModuleType], None]] = {
    "utils.aggregate_block.model_trainer_generate": _extend_models,
    "utils.aggregate_block.dataset_and_transform_generate": _extend_datasets,
    "utils.defense_utils.dbr.dataloader_bd": _extend_normalization,
    "utils.defense_utils.dst.dataloader_bd": _extend_normalization,
}
