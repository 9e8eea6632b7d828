"""What a run is: its command, its settings and the very images, so that a finished one is told from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from advrbd_plugin import __version__
from advrbd_plugin.cache import digest
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.files import finite
from advrbd_plugin.report.text import one_line

_NAMED_DIFFERENCES = 3
_GOES_ON_WITH = {"scan": "defend"}  # whose first stages are its own


@dataclass(frozen=True)
class RunIdentity:
    """All that decides a run's results.

    Attributes:
        command: such as ``defend``.
        data: where the images come from, as the user named it; it decides nothing by itself.
        contents: a digest of the images as they were read (see :func:`contents_of`).
        options: the command's options that decide the result, ready for JSON.
        config: the method's settings, ready for JSON.
    """

    command: str
    data: str
    contents: str
    options: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """The same for two runs exactly if they give the same results."""
        return digest(self.command, self.contents, finite(dict(self.options)), finite(dict(self.config)), __version__)

    def to_mapping(self) -> dict[str, Any]:
        """What ``summary.json`` says under ``run``."""
        return {
            "command": self.command,
            "options": finite(dict(self.options)),
            "contents": self.contents,
            "fingerprint": self.fingerprint,
        }

    def is_of(self, summary: Mapping[str, Any]) -> bool:
        """Whether a finished run's summary is of this run."""
        return _mapping(summary.get("run")).get("fingerprint") == self.fingerprint

    @property
    def is_followed(self) -> bool:
        """Whether another command goes on from this one's stages, which are therefore kept."""
        return self.command in _GOES_ON_WITH

    def goes_on_from(self, summary: Mapping[str, Any]) -> bool:
        """Whether a finished scan's summary is of this defense's first stages."""
        return any(
            command == self.command and replace(self, command=earlier).is_of(summary)
            for earlier, command in _GOES_ON_WITH.items()
        )

    def is_answered_by(self, summary: Mapping[str, Any]) -> bool:
        """Whether a finished run's summary is of this run, or of a defense that holds all of this scan."""
        later = _GOES_ON_WITH.get(self.command, self.command)
        return self.is_of(summary) or replace(self, command=later).is_of(summary)

    def shares_stages_with(self, command: Any) -> bool:
        """Whether a run of ``command`` on the same data stores stages that this one can use."""
        return _GOES_ON_WITH.get(str(command), command) == _GOES_ON_WITH.get(self.command, self.command)

    def difference(self, summary: Mapping[str, Any]) -> str:
        """How a finished run differs from this one, in words that follow "the finished results of"."""
        run = _mapping(summary.get("run"))
        if not self.shares_stages_with(run.get("command")):
            return f"`advrbd {one_line(str(run.get('command', 'of an earlier version')))[:40]}`"
        mine = finite({**self.options, **self.config})
        theirs = {**_mapping(run.get("options")), **_mapping(summary.get("config"))}
        changed = [name for name in mine if name in theirs and theirs[name] != mine[name]]
        if changed:
            first = changed[:_NAMED_DIFFERENCES]
            named = "; ".join(f"{name} was {_brief(theirs[name])}, now {_brief(mine[name])}" for name in first)
            more = f"; and {len(changed) - len(first)} more" if len(changed) > len(first) else ""
            return f"other settings ({named}{more})"
        if run.get("contents") != self.contents:
            data, mine = one_line(str(summary.get("data"))), one_line(self.data)
            return f"other data ({data}, now {mine})" if data != mine else f"other data ({data} was changed since)"
        return "another version of advrbd"


def contents_of(*image_sets: ImageSet, model: nn.Module | None = None) -> str:
    """A digest of images, labels, class names and paths, and of a model's weights where a run is given one."""
    parts: list[Any] = []
    for images in image_sets:
        parts += [images.images, images.labels, images.sample_ids, images.class_names, images.paths]
    if model is not None:
        for name, tensor in model.state_dict().items():
            parts += [name, tensor]
    return digest(*parts)


def _mapping(value: Any) -> Mapping[str, Any]:
    """A part of a summary, which may have been edited."""
    return value if isinstance(value, Mapping) else {}


def _brief(value: Any) -> str:
    text = "not set" if value is None else one_line(str(value))
    return text if len(text) <= 60 else text[:59] + "\u2026"
