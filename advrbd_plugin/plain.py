"""YAML and JSON from strangers: read within the limits, any fault one line, any value shown in a few words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from advrbd_plugin import limits
from advrbd_plugin.errors import AdvrBDError, is_out_of_memory, out_of_memory

_SHOWN = 80


def brief(value: Any) -> str:
    """A value for a message: what a person can read of it, never the whole of something large or nested."""
    if isinstance(value, (str, bytes)):
        shown = repr(value[:_SHOWN])
        return shown if len(value) <= _SHOWN else f"{shown}... ({len(value)} characters)"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)) and len(value) <= 4 and all(_is_plain(item) for item in value):
        inside = ", ".join(brief(item) for item in value)
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    kind = type(value).__name__
    count = f" of {len(value)}" if isinstance(value, (dict, list, tuple, set, frozenset)) else ""
    return f"a {kind}{count}"


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= 20)


def one_reason(error: BaseException, limit: int = 160) -> str:
    """What an exception says, on one line of bounded length."""
    text = str(error) if len(error.args) < 8 else type(error).__name__
    return " ".join(text[: 4 * limit].split())[:limit] or type(error).__name__


def read_text(path: str | os.PathLike[str], *, limit: int) -> str:
    """A UTF-8 text file of at most ``limit`` bytes; a byte order mark is taken off.

    Raises:
        AdvrBDError: it cannot be read, is no UTF-8, no ordinary file, or larger.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise AdvrBDError(f"{path} is no ordinary file")
        with path.open("rb") as handle:
            content = handle.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_reason(error)
        raise AdvrBDError(f"{path} cannot be read: {reason}") from error
    if len(content) > limit:
        raise AdvrBDError(f"{path} is larger than {limit // 1024} KiB, the limit for such a file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AdvrBDError(f"{path} cannot be read: it is no UTF-8 text (byte {error.start})") from error


def parse_json(text: str, where: str) -> Any:
    """The content of JSON text.

    Raises:
        AdvrBDError: it is no JSON, or nested too deep.
        OutOfMemory: it does not fit in memory.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise AdvrBDError(f"{where} cannot be read as JSON: it is nested too deep") from None
    except ValueError as error:
        raise AdvrBDError(f"{where} cannot be read as JSON: {one_reason(error)}") from error
    except MemoryError as error:
        raise out_of_memory(f"reading {where}") from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file; raises as :func:`read_text` and :func:`parse_json` do."""
    return parse_json(read_text(path, limit=limits.MAX_JSON_BYTES), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The content of YAML text without aliases: a few of them can stand for more than any memory holds.

    Raises:
        AdvrBDError: it is no YAML of plain data, is too large or nested too deep, or uses aliases.
        OutOfMemory: it does not fit in memory.
    """
    import yaml

    if len(text) > limits.MAX_YAML_BYTES:
        raise AdvrBDError(f"{where} is larger than {limits.MAX_YAML_BYTES // 1024} KiB, the limit for such a file")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise AdvrBDError(f"{where} uses the alias *{str(event.anchor)[:_SHOWN]}: write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > limits.MAX_YAML_DEPTH:
                raise AdvrBDError(f"{where} is not valid YAML for settings: it is nested too deep")
        return yaml.safe_load(text)
    except AdvrBDError:
        raise
    except Exception as error:  # PyYAML's constructors raise whatever int(), float() and datetime() do
        if is_out_of_memory(error):
            raise out_of_memory(f"reading {where}") from error
        raise AdvrBDError(f"{where} is not valid YAML: {one_reason(error)}") from error


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """The content of a YAML file; raises as :func:`read_text` and :func:`parse_yaml` do."""
    return parse_yaml(read_text(path, limit=limits.MAX_YAML_BYTES), str(path))
