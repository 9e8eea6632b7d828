"""What the defense hands back."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

import advrbd_plugin
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense import result_files
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.findings import ClassFinding
from advrbd_plugin.defense.identification import Verdicts
from advrbd_plugin.defense.result_files import Parts, SampleList
from advrbd_plugin.defense.splits import LabelEvidence
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.classifier import ImageClassifier

if TYPE_CHECKING:
    from typing import Self

    import pandas

Rows = list[dict[str, float]]
NO_VERDICT = "unknown"
"""Stands for every sample's verdict in tables where the model was not trained enough for one."""


@dataclass(frozen=True, eq=False, repr=False)
class BackdooredModel:
    """What the first stage gives.

    Attributes:
        model: the model trained on everything, in eval mode, for images in pixel scale [0, 1].
        rows: one an epoch: ``epoch``, ``loss``, ``accuracy``.
        seconds: stage -> time; next to none where the model was found in ``work_dir``.

    Examples:
        >>> import torch
        >>> from advrbd_plugin import AdvrBD, AdvrBDConfig, ImageSet
        >>> images = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8)
        >>> train_set = ImageSet(images, torch.arange(20) % 2, ("cat", "dog"))
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
        >>> quick = AdvrBDConfig(epochs=2, patch_size=4, mixed_precision=False)
        >>> trained = AdvrBD(network, quick, device="cpu").train_backdoored(train_set)
        >>> len(trained.rows), sorted(trained.rows[0])
        (2, ['accuracy', 'epoch', 'loss'])
    """

    model: nn.Module
    rows: Rows
    seconds: dict[str, float]

    def __repr__(self) -> str:
        accuracy = f", accuracy {self.rows[-1]['accuracy']:.1%}" if self.rows else ""
        return f"BackdooredModel({len(self.rows)} epochs{accuracy})"


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class AdvrBDScan:
    """What is known of a set before a clean model is trained.

    Attributes:
        backdoored_model: the model trained on everything, in eval mode.
        verdicts: a verdict and a score for each sample, in the order of the set that was given.
        suspected_classes: classes found to be targets; empty where the set is called clean (always empty with
            ``detect_targets`` switched off).
        findings: one for each class, in their order; empty with ``detect_targets`` switched off.
        evidence: how the samples of each class fall into two clusters; empty with ``detect_targets`` switched off.
        fit: share of the training set that ``backdoored_model`` gives its labels.
        trained_enough: whether that is far enough from chance for a verdict; if not, nothing is suspected.
        curves: stage -> rows, one a step.
        seconds: stage -> time, of this run alone where an earlier one was resumed.
        config: the settings.
        train_set: the set that was given; ``None`` where a saved result was loaded without it.
        samples: its labels, classes, ids and paths.

    Examples:
        >>> import tempfile, torch
        >>> from advrbd_plugin import AdvrBD, AdvrBDConfig, AdvrBDScan, ImageSet, make_model
        >>> images = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8)
        >>> train_set = ImageSet(images, torch.arange(20) % 2, ("cat", "dog"))
        >>> quick = AdvrBDConfig(epochs=1, patch_size=4, mixed_precision=False)
        >>> network = lambda: make_model("resnet_narrow", num_classes=2, in_channels=1, image_size=8)
        >>> scan = AdvrBD(network, quick, device="cpu").scan(train_set)
        >>> scan.table().columns.tolist()
        ['sample_id', 'label', 'verdict', 'probability', 'suggested_label']
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = scan.save(folder)
        ...     AdvrBDScan.load(folder).verdicts.poisoned.shape
        torch.Size([20])
    """

    backdoored_model: ImageClassifier
    verdicts: Verdicts
    suspected_classes: tuple[int, ...]
    findings: tuple[ClassFinding, ...]
    evidence: tuple[LabelEvidence, ...]
    fit: float
    trained_enough: bool
    curves: dict[str, Rows]
    seconds: dict[str, float]
    config: AdvrBDConfig
    train_set: ImageSet | None = None
    samples: SampleList | None = None

    def __post_init__(self) -> None:
        if self.samples is None and self.train_set is not None:
            object.__setattr__(self, "samples", SampleList.of(self.train_set))

    @property
    def accused_labels(self) -> tuple[int, ...]:
        """The former name of ``suspected_classes``."""
        return self.suspected_classes

    def table(self) -> pandas.DataFrame:
        """The verdicts, a row for each sample in the order of the set.

        Returns:
            The columns ``sample_id``, ``path`` (where there is one), ``label``, ``verdict`` (``poisoned``,
            ``mislabelled``, ``uncertain`` or ``clean``; ``unknown`` where the model was not trained enough),
            ``probability`` of poison, ``suggested_label``.

        Raises:
            AdvrBDError: pandas is not installed, or the samples are not known.
        """
        try:
            import pandas
        except ImportError as error:
            raise AdvrBDError("result.table() needs the package pandas: pip install pandas") from error
        samples, verdicts = self._known_samples(), self.verdicts
        names = samples.class_names
        columns: dict[str, Any] = {"sample_id": samples.sample_ids.numpy()}
        if samples.paths is not None:
            columns["path"] = list(samples.paths)
        columns |= {
            "label": [names[label] for label in samples.labels.tolist()],
            "verdict": verdicts.words() if self.trained_enough else NO_VERDICT,
            "probability": verdicts.score.numpy(),
            "suggested_label": [names[label] for label in verdicts.suggested_label.tolist()],
        }
        return pandas.DataFrame(columns)

    def report(
        self,
        folder: str | os.PathLike[str],
        *,
        train_set: ImageSet | None = None,
        data: str | os.PathLike[str] = "a set from Python",
    ) -> dict[str, Any]:
        """Write the page, the tables and the model that ``advrbd defend --out FOLDER`` writes.

        Args:
            folder: new, empty, or with earlier results of this function.
            train_set: the pictures, where the result was loaded without them.
            data: what the page calls the set; the folder that it was read from makes each name on the page open its
                file.

        Returns:
            What stands in ``summary.json``.

        Raises:
            AdvrBDError: the pictures are not known, or the folder cannot be written.
        """
        # By the public name, which the package loads when it is asked for: the core itself knows no report.
        summary: dict[str, Any] = advrbd_plugin.write_report(self, folder, train_set=train_set, data=os.fspath(data))
        return summary

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write everything but the pictures, as safetensors and JSON, for :meth:`load`.

        Raises:
            AdvrBDError: the folder holds something else, or cannot be written.
        """
        result_files.write(folder, type(self).__name__, self._parts())

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        make_model: Callable[[], nn.Module] | None = None,
        train_set: ImageSet | None = None,
    ) -> Self:
        """What :meth:`save` wrote. Nothing in the files is executed.

        Args:
            folder: as given to :meth:`save`.
            make_model: builds the network, where it is your own.
            train_set: the set that the result is about, for :meth:`report`.

        Raises:
            AdvrBDError: a file is missing, damaged or of another kind of result.
        """
        parts = result_files.read(folder, cls.__name__, make_model)
        try:
            return cls(**cls._fields_of(parts), train_set=train_set)
        except (KeyError, TypeError, ValueError) as error:
            raise AdvrBDError(f"{folder} holds a damaged result ({type(error).__name__}: {error})") from error

    def _known_samples(self) -> SampleList:
        if self.samples is None:
            raise AdvrBDError("the samples of this result are not known: it was made without train_set")
        return self.samples

    def _parts(self) -> Parts:
        verdicts = self.verdicts
        tensors = {f"verdicts.{name}": getattr(verdicts, name) for name in vars(verdicts)}
        for each in self.findings:
            if each.pattern is not None:
                tensors[f"pattern.{each.label}"] = each.pattern
        rest = {
            "suspected_classes": list(self.suspected_classes),
            "findings": [each.to_json() for each in self.findings],
            "evidence": [vars(each) for each in self.evidence],
            "fit": self.fit,
            "trained_enough": self.trained_enough,
            "curves": self.curves,
            "seconds": self.seconds,
            "config": self.config.to_mapping(),
        }
        return Parts(tensors, rest, {"backdoored_model": self.backdoored_model}, self._known_samples())

    @classmethod
    def _fields_of(cls, parts: Parts) -> dict[str, Any]:
        rest = parts.rest
        verdicts = {name[9:]: tensor for name, tensor in parts.tensors.items() if name.startswith("verdicts.")}
        patterns = {int(name[8:]): tensor for name, tensor in parts.tensors.items() if name.startswith("pattern.")}
        return {
            "backdoored_model": parts.models["backdoored_model"],
            "verdicts": Verdicts(**verdicts),
            "suspected_classes": tuple(rest["suspected_classes"]),
            "findings": tuple(
                replace(ClassFinding.from_json(each), pattern=patterns.get(each["label"])) for each in rest["findings"]
            ),
            "evidence": tuple(LabelEvidence(**each) for each in rest["evidence"]),
            "fit": rest["fit"],
            "trained_enough": rest["trained_enough"],
            "curves": rest["curves"],
            "seconds": rest["seconds"],
            "config": AdvrBDConfig.from_mapping(rest["config"]),
            "samples": parts.samples,
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._in_words()})"

    def _in_words(self) -> str:
        flagged, count = int(self.verdicts.poisoned.sum()), len(self.verdicts.poisoned)
        if not self.trained_enough:
            return f"no verdict: the model fits only {self.fit:.0%} of its {count:,} training samples"
        names = None if self.samples is None else self.samples.class_names
        suspected = [str(label) if names is None else names[label] for label in self.suspected_classes]
        return f"{flagged:,} of {count:,} samples poisoned, suspected classes: {', '.join(suspected) or 'none'}"


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class AdvrBDResult(AdvrBDScan):
    """What a run found, and the clean model.

    Attributes:
        model: in eval mode; ``model.predict(pictures)`` takes pictures of any size.
        is_retrained: whether ``model`` was trained without the poisoned samples; if not, it is ``backdoored_model``.
        rounds: how many models were examined, the one trained on everything included.
        remark: one sentence: which model is returned and why.

    Examples:
        >>> import torch
        >>> from advrbd_plugin import AdvrBD, AdvrBDConfig, ImageSet
        >>> images = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8)
        >>> train_set = ImageSet(images, torch.arange(20) % 2, ("cat", "dog"))
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
        >>> quick = AdvrBDConfig(epochs=1, patch_size=4, mixed_precision=False)
        >>> result = AdvrBD(network, quick, device="cpu").fit(train_set)
        >>> result.model.predict(torch.zeros(3, 1, 20, 30, dtype=torch.uint8)).shape  # pictures of any size
        torch.Size([3])
    """

    model: ImageClassifier
    is_retrained: bool
    rounds: int
    remark: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if getattr(self.model, "network", self.model) is getattr(self.backdoored_model, "network", None):
            object.__setattr__(self, "model", self.backdoored_model)

    def _parts(self) -> Parts:
        parts = super()._parts()
        parts.rest.update(is_retrained=self.is_retrained, rounds=self.rounds, remark=self.remark)
        if self.model is not self.backdoored_model:
            parts.models["model"] = self.model
        return parts

    @classmethod
    def _fields_of(cls, parts: Parts) -> dict[str, Any]:
        own = {name: parts.rest[name] for name in ("is_retrained", "rounds", "remark")}
        model = parts.models.get("model", parts.models["backdoored_model"])
        return {**super()._fields_of(parts), **own, "model": model}
