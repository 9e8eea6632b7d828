"""BackdoorBench's architectures for pixel-scale images, and their weights back in the toolbox's form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from advrbd_plugin.backdoorbench import safe_pickle
from advrbd_plugin.backdoorbench.additions import IMAGENET_NORMALIZATION, install_additions
from advrbd_plugin.backdoorbench.networks import NETWORKS
from advrbd_plugin.backdoorbench.record import AttackRecord
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.classifier import ImageClassifier
from advrbd_plugin.nn.models import Normalize
from advrbd_plugin.plain import brief

# The architectures of the toolbox's own tables; its generate_cls_model has some more.
COMMON_MODELS = ("preactresnet18", "resnet18", "resnet34", "vgg19_bn", "mobilenet_v2", "mobilenet_v3_large")
# Mean and standard deviation of the toolbox's transforms, so that a record can be written without its code.
NORMALIZATION: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "gtsrb": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenette": IMAGENET_NORMALIZATION,
}


class PixelScaleClassifier(nn.Module):
    """A classifier that takes float images (N, C, H, W) in pixel scale [0, 1] and normalises them itself.

    Its ``classifier`` is the toolbox's model for normalised images, which ``defense_result.pt`` holds.
    """

    def __init__(self, classifier: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, num_classes) logits."""
        logits: Tensor = self.classifier(self.normalize(images))
        return logits


def normalization(dataset: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, per channel, of BackdoorBench's transforms for ``dataset``."""
    if dataset in NORMALIZATION:
        return NORMALIZATION[dataset]
    from utils.aggregate_block.dataset_and_transform_generate import get_dataset_normalization

    transform = get_dataset_normalization(dataset)
    return tuple(float(value) for value in transform.mean), tuple(float(value) for value in transform.std)


def model_maker(name: str, *, num_classes: int, image_size: int, dataset: str) -> Callable[[], PixelScaleClassifier]:
    """Return a function that makes a new, untrained ``name`` of the toolbox for pixel-scale input.

    Raises:
        AdvrBDError: the toolbox has no such architecture.
    """
    install_additions()
    from utils.aggregate_block.model_trainer_generate import generate_cls_model

    mean, std = normalization(dataset)

    def make() -> PixelScaleClassifier:
        try:
            classifier = generate_cls_model(name, num_classes, image_size=image_size)
        except SystemError as error:
            raise AdvrBDError(
                f"--model {name} is none of BackdoorBench's architectures; take one of "
                f"{', '.join((*COMMON_MODELS, *NETWORKS))}"
            ) from error
        return PixelScaleClassifier(classifier, mean, std)

    return make


def maker_for(record: AttackRecord, name: str | None = None) -> Callable[[], PixelScaleClassifier]:
    """:func:`model_maker` for a record's images; of the record's own architecture unless another is named."""
    return model_maker(
        name or record.model_name,
        num_classes=record.num_classes,
        image_size=record.img_size[0],
        dataset=record.clean_data,
    )


def attacked_model(record: AttackRecord) -> PixelScaleClassifier:
    """The backdoored model that a record holds, on the CPU, in eval mode.

    Raises:
        AdvrBDError: the toolbox has no such architecture, or the state dict is of another one.
    """
    return wrap_state(record.model, maker_for(record))


def load_defended_model(path: Path, record: AttackRecord, *, trust: bool = False) -> PixelScaleClassifier:
    """The model of a ``defense_result.pt``, on the CPU, in eval mode.

    Args:
        path: the file that a defense left.
        record: what the defense was run on.
        trust: as for :func:`advrbd_plugin.backdoorbench.safe_pickle.load`.

    Raises:
        AdvrBDError: there is no such file, it holds no model, or none of the toolbox's.
    """
    # By the allow-list, unless the user vouches for the maker (--trust-record).
    content = safe_pickle.load(path, trust=trust)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise AdvrBDError(f"{path} holds no model (its training ended in NaN or infinity)")
    state = safe_pickle.state_dict_of(content["model"], f"{path}: model")
    name = content.get("model_name") or record.model_name
    if not isinstance(name, str):
        raise AdvrBDError(f"{path}: model_name must be a text, got {brief(name)}")
    return wrap_state(state, maker_for(record, name))


def wrap_state(state: dict[str, Tensor], make: Callable[[], PixelScaleClassifier]) -> PixelScaleClassifier:
    """Return a new model holding ``state``, a state dict as BackdoorBench saves it.

    Raises:
        AdvrBDError: the state dict is of another architecture.
    """
    model = make()
    own = model.classifier.state_dict()
    state = _without_pruning(state)
    if set(state) != set(own) and len(state) == len(own):
        # Old records have other names for some layers; BackdoorBench itself then matches layers by order.
        state = dict(zip(own, state.values(), strict=True))
    if set(state) != set(own) or any(own[name].shape != value.shape for name, value in state.items()):
        raise AdvrBDError("the saved model is of another architecture than its record says, so it cannot be judged")
    model.classifier.load_state_dict(state)
    return model.eval()


def _without_pruning(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Apply the masks that torch.nn.utils.prune leaves beside the weights (fine-pruning saves them so)."""
    plain = {}
    for name, value in state.items():
        stem = name.removesuffix("_orig")
        mask = state.get(f"{stem}_mask")
        if name.endswith("_orig") and mask is not None:
            plain[stem] = value * mask
        elif not (name.endswith("_mask") and f"{name.removesuffix('_mask')}_orig" in state):
            plain[name] = value
    return plain


def bare_network(model: nn.Module) -> nn.Module:
    """The network inside what a defense of ours returns, and inside torch.compile's wrapper."""
    while True:
        inner = model.network if isinstance(model, ImageClassifier) else getattr(model, "_orig_mod", model)
        if inner is model:
            return model
        model = inner


def toolbox_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict, on the CPU, that works behind BackdoorBench's own (normalising) transforms."""
    inner = bare_network(model)
    if not isinstance(inner, PixelScaleClassifier):
        raise TypeError(f"expected a PixelScaleClassifier, got {type(inner).__name__}")
    return {name: value.detach().cpu().contiguous() for name, value in inner.classifier.state_dict().items()}
