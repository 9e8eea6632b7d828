"""What the settings of every method share: fields that know their range, presets, YAML, errors that name the key."""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from advrbd_plugin import limits
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.plain import brief, parse_yaml, read_text

if TYPE_CHECKING:
    from typing import Self

PartT = TypeVar("PartT", bound="Settings")

MAX_SEED = 2**63 - 1


def between(low: float, high: float, default: Any) -> Any:
    """A field for a number in [low, high]; whole where the default is an ``int``."""
    return field(default=default, metadata={"low": low, "high": high})


def one_of(*names: str, default: str) -> Any:
    """A field for one of a few words."""
    return field(default=default, metadata={"names": names})


@dataclass(frozen=True)
class Settings:
    """Base of the frozen dataclasses whose fields are made with :func:`between`, :func:`one_of` or a ``bool``.

    ``preset_files`` names the file in ``configs/`` of each preset; the first preset is the default and equals the
    fields' defaults. ``renamed`` maps names that keys had before to those that they have now; the old ones are still
    read, with a one-line warning.
    """

    preset_files: ClassVar[Mapping[str, str]] = {}
    renamed: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            object.__setattr__(self, each.name, _checked(each, getattr(self, each.name)))

    @classmethod
    def preset(cls, name: str) -> Self:
        """A built-in configuration, read from its file in ``configs/``.

        Raises:
            AdvrBDError: no such preset.
        """
        if not isinstance(name, str) or name not in cls.preset_files:
            raise AdvrBDError(f"preset must be one of {', '.join(cls.preset_files)}, got {brief(name)}")
        place = resources.files("advrbd_plugin").joinpath("configs", cls.preset_files[name])
        return cls._from_text(place.read_text(encoding="utf-8"), f"preset {name}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Settings by name, over those of the preset that the key ``preset`` names (the default one without it).

        Raises:
            AdvrBDError: an unknown key, or a value that is not allowed; the line names the key.
        """
        for key in values:
            if not isinstance(key, str):
                raise AdvrBDError(f"unknown key {brief(key)}; every key is the name of a setting")
        base = cls.preset(values["preset"]) if "preset" in values else cls()
        return base.replace(**{key: value for key, value in values.items() if key != "preset"})

    @classmethod
    def require(cls, value: Self | None) -> Self:
        """``value`` if it is of this class, the default for ``None``.

        Raises:
            AdvrBDError: it is anything else; the line says how to make settings of it.
        """
        if value is None:
            return cls()
        if not isinstance(value, cls):
            ways = {dict: "from_mapping(...)", str: "preset(NAME) or from_yaml(FILE)", Path: "from_yaml(FILE)"}
            way = next((way for kind, way in ways.items() if isinstance(value, kind)), "preset(NAME)")
            raise AdvrBDError(
                f"config must be of the class {cls.__name__}, got {brief(value)}: make it by {cls.__name__}.{way}"
            )
        return value

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Settings from a YAML file of ``key: value`` lines.

        Raises:
            AdvrBDError: the file cannot be read, is no such YAML, or holds a key or value that is not allowed.
        """
        return cls._from_text(read_text(path, limit=limits.MAX_YAML_BYTES), str(path))

    @classmethod
    def _from_text(cls, text: str, where: str) -> Self:
        values = parse_yaml(text, where)
        if not isinstance(values, dict):
            raise AdvrBDError(f"{where} must hold 'key: value' lines, got {type(values).__name__}")
        try:
            return cls.from_mapping(values)
        except AdvrBDError as error:
            raise AdvrBDError(f"{where}: {error}") from error

    def replace(self, **changes: Any) -> Self:
        """The same settings but for ``changes``.

        Raises:
            AdvrBDError: as :meth:`from_mapping`.
        """
        names = [each.name for each in dataclasses.fields(self)]
        changes = self._by_current_names(changes)
        for key in changes:
            if key not in names:
                close = difflib.get_close_matches(key[:100], names, n=1)
                hint = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(names)}"
                raise AdvrBDError(f"unknown key {brief(key)}; {hint}")
        return dataclasses.replace(self, **changes)

    @classmethod
    def _by_current_names(cls, changes: Mapping[str, Any]) -> dict[str, Any]:
        for old, new in cls.renamed.items():
            if old in changes and new in changes:
                raise AdvrBDError(f"{old} is the former name of {new}: give only {new}")
            if old in changes:
                warnings.warn(f"the key {old} is now called {new}", UserWarning, stacklevel=3)
        return {cls.renamed.get(key, key): value for key, value in changes.items()}

    def part(self, kind: type[PartT]) -> PartT:
        """The fields that ``kind``, one of this class's bases, declares: the settings of one stage.

        A stage that is handed its part cannot read what does not belong to it, so the part names the stage's result.
        """
        return kind(**{each.name: getattr(self, each.name) for each in dataclasses.fields(kind)})

    def to_mapping(self) -> dict[str, Any]:
        """Every setting by name, ready for YAML and JSON."""
        return dataclasses.asdict(self)


def _checked(each: dataclasses.Field[Any], value: Any) -> Any:
    if "names" in each.metadata:
        names = each.metadata["names"]
        if value not in names:
            raise AdvrBDError(f"{each.name} must be one of {', '.join(names)}, got {brief(value)}")
        return value
    if isinstance(each.default, bool):
        if not isinstance(value, bool):
            raise AdvrBDError(f"{each.name} must be true or false, got {brief(value)}")
        return value
    return _checked_number(each, value)


def _checked_number(each: dataclasses.Field[Any], value: Any) -> float | int:
    kind: type[int] | type[float] = int if isinstance(each.default, int) else float
    low, high = each.metadata["low"], each.metadata["high"]
    number = _number(value)
    # The order matters: a whole number beyond the range may be too large for a float.
    inside = number is not None and low <= number <= high  # NaN never is
    if number is None or not inside or (kind is int and number != int(number)):
        described = "a whole number" if kind is int else "a number"
        raise AdvrBDError(f"{each.name} must be {described} in [{low}, {high}], got {brief(value)}")
    return kind(number)


def _number(value: Any) -> float | int | None:
    """A number, also from text such as 8/255 or 5e-4 (which YAML takes for text); ``None`` for anything else."""
    if isinstance(value, str):
        numerator, slash, denominator = value.partition("/")
        with suppress(ValueError):
            return int(value)  # a large seed is no float
        try:
            return float(numerator) / float(denominator) if slash else float(numerator)
        except (ValueError, ZeroDivisionError, OverflowError):
            return None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
