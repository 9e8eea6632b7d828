"""An ImageFolder (one sub-folder a class), as a directory or a zip of one, to an :class:`ImageSet`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch

from advrbd_plugin.data.listings import imagenette_names
from advrbd_plugin.data.reading import Listing, LoadedImages, path_id, read_listing
from advrbd_plugin.data.sources import Source, open_source
from advrbd_plugin.errors import AdvrBDError

_TRAINING_NAMES = {"train", "training"}
_SPLIT_NAMES = _TRAINING_NAMES | {"test", "testing", "val", "valid", "validation"}


def load_folder(
    path: str | os.PathLike[str],
    *,
    image_size: tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
    samples: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> LoadedImages:
    """Read an ImageFolder: each sub-folder is a class, classes are numbered in the order of their sorted names.

    Sample ids derive from the path below the class folders, not from its rank: adding or losing one picture leaves
    every other picture's random draws (subset, patch positions, poison) as they were.

    Args:
        path: a directory or a zip. Wrapping folders around the class folders (``train/cat/1.png``) are looked through.
        image_size: (height, width) for all. By default the most common size, or a 64x64 square if that is larger.
        class_names: the classes of a model that is to be judged; folders are matched by name (Imagenette's also by
            their WordNet ids), some may be missing.
        samples: how many images to take, each class in proportion, drawn by (seed, sample id); all if there are fewer.
        seed: for that draw.
        on_progress: called with (files done, files in all).

    Raises:
        AdvrBDError: nothing there, no class folders, one class only, a class with no (readable) image, unknown class.
    """
    with open_source(path) as source:
        return read_listing(
            source,
            _list_classes(source, class_names),
            image_size=image_size,
            samples=samples,
            seed=seed,
            on_progress=on_progress,
            must_be_complete=class_names is None,
        )


def class_folders(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The class names that :func:`load_folder` would give, without decoding an image; raises as it does."""
    with open_source(path) as source:
        return _list_classes(source, None).class_names


def _list_classes(source: Source, class_names: Sequence[str] | None) -> Listing:
    """The image files with their labels, or a clear line on what is wrong with the folder."""
    prefix = _wrapper(source, class_names or ())
    files = [path for path in source.files if path.startswith(prefix)]
    found = sorted({path[len(prefix) :].split("/")[0] for path in source.folders if path.startswith(prefix)})
    where = f"{source.root}" + (f" ({prefix.rstrip('/')})" if prefix else "")
    if not found:
        advice = "sort the images into one sub-folder for each class" if files else "nothing to read"
        raise AdvrBDError(f"{where} holds no class folders: {advice}")
    inside = [path for path in files if "/" in path[len(prefix) :]]
    classes_of = [path[len(prefix) :].split("/")[0] for path in inside]
    if class_names is None:
        _check_classes(source, where, prefix, found, classes_of)
        class_names = found
    index = _labels_of(where, found, class_names)
    if not inside:
        raise AdvrBDError(f"{where} holds no files in its class folders")
    return Listing(
        paths=inside,
        labels=torch.tensor([index[name] for name in classes_of], dtype=torch.int64),
        sample_ids=torch.tensor([path_id(path[len(prefix) :]) for path in inside], dtype=torch.int64),
        class_names=tuple(class_names),
    )


def _labels_of(where: str, found: Sequence[str], class_names: Sequence[str]) -> dict[str, int]:
    """Class folder -> label, for every folder that was found."""
    label_of = {name: label for label, name in enumerate(class_names)}
    if not set(found) <= set(label_of):  # models trained on the whole archive know Imagenette's classes by their names
        ids = {wnid: label_of[name] for wnid, name in imagenette_names().items() if name in label_of}
        label_of = ids | label_of
    unknown = sorted(set(found) - set(label_of))
    if unknown:
        raise AdvrBDError(
            f"{where} holds a class folder that the model does not know, {unknown[0]!r}: "
            f"it knows {', '.join(class_names[:20])}"
        )
    return label_of


def _check_classes(source: Source, where: str, prefix: str, found: list[str], classes_of: list[str]) -> None:
    """A training set needs at least two classes, none of them empty, and must not be a train/test pair."""
    if {name.lower() for name in found} <= _SPLIT_NAMES and len(found) > 1:
        advice = _part_to_give(source, prefix, found)
        raise AdvrBDError(f"{where} holds {' and '.join(found)}, not class folders: {advice}")
    if len(found) == 1:
        raise AdvrBDError(f"{where} holds one class only ({found[0]!r}): a classifier needs at least two")
    empty = sorted(set(found) - set(classes_of))
    if empty:
        raise AdvrBDError(f"{where} holds a class with no image: {', '.join(map(repr, empty[:5]))}")


def _part_to_give(source: Source, prefix: str, parts: Sequence[str]) -> str:
    """What to do where a set is split into ``parts``: the training part is meant if there is one."""
    part = next((name for name in parts if name.lower() in _TRAINING_NAMES), parts[0])
    if source.root.is_dir():
        return f"give {source.root / prefix / part}"
    return f"unpack it and give its folder {prefix}{part}, or a zip of that alone"


def _wrapper(source: Source, class_names: Sequence[str]) -> str:
    """The path of the folders that only wrap the class folders, ``""`` or ending in ``/``."""
    prefix = ""
    while True:
        children = {path[len(prefix) :].split("/")[0] for path in source.folders if path.startswith(prefix)}
        if len(children) != 1 or children <= set(class_names):
            return prefix
        inner = f"{prefix}{children.pop()}/"
        grandchildren = {path[len(inner) :].split("/")[0] for path in source.folders if path.startswith(inner)}
        files_inside = any(path.startswith(inner) and "/" not in path[len(inner) :] for path in source.files)
        if files_inside or not grandchildren:
            return prefix
        prefix = inner
