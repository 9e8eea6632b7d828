"""Which version of the algorithm reached a verdict: results of two versions are not to be compared unawares."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

# Raised whenever the same input would give another result, so that no stored stage or result is taken for a new one.
ALGORITHM_VERSION = 14

_PACKAGE = Path(__file__).resolve().parents[1]
_NETWORK = (
    "training",
    "batches",
    "augmentation",
    "features",
    "early_map",
    "inference",
    "repeatable",
    "trajectory",
    "transfer",
)
_DECIDING = ("defense/*.py", *(f"nn/{name}.py" for name in _NETWORK), "randomness.py")
# What hands on, keeps or foretells a result, and reaches no verdict.
_NOT_DECIDING = {f"defense/{name}.py" for name in ("result", "result_files", "forecast", "version")}
# What a reader needs and a run does not.
_WORDING = {"annotation", "returns", "kind", "type_comment", "type_params", "type_ignores", "ctx"}


@cache
def algorithm_digest() -> str:
    """A fingerprint of the source that decides verdicts, thresholds included: 16 hexadecimal digits.

    Comments, docstrings, annotations, messages of errors and layout play no part; names and constants do. The
    settings of a run are not part of it: a result states them by themselves.
    """
    paths = sorted(path for pattern in _DECIDING for path in _PACKAGE.glob(pattern))
    files = {path.relative_to(_PACKAGE).as_posix(): path for path in paths}
    return source_digest(
        (name, path.read_text(encoding="utf-8")) for name, path in files.items() if name not in _NOT_DECIDING
    )


def source_digest(files: Iterable[tuple[str, str]]) -> str:
    """A fingerprint of Python files given as (name, source), in that order, that is blind to their wording."""
    hasher = hashlib.sha256()
    for name, source in files:
        hasher.update(f"{name}\n{_essence(ast.parse(source))}\n".encode())
    return hasher.hexdigest()[:16]


def _essence(node: object) -> str:
    """A syntax tree as text, alike on every version of Python: fields that are empty are left out."""
    if isinstance(node, list):
        return f"[{','.join(map(_essence, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Raise):
        return "Raise()"
    fields = ",".join(f"{name}={_essence(value)}" for name, value in _fields(node))
    return f"{type(node).__name__}({fields})"


def _fields(node: ast.AST) -> Iterator[tuple[str, object]]:
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list):
            value = [each for each in value if not _is_text(each)]
        if name not in _WORDING and value is not None and value != []:
            yield name, value


def _is_text(node: object) -> bool:
    """Whether a statement is nothing but a string: a docstring, or the note below a constant."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
