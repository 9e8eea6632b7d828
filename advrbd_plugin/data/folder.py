"""An ImageFolder (one sub-folder a class), as a directory or a zip or tar of one, to an :class:`ImageSet`."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch

from advrbd_plugin.data.decoding import EXTENSIONS
from advrbd_plugin.data.fitting import DEFAULT_FIT
from advrbd_plugin.data.listings import imagenette_names
from advrbd_plugin.data.reading import Listing, LoadedImages, Visit, path_ids, read_listing
from advrbd_plugin.data.sources import Source, open_source
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.plain import brief

_MORE = (
    "(?:data|sets?|images?|imgs?|pictures?|pics?|photos?|splits?|parts?|folders?|files?|samples?|seg|orig|raw|x|my)*"
)
_PARTS = "(train|training|trn|test|testing|tst|val|valid|validation|dev|eval|evaluation|holdout)"
_SPLIT_NAME = re.compile(_MORE + _PARTS + _MORE)
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


def load_folder(
    path: str | os.PathLike[str],
    *,
    image_size: tuple[int, int] | None = None,
    fit: str = DEFAULT_FIT,
    class_names: Sequence[str] | None = None,
    samples: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    visit: Visit | None = None,
) -> LoadedImages:
    """Read an ImageFolder: each sub-folder is a class, classes are numbered in the order of their sorted names.

    Sample ids derive from the path below the class folders, not from its rank: adding or losing one picture leaves
    every other picture's random draws (subset, patch positions, poison) as they were.

    Args:
        path: a directory, a zip or a tar. Wrapping folders around the class folders (``train/cat/1.png``) are looked
            through.
        image_size: (height, width) for all. By default the most common size, or a 64x64 square if that is larger.
        fit: how pictures of another shape come to it: ``pad``, ``crop`` or ``squeeze``
            (:data:`advrbd_plugin.data.fitting.FITS`).
        class_names: the classes of a model that is to be judged; folders are matched by name (Imagenette's also by
            their WordNet ids), some may be missing.
        samples: how many images to take, each class in proportion, drawn by (seed, sample id); all if there are fewer.
        seed: for that draw.
        on_progress: called with (files done, files in all).
        visit: as :func:`read_listing`.

    Raises:
        AdvrBDError: nothing there, no class folders, one class only, a class with no (readable) image, unknown class.
    """
    with open_source(path) as source:
        return read_listing(
            source,
            _list_classes(source, class_names),
            image_size=image_size,
            fit=fit,
            samples=samples,
            seed=seed,
            on_progress=on_progress,
            must_be_complete=class_names is None,
            visit=visit,
        )


def class_folders(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The class names that :func:`load_folder` would give, without decoding an image; raises as it does."""
    with open_source(path) as source:
        return _list_classes(source, None).class_names


def _list_classes(source: Source, class_names: Sequence[str] | None) -> Listing:
    """The image files with their labels, or a clear line on what is wrong with the folder."""
    prefix = _wrapper(source, class_names or ())
    files = [path for path in source.files if path.startswith(prefix)]
    found = _children(source.folders, prefix)
    where = f"{source.root}" + (f" ({prefix.rstrip('/')})" if prefix else "")
    if not found:
        raise AdvrBDError(f"{where} holds no class folders: {_advice(source, files)}")
    inside = [path for path in files if "/" in path[len(prefix) :]]
    classes_of = [path[len(prefix) :].split("/")[0] for path in inside]
    notes = [*_check_folders(source, where, prefix, found, class_names or ()), *_passed_over(source, prefix)]
    if class_names is None:
        _check_classes(where, found, classes_of)
        class_names = found
    index = _labels_of(where, found, class_names)
    if not inside:
        raise AdvrBDError(f"{where} holds no files in its class folders")
    return Listing(
        paths=inside,
        labels=torch.tensor([index[name] for name in classes_of], dtype=torch.int64),
        sample_ids=path_ids([path[len(prefix) :] for path in inside]),
        class_names=tuple(class_names),
        notes=tuple(notes),
    )


def _advice(source: Source, files: Sequence[str]) -> str:
    """What to give where there are no class folders: an archive that lies there, best the training part."""
    archives = [path for path in files if path.lower().endswith(_ARCHIVES)]
    if archives and source.root.is_dir():
        part = next((path for path in archives if _part_of_split(path.split(".")[0]) == "train"), archives[0])
        return f"give {source.root / part}"
    return "sort the images into one sub-folder for each class" if files else "nothing to read"


def _children(paths: Iterable[str], prefix: str) -> list[str]:
    """The sorted names of the folders right below ``prefix``."""
    return sorted({path[len(prefix) :].split("/")[0] for path in paths if path.startswith(prefix)} - {""})


def _labels_of(where: str, found: Sequence[str], class_names: Sequence[str]) -> dict[str, int]:
    """Class folder -> label, for every folder that was found."""
    label_of = {name: label for label, name in enumerate(class_names)}
    if not set(found) <= set(label_of):
        # Some file systems keep names in another Unicode form than they were given.
        forms = {unicodedata.normalize("NFC", name): label for name, label in label_of.items()}
        normal = {name: unicodedata.normalize("NFC", name) for name in found if name not in label_of}
        label_of |= {name: forms[form] for name, form in normal.items() if form in forms}
    if not set(found) <= set(label_of):  # models trained on the whole archive know Imagenette's classes by their names
        ids = {wnid: label_of[name] for wnid, name in imagenette_names().items() if name in label_of}
        label_of = ids | label_of
    unknown = sorted(set(found) - set(label_of))
    if unknown:
        raise AdvrBDError(
            f"{where} holds a class folder that the model does not know, {brief(unknown[0])}: "
            f"it knows {', '.join(name[:80] for name in class_names[:20])}"
        )
    return label_of


def _check_classes(where: str, found: list[str], classes_of: list[str]) -> None:
    """A training set needs at least two classes, none of them empty."""
    if len(found) == 1:
        raise AdvrBDError(f"{where} holds one class only ({brief(found[0])}): a classifier needs at least two")
    empty = sorted(set(found) - set(classes_of))
    if empty:
        raise AdvrBDError(f"{where} holds a class with no image: {', '.join(map(brief, empty[:5]))}")


def _check_folders(
    source: Source, where: str, prefix: str, found: Sequence[str], class_names: Sequence[str]
) -> list[str]:
    """Sentences on what was taken for a class although it might not be one.

    Raises:
        AdvrBDError: the folders are the parts of a split set, or two of them are one.
    """
    notes = []
    for path, other in source.twice:
        if not f"{path}/".startswith(f"{other}/" if other else ""):  # else a loop, which holds nothing more
            if path.startswith(prefix) and "/" not in path[len(prefix) :]:
                raise AdvrBDError(
                    f"{where}: the class folders {brief(path)} and {brief(other)} are one folder: remove the link"
                )
            notes.append(f"The folder {brief(path)} leads to {brief(other)} and is read there only.")
    if not set(found) <= set(class_names):
        notes += _check_split(source, where, prefix, found)
    forms = Counter(unicodedata.normalize("NFC", name) for name in found)
    for name in (name for name, count in forms.items() if count > 1):
        notes.append(
            f"{forms[name]} class folders are called {brief(name)} in different Unicode forms; each is a class."
        )
    return notes


def _check_split(source: Source, where: str, prefix: str, found: Sequence[str]) -> list[str]:
    """Refuse ``train`` and ``test`` as classes, whatever they are called and whatever lies beside them."""
    parts = [name for name in found if _part_of_split(name)]
    others = [name for name in found if name not in parts]
    if not parts:
        return _look_like_folds(source, prefix, found)
    in_folders = {name: _is_of_folders(source, f"{prefix}{name}/") for name in found}
    if len(parts) > 1 or (in_folders[parts[0]] and sum(not in_folders[name] for name in others) < 2):
        if len(found) > 1:
            beside = f" beside {', '.join(others[:3])}" if others else ""
            advice = _part_to_give(source, prefix, parts)
            raise AdvrBDError(f"{where} holds {' and '.join(parts[:5])}{beside}, not class folders: {advice}")
        return []
    return [f"The folder {brief(parts[0])} is taken for a class, as those beside it are."] if others else []


def _part_of_split(name: str) -> str | None:
    """``train`` or ``test`` where a folder's name says that it is that part of a set."""
    letters = re.sub("[^a-z]", "", name.lower())
    match = _SPLIT_NAME.fullmatch(letters) if len(letters) <= 40 else None
    return None if match is None else "train" if match[1].startswith("tr") else "test"


def _is_of_folders(source: Source, inner: str) -> bool:
    """Whether a folder holds pictures in at least two sub-folders, and none right in it."""
    below = [path[len(inner) :] for path in source.files if path.startswith(inner) and is_picture(path)]
    return all("/" in path for path in below) and len({path.split("/")[0] for path in below}) > 1


def _look_like_folds(source: Source, prefix: str, found: Sequence[str]) -> list[str]:
    """A sentence where every folder holds the same sub-folders: perhaps those are the classes."""
    if len(found) < 2 or len(found) > 20:
        return []
    inner = [_children(source.folders, f"{prefix}{name}/") for name in found]
    if len(inner[0]) < 2 or any(other != inner[0] for other in inner):
        return []
    if not all(_is_of_folders(source, f"{prefix}{name}/") for name in found):
        return []
    listed, parts = (", ".join(map(brief, names[:5])) for names in (found, inner[0]))
    return [
        f"{listed} all hold the sub-folders {parts}; {listed} are taken for the classes. If they are "
        "parts of one set, give one of them."
    ]


def _part_to_give(source: Source, prefix: str, parts: Sequence[str]) -> str:
    """What to do where a set is split into ``parts``: the training part is meant if there is one."""
    part = next((name for name in parts if _part_of_split(name) == "train"), parts[0])
    if source.root.is_dir():
        return f"give {source.root / prefix / part}"
    return f"unpack it and give its folder {prefix}{part}, or a zip of that alone"


def _passed_over(source: Source, prefix: str) -> list[str]:
    """A sentence on pictures and archives that lie beside the class folders."""
    beside = [path for path in source.files if not path.startswith(prefix) or "/" not in path[len(prefix) :]]
    beside = [path for path in beside if is_picture(path, named=True) or path.lower().endswith(_ARCHIVES)]
    if not beside:
        return []
    listed = ", ".join(brief(path)[1:-1] for path in beside[:3]) + (", ..." if len(beside) > 3 else "")
    subject = (
        "1 file beside the class folders is"
        if len(beside) == 1
        else f"{len(beside)} files beside the class folders are"
    )
    return [f"{subject} not read ({listed})."]


def is_picture(path: str, *, named: bool = False) -> bool:
    """Whether a file is called as pictures are; without ending it may be one, unless it must be ``named``."""
    name = path.rsplit("/", 1)[-1].lower()
    return name.endswith(EXTENSIONS) or (not named and "." not in name)


def _wrapper(source: Source, class_names: Sequence[str]) -> str:
    """The path of the folders that only wrap the class folders, ``""`` or ending in ``/``."""
    prefix = ""
    while True:
        children = _children(source.folders, prefix)
        if len(children) != 1 or set(children) <= set(class_names):
            return prefix
        inner = f"{prefix}{children[0]}/"
        inside = (path for path in source.files if path.startswith(inner) and "/" not in path[len(inner) :])
        # A README beside the class folders is no picture.
        if any(is_picture(path, named=True) for path in inside) or not _children(source.folders, inner):
            return prefix
        prefix = inner
