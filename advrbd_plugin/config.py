"""Every setting of AdvrBD, validated once."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.training import TrainingOptions

PRESETS = ("robust", "paper")
MAX_SEED = 2**63 - 1


def _between(low: float, high: float, default: Any) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


def _one_of(*names: str, default: str) -> Any:
    return field(default=default, metadata={"names": names})


@dataclass(frozen=True)
class AdvrBDConfig:
    """The settings of one run; the defaults are the preset ``robust``. docs/choices.md gives the reason of each.

    Attributes:
        seed: everything random derives from (seed, sample id).
        epochs, batch_size, learning_rate, momentum, weight_decay, crop_padding, flip, mixed_precision: training, see
            :class:`advrbd_plugin.training.TrainingOptions`.
        epsilon: perturbation step in pixel scale [0, 1].
        patch_size: side of the perturbed square in pixels; at most the image's side.
        num_masks: patches per sample (the paper: 1).
        reduction: how a sample's KL divergences over the masks become one score.
        alpha: share of the samples that Algorithm 1 takes as clean, and that each round of Algorithm 2 adds.
        rounds: rounds of Algorithm 2 (enhancement ``unlearn``).
        accuse_labels: ask each label whether it is attacked, and only sort the samples of those that are. Switched
            off, every sample is judged as the paper does it.
        accusation_gain: a label is accused where two Gaussians explain its samples better than one by this much (BIC
            per sample, in nats times two).
        conviction_gain: below this gain an accusation is withdrawn if the clean model, which was trained without the
            label's suspicious samples, gives most of them that label all the same.
        enhancement: ``trigger`` teaches the backdoored model to keep nothing but the trigger of the accused labels;
            ``unlearn`` is Algorithm 2; ``none`` leaves it out.
        enhancement_steps: batches of the enhancement ``trigger``.
        enhancement_learning_rate: of either enhancement.
        unlearn_loss: what is minimised on D_c in ``unlearn``: ``gradient_ascent`` (minus the cross entropy, equation
            4) or ``one_minus_probability`` (-log(1 - p_label)).
        unlearn_weight: its weight against the cross entropy on D_u.
        gradient_clip: largest gradient norm of the enhancement.
        doubt: samples of an accused label whose trigger log-odds exceed minus this are not called poisoned, but not
            trained on either.
        relearn_epochs, relearn_learning_rate: training on everything after relabelling; 0 epochs leaves it out.
    """

    seed: int = _between(0, MAX_SEED, 0)
    epochs: int = _between(1, 10_000, 20)
    batch_size: int = _between(2, 65_536, 64)
    learning_rate: float = _between(1e-8, 100.0, 0.1)
    momentum: float = _between(0.0, 0.9999, 0.9)
    weight_decay: float = _between(0.0, 1.0, 5e-4)
    crop_padding: int = _between(0, 64, 4)
    flip: bool = True
    mixed_precision: bool = True
    epsilon: float = _between(0.0, 1.0, 32 / 255)
    patch_size: int = _between(1, 4096, 8)
    num_masks: int = _between(1, 4096, 4)
    reduction: str = _one_of("median", "geometric_mean", "mean", default="median")
    alpha: float = _between(0.001, 0.9, 0.05)
    rounds: int = _between(1, 100, 10)
    accuse_labels: bool = True
    accusation_gain: float = _between(0.0, 100.0, 0.45)
    conviction_gain: float = _between(0.0, 100.0, 0.8)
    enhancement: str = _one_of("trigger", "unlearn", "none", default="trigger")
    enhancement_steps: int = _between(1, 1_000_000, 200)
    enhancement_learning_rate: float = _between(1e-8, 100.0, 0.02)
    unlearn_loss: str = _one_of("one_minus_probability", "gradient_ascent", default="one_minus_probability")
    unlearn_weight: float = _between(0.0, 1000.0, 1.0)
    gradient_clip: float = _between(1e-6, 1e6, 5.0)
    doubt: float = _between(0.0, 100.0, 3.0)
    relearn_epochs: int = _between(0, 10_000, 6)
    relearn_learning_rate: float = _between(1e-8, 100.0, 0.05)

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            object.__setattr__(self, each.name, _checked(each, getattr(self, each.name)))
        if self.accuse_labels and self.enhancement == "unlearn":
            raise AdvrBDError(
                "enhancement must be trigger or none where accuse_labels is true, got 'unlearn'; set accuse_labels to "
                "false for the paper's Algorithm 2"
            )
        if not self.accuse_labels and self.enhancement != "unlearn":
            raise AdvrBDError(f"enhancement must be unlearn where accuse_labels is false, got {self.enhancement!r}")

    @classmethod
    def preset(cls, name: str) -> AdvrBDConfig:
        """``robust`` (the default) or ``paper``, read from ``configs/NAME.yaml``.

        Raises:
            AdvrBDError: no such preset.
        """
        if name not in PRESETS:
            raise AdvrBDError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
        text = resources.files("advrbd_plugin").joinpath("configs", f"{name}.yaml").read_text(encoding="utf-8")
        return cls._from_text(text, f"preset {name}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> AdvrBDConfig:
        """Settings by name, over those of the preset that the key ``preset`` names (``robust`` without it).

        Raises:
            AdvrBDError: an unknown key, or a value that is not allowed; the line names the key.
        """
        base = cls.preset(values["preset"]) if "preset" in values else cls()
        return base.replace(**{key: value for key, value in values.items() if key != "preset"})

    @classmethod
    def from_yaml(cls, path: str | Path) -> AdvrBDConfig:
        """Settings from a YAML file of ``key: value`` lines.

        Raises:
            AdvrBDError: the file cannot be read, is no such YAML, or holds a key or value that is not allowed.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise AdvrBDError(f"cannot read the configuration {path}: {error}") from error
        return cls._from_text(text, str(path))

    @classmethod
    def _from_text(cls, text: str, where: str) -> AdvrBDConfig:
        import yaml

        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise AdvrBDError(f"{where} is not valid YAML: {reason}") from error
        if not isinstance(values, dict):
            raise AdvrBDError(f"{where} must hold 'key: value' lines, got {type(values).__name__}")
        try:
            return cls.from_mapping(values)
        except AdvrBDError as error:
            raise AdvrBDError(f"{where}: {error}") from error

    def replace(self, **changes: Any) -> AdvrBDConfig:
        """The same settings but for ``changes``.

        Raises:
            AdvrBDError: as :meth:`from_mapping`.
        """
        names = [each.name for each in dataclasses.fields(self)]
        for key in changes:
            if key not in names:
                close = difflib.get_close_matches(str(key), names, n=1)
                hint = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(names)}"
                raise AdvrBDError(f"unknown key {key!r}; {hint}")
        return dataclasses.replace(self, **changes)

    def to_mapping(self) -> dict[str, Any]:
        """Every setting by name, ready for YAML and JSON."""
        return dataclasses.asdict(self)

    def training(self, seed: int, **changes: Any) -> TrainingOptions:
        """The recipe of one training whose random numbers come from ``seed``."""
        options = TrainingOptions(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            crop_padding=self.crop_padding,
            flip=self.flip,
            mixed_precision=self.mixed_precision,
            seed=seed,
        )
        return dataclasses.replace(options, **changes)


def _checked(each: dataclasses.Field[Any], value: Any) -> Any:
    if "names" in each.metadata:
        names = each.metadata["names"]
        if value not in names:
            raise AdvrBDError(f"{each.name} must be one of {', '.join(names)}, got {value!r}")
        return value
    if isinstance(each.default, bool):
        if not isinstance(value, bool):
            raise AdvrBDError(f"{each.name} must be true or false, got {value!r}")
        return value
    return _checked_number(each, value)


def _checked_number(each: dataclasses.Field[Any], value: Any) -> float | int:
    kind = type(each.default)
    low, high = each.metadata["low"], each.metadata["high"]
    number = _number(value)
    whole = number is not None and math.isfinite(number) and (kind is float or float(number).is_integer())
    if not whole or not low <= number <= high:
        described = "a whole number" if kind is int else "a number"
        raise AdvrBDError(f"{each.name} must be {described} in [{low}, {high}], got {value!r}")
    return kind(number)


def _number(value: Any) -> float | int | None:
    """A number, also from text such as 8/255 or 5e-4 (which YAML takes for text); ``None`` for anything else."""
    if isinstance(value, str):
        numerator, slash, denominator = value.partition("/")
        try:
            return float(numerator) / float(denominator) if slash else float(numerator)
        except (ValueError, ZeroDivisionError):
            return None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
