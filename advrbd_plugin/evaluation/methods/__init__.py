"""The methods of the grid, by name. A new one is a file with a :class:`Method` in it, and a line here."""

from __future__ import annotations

from advrbd_plugin.evaluation.methods import advrbd, baselines, clean_only, toolbox, ulrl, undefended
from advrbd_plugin.evaluation.methods.base import Method

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        undefended.METHOD,
        clean_only.METHOD,
        advrbd.ROBUST,
        advrbd.WITHOUT_RELEARNING,
        advrbd.PAPER,
        ulrl.WITHOUT,
        ulrl.WITH_CLEAN_SAMPLES,
        baselines.CUTMIX,
        baselines.SCANFT,
        *toolbox.TOOLBOX_METHODS,
    )
}
