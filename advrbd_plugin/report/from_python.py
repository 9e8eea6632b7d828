"""The report of a result that was made from Python."""

from __future__ import annotations

import os
from typing import Any

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.result import AdvrBDScan
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.report.output import OutputFolder
from advrbd_plugin.report.record import RunRecord


def write_report(
    result: AdvrBDScan,
    folder: str | os.PathLike[str],
    *,
    train_set: ImageSet | None = None,
    data: str = "a set from Python",
) -> dict[str, Any]:
    """Write what ``advrbd defend --out FOLDER`` writes: page, verdicts, curves, model and summary.

    Args:
        result: of :meth:`AdvrBD.fit` or :meth:`AdvrBD.scan`.
        folder: new, empty, or with earlier results of advrbd, which are replaced.
        train_set: the pictures, where the result was loaded without them.
        data: what the page calls the set; where it is the folder that the pictures were read from, the page's names
            open their files.

    Returns:
        What stands in ``summary.json``.

    Raises:
        AdvrBDError: the pictures are not known or of another set, or the folder cannot be written.

    Examples:
        >>> import tempfile, torch
        >>> from advrbd_plugin import AdvrBD, AdvrBDConfig, make_model
        >>> images = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8)
        >>> train_set = ImageSet(images, torch.arange(20) % 2, ("cat", "dog"))
        >>> quick = AdvrBDConfig(epochs=1, patch_size=4, mixed_precision=False)
        >>> network = lambda: make_model("resnet_narrow", num_classes=2, image_size=8)
        >>> scan = AdvrBD(network, quick, device="cpu").scan(train_set)
        >>> with tempfile.TemporaryDirectory() as folder:  # or scan.report(folder)
        ...     write_report(scan, folder)["images"]
        20
    """
    images = result.train_set if train_set is None else train_set
    if images is None:
        raise AdvrBDError("a result that was loaded has no pictures: result.report(folder, train_set=images)")
    if len(images) != len(result.verdicts.poisoned):
        raise AdvrBDError(f"train_set has {len(images)} pictures, the result is of {len(result.verdicts.poisoned)}")
    description = result.backdoored_model.description
    with OutputFolder(folder, overwrite=True) as out:
        return out.write(RunRecord(data, images, result, description, origin="python"))
