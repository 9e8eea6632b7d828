"""What a patch is: one change of this process that a script of the toolbox needs on today's libraries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """One change of this process.

    Attributes:
        name: as the command line and the tests call it.
        broken_by: the library and version that broke the toolbox's code, or why it never ran.
        symptom: what fails without the patch.
        apply: applies it; a second call changes nothing.
        needed: whether this installation needs it.
        importer: the module that a script must import to need it; "" for every script.
    """

    name: str
    broken_by: str
    symptom: str
    apply: Callable[[], None]
    needed: Callable[[], bool] = lambda: True
    importer: str = ""
