"""The scan with the methods that scikit-learn's outlier detectors and ART's detectors of poison have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.pipeline import AdvrBD
from advrbd_plugin.defense.result import AdvrBDScan
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.description import ModelDescription
from advrbd_plugin.plain import brief
from advrbd_plugin.progress import Progress

if TYPE_CHECKING:
    from typing import Self

_THRESHOLD = 0.5


class PoisonDetector:
    """Finds the poisoned samples of the very set that it is fitted to.

    Which samples are poisoned can be told of a training set only, so :meth:`predict` and :meth:`decision_function`
    speak of the set that :meth:`fit` was given, in its order. Only the first model is trained; for the clean model use
    :class:`~advrbd_plugin.AdvrBD`.

    >>> images = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8)
    >>> labels = torch.arange(40) % 2
    >>> quick = AdvrBDConfig(epochs=1, patch_size=4, num_masks=1, num_patch_sizes=1, mixed_precision=False)
    >>> detector = PoisonDetector(config=quick).fit(images, labels)
    >>> detector.predict().shape, detector.decision_function().dtype
    ((40,), dtype('float32'))
    >>> report, is_clean = detector.detect_poison()
    >>> len(is_clean)
    40

    Args:
        model: the name of a network (:data:`advrbd_plugin.nn.models.MODELS`), a function that makes one, or one whose
            layout is taken.
        config: the settings; the preset ``robust`` by default, its patch at most half the images' side.
        device, work_dir, progress: as for :class:`~advrbd_plugin.AdvrBD`.

    Attributes:
        result_: what the scan found, after :meth:`fit`.
    """

    result_: AdvrBDScan

    def __init__(
        self,
        model: str | nn.Module | Callable[[], nn.Module] = "resnet_narrow",
        config: AdvrBDConfig | None = None,
        *,
        device: str | torch.device | None = None,
        work_dir: str | Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.config = model, config
        self.device, self.work_dir, self.progress = device, work_dir, progress

    def fit(self, data: Any, labels: Any = None) -> Self:
        """Scan a training set.

        Args:
            data: an :class:`~advrbd_plugin.ImageSet`, a PyTorch data set of (picture, label), or pictures as
                :meth:`ImageSet.from_numpy` takes them, with ``labels``.
            labels: of pictures: (N,) whole numbers or names.

        Raises:
            AdvrBDError: as :meth:`AdvrBD.scan`.
        """
        train_set = _as_image_set(data, labels)
        model = self.model
        make = ModelDescription.for_images(model, train_set).build if isinstance(model, str) else model
        config = self.config if self.config is not None else _fitting_config(train_set)
        scanner = AdvrBD(make, config, device=self.device, work_dir=self.work_dir, progress=self.progress)
        self.result_ = scanner.scan(train_set)
        return self

    def predict(self, data: Any = None) -> NDArray[np.int64]:
        """(N,) int64: 1 for a poisoned sample, 0 for any other.

        Args:
            data: nothing, or the set of :meth:`fit`.

        Raises:
            AdvrBDError: nothing was fitted, or ``data`` is another set.
        """
        poisoned: NDArray[np.int64] = self._result(data).verdicts.poisoned.numpy().astype(np.int64)
        return poisoned

    def decision_function(self, data: Any = None) -> NDArray[np.float32]:
        """(N,) float32: how suspicious each sample is; those from 0 on are called poisoned.

        Args:
            data: as for :meth:`predict`.
        """
        scores: NDArray[np.float32] = self._result(data).verdicts.score.numpy() - np.float32(_THRESHOLD)
        return scores

    def fit_predict(self, data: Any, labels: Any = None) -> NDArray[np.int64]:
        """:meth:`fit`, then :meth:`predict`."""
        return self.fit(data, labels).predict()

    def detect_poison(self, **_: Any) -> tuple[dict[str, Any], list[int]]:
        """What ART's ``PoisonFilteringDefence.detect_poison`` gives.

        Returns:
            A report, ready for JSON, and a list with 1 for each clean sample and 0 for each poisoned one. (ART says it
            the other way round from :meth:`predict`.)
        """
        result = self._result(None)
        names = [] if result.samples is None else list(result.samples.class_names)
        report = {
            "poisoned": int(result.verdicts.poisoned.sum()),
            "suspected_classes": [names[label] for label in result.suspected_classes],
            "trained_enough": result.trained_enough,
            "fit": result.fit,
            "classes": {names[each.label]: each.to_json() for each in result.findings},
        }
        return report, (1 - self.predict()).tolist()

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor by name, for ``sklearn.base.clone``."""
        return {name: getattr(self, name) for name in ("model", "config", "device", "work_dir", "progress")}

    def set_params(self, **params: Any) -> Self:
        """Change arguments of the constructor.

        Raises:
            AdvrBDError: there is no such argument.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise AdvrBDError(f"PoisonDetector has no parameter {brief(name)}: it has {', '.join(known)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        model = repr(self.model) if isinstance(self.model, str) else getattr(self.model, "__name__", "own model")
        state = self.result_._in_words() if hasattr(self, "result_") else "not fitted"
        return f"PoisonDetector({model}; {state})"

    def _result(self, data: Any) -> AdvrBDScan:
        if not hasattr(self, "result_"):
            raise AdvrBDError("this PoisonDetector is not fitted: call fit(data) first")
        fitted = self.result_.train_set
        if data is not None and data is not fitted and not _is_set(data, fitted):
            raise AdvrBDError("a PoisonDetector judges only the set that it was fitted to: call fit_predict(data)")
        return self.result_


def _as_image_set(data: Any, labels: Any) -> ImageSet:
    if isinstance(data, ImageSet):
        if labels is not None:
            raise AdvrBDError("an ImageSet has its labels: leave labels out")
        return data
    if labels is not None:
        return ImageSet.from_numpy(data, labels)
    if hasattr(data, "ndim"):
        raise AdvrBDError(f"pictures need labels: fit(pictures, labels), got {brief(data)} alone")
    return ImageSet.from_dataset(data)


def _fitting_config(train_set: ImageSet) -> AdvrBDConfig:
    config = AdvrBDConfig()
    half = max(1, min(train_set.image_size) // 2)
    return config.replace(patch_size=half) if config.patch_size > min(train_set.image_size) else config


def _is_set(data: Any, fitted: ImageSet | None) -> bool:
    """Whether the pictures are those of the set that was fitted."""
    if fitted is None:
        return False
    images = data.images if isinstance(data, ImageSet) else data
    try:
        given = ImageSet.from_numpy(images, fitted.labels).images
    except AdvrBDError:
        return False
    return given.shape == fitted.images.shape and bool(torch.equal(given, fitted.images))
