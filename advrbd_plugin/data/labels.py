"""Labels as tables and arrays give them, numbers or names, to the numbers and class names of an image set."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.plain import brief

MAX_CLASSES = 65_536  # a larger number in a file is no label, and a list of so many names would fill the memory


def number_labels(
    values: Sequence[int | str],
    place: Callable[[int], str],
    *,
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels by number, and the classes in their order.

    Args:
        values: one for each picture: a number, or a name.
        place: says where the value of a position stands, for errors.
        names: the names of the labels 0, 1, ..., where the data itself says them. Without them each distinct value is a
            class of that name, in the order of the numbers or of the alphabet.
        class_names: the classes of a model that is to be judged, matched by name; some may be missing.

    Returns:
        ((N,) int64, names).

    Raises:
        AdvrBDError: a label is out of range, or of a class that is not known; or there is one class only, or too many.
    """
    if names is not None:
        values = [_name_of(value, names, place, index) for index, value in enumerate(values)]
    found = _sorted_names({str(value) for value in values})
    if len(found) > MAX_CLASSES:
        raise AdvrBDError(f"{place(0)}: there are {len(found)} different labels, more than {MAX_CLASSES} classes")
    known = tuple(class_names if class_names is not None else names if names is not None else found)
    if class_names is None and len(known) < 2:
        raise AdvrBDError(f"{place(0)}: all labels are {brief(known[0])}: a classifier needs at least two classes")
    label_of = {name: label for label, name in enumerate(known)}
    unknown = next((index for index, value in enumerate(values) if str(value) not in label_of), None)
    if unknown is not None:
        raise AdvrBDError(
            f"{place(unknown)}: the class {brief(str(values[unknown]))} is not known: the classes are "
            f"{', '.join(name[:80] for name in known[:20])}"
        )
    return torch.tensor([label_of[str(value)] for value in values], dtype=torch.int64), known


def _name_of(value: int | str, names: Sequence[str], place: Callable[[int], str], index: int) -> str:
    if isinstance(value, str):
        return value
    if not 0 <= value < len(names):
        raise AdvrBDError(
            f"{place(index)}: the label {brief(value)} is out of range: it must be in [0, {len(names) - 1}]"
        )
    return names[value]


def _sorted_names(names: set[str]) -> list[str]:
    """By number where all are numbers, else by the alphabet."""
    if all(name.removeprefix("-").isascii() and name.removeprefix("-").isdigit() and len(name) < 20 for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def check_distinct(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Class names that a file declares.

    Raises:
        AdvrBDError: they are no distinct texts, fewer than two, or too many.
    """
    good = all(isinstance(name, str) and len(name) <= 1000 for name in names) and len(set(names)) == len(names)
    if not good or not 2 <= len(names) <= MAX_CLASSES:
        raise AdvrBDError(f"{where} must be at least two distinct class names, got {brief(list(names))}")
    return tuple(names)
