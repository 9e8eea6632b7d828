"""The poisoned training set of a record, for commands outside the toolbox; its ground truth is left behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from advrbd_plugin.backdoorbench.compat import apply_patches_for_modules, use_local_data
from advrbd_plugin.backdoorbench.datasets import load_result, training_set
from advrbd_plugin.backdoorbench.record import read_record
from advrbd_plugin.backdoorbench.requirements import explained_requirements
from advrbd_plugin.data.arrays import resized
from advrbd_plugin.data.fitting import DEFAULT_FIT
from advrbd_plugin.data.labels import number_labels
from advrbd_plugin.data.originals import hand_over
from advrbd_plugin.data.reading import LoadedImages, Visit, describe_sizes
from advrbd_plugin.data.selection import draw_images


@explained_requirements()
def load_poisoned_set(
    folder: Path,
    *,
    root: str | None = None,
    image_size: tuple[int, int] | None = None,
    fit: str = DEFAULT_FIT,
    class_names: Sequence[str] | None = None,
    samples: int | None = None,
    seed: int = 0,
    visit: Visit | None = None,
) -> LoadedImages:
    """Read the poisoned training set of ``folder``; the checkout's root must be on ``sys.path``.

    Args:
        folder: ``record/NAME``.
        root: the folder of the clean data sets, where it is not the one that the attack had (``--dataset_path``).
        image_size, fit, class_names, samples, seed, visit: as :func:`advrbd_plugin.data.load_data`; the size is the
            attack's own by default.

    Raises:
        AdvrBDError: the record is damaged, holds no training set, or its clean data set is missing.
    """
    apply_patches_for_modules()
    use_local_data()  # nothing is downloaded
    record = read_record(folder)
    record.need_training_set()
    images, _truth = training_set(load_result(record, root), record)
    labels, known = images.labels, images.class_names
    if class_names is not None:
        values = [images.class_names[label] for label in images.labels.tolist()]
        labels, known = number_labels(values, lambda index: f"{folder}, sample {index}", class_names=class_names)
    images = dataclasses.replace(images, labels=labels, class_names=known)
    if visit is not None:
        return hand_over(visit, str(folder), images)
    images = draw_images(images, samples, seed=seed)
    size = image_size or images.image_size
    notes = describe_sizes([images.image_size] * len(images), size, fit)
    return LoadedImages(dataclasses.replace(images, images=resized(images.images, size, fit)), (), tuple(notes))
