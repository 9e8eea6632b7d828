"""``advrbd clean`` on every kind of data that ``advrbd defend`` reads; the pictures stay what they are."""

from __future__ import annotations

import csv
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advrbd_plugin.cli import main
from advrbd_plugin.data import load_data

GREYS = (10, 20, 30, 40)
NAMES = ("cat", "dog")
LABELS = (0, 0, 1, 1)
# Larger than what a scan brings pictures to, so that a copy of the scan's own pictures would not pass.
SIZE = (70, 80)


def picture(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((*SIZE, 3), grey, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_files(home: Path) -> list[str]:
    """``cat/0.png``, ``dog/1.png``, ..."""
    names = [f"{NAMES[label]}/{index}.png" for index, label in enumerate(LABELS)]
    for name, grey in zip(names, GREYS, strict=True):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(picture(grey))
    return names


def a_folder(home: Path) -> tuple[str, list[str]]:
    names = write_files(home / "set")
    return str(home / "set"), names


def a_zip(home: Path) -> tuple[str, list[str]]:
    names = write_files(home)
    with zipfile.ZipFile(home / "set.zip", "w") as archive:
        for name in names:
            archive.write(home / name, f"photos/{name}")
    return str(home / "set.zip"), [f"photos/{name}" for name in names]


def a_tar(home: Path) -> tuple[str, list[str]]:
    names = write_files(home)
    with tarfile.open(home / "set.tar.gz", "w:gz") as archive:
        for name in names:
            archive.add(home / name, name)
    return str(home / "set.tar.gz"), names


def a_table(home: Path) -> tuple[str, list[str]]:
    (home / "p").mkdir()
    for index, grey in enumerate(GREYS):
        (home / "p" / f"{index}.png").write_bytes(picture(grey))
    rows = "".join(f"p/{index}.png,{NAMES[label]}\n" for index, label in enumerate(LABELS))
    (home / "set.csv").write_text("path,label\n" + rows)
    return str(home / "set.csv"), [f"{NAMES[label]}/p/{index}.png" for index, label in enumerate(LABELS)]


def a_parquet_table_of_paths(home: Path) -> tuple[str, list[str]]:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    _, names = a_table(home)
    paths = [f"p/{index}.png" for index in range(len(LABELS))]
    pq.write_table(pa.table({"path": paths, "label": [NAMES[label] for label in LABELS]}), home / "set.parquet")
    return str(home / "set.parquet"), names


def parquet_of_pictures(place: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"image": list(map(picture, GREYS)), "label": [NAMES[at] for at in LABELS]}), place)


def a_parquet_file_of_pictures(home: Path) -> tuple[str, list[str]]:
    parquet_of_pictures(home / "set.parquet")
    return str(home / "set.parquet"), [f"{NAMES[at]}/set.parquet#{row + 1}.png" for row, at in enumerate(LABELS)]


def a_saved_dataset(home: Path) -> tuple[str, list[str]]:
    pa = pytest.importorskip("pyarrow")
    folder = home / "set"
    folder.mkdir()
    table = pa.table({"image": pa.array(map(picture, GREYS), pa.binary()), "label": pa.array(LABELS)})
    with pa.OSFile(str(folder / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(NAMES)}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return str(folder), [f"{NAMES[at]}/set#{row + 1}.png" for row, at in enumerate(LABELS)]


def shards(home: Path) -> tuple[str, list[str]]:
    for half in (0, 1):
        with tarfile.open(home / f"s-{half}.tar", "w") as archive:
            for index in (2 * half, 2 * half + 1):
                for kind, content in (("png", picture(GREYS[index])), ("cls", NAMES[LABELS[index]].encode())):
                    entry = tarfile.TarInfo(f"{index}.{kind}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    names = [f"{NAMES[at]}/s-{index // 2}.tar/{index}.png" for index, at in enumerate(LABELS)]
    return f"{home}/s-{{0..1}}.tar", names


def by_number(names: tuple[str, ...] = NAMES) -> list[str]:
    return [f"{names[label]}/{index:06d}.png" for index, label in enumerate(LABELS)]


def pixels() -> np.ndarray:
    return np.stack([np.full((*SIZE, 3), grey, np.uint8) for grey in GREYS])


def an_npz(home: Path) -> tuple[str, list[str]]:
    np.savez(home / "set.npz", images=pixels(), labels=LABELS, class_names=NAMES)
    return str(home / "set.npz"), by_number()


def an_npz_of_grey_pictures(home: Path) -> tuple[str, list[str]]:
    np.savez(home / "set.npz", images=pixels()[..., 0], labels=LABELS, class_names=NAMES)
    return str(home / "set.npz"), by_number()


def a_poisoned_set_of_backdoor_toolbox(home: Path) -> tuple[str, list[str]]:
    (home / "set").mkdir()
    torch.save(torch.from_numpy(pixels()).permute(0, 3, 1, 2).float() / 255, home / "set" / "imgs")
    torch.save(torch.tensor(LABELS), home / "set" / "labels")
    return str(home / "set"), by_number(("0", "1"))


def an_older_set_of_backdoor_toolbox(home: Path) -> tuple[str, list[str]]:
    (home / "set" / "data").mkdir(parents=True)
    for index, grey in enumerate(GREYS):
        (home / "set" / "data" / f"{index}.png").write_bytes(picture(grey))
    torch.save(torch.tensor(LABELS), home / "set" / "labels")
    return str(home / "set"), [f"{label}/{index}.png" for index, label in enumerate(LABELS)]


def a_set_of_torchvision(home: Path) -> tuple[str, list[str]]:
    """A stand-in among torchvision's own, which would have to be downloaded."""
    datasets = pytest.importorskip("torchvision.datasets", reason="needs torchvision: pip install torchvision")

    class Greys(datasets.VisionDataset):
        classes = NAMES

        def __init__(self, root, train=True):
            super().__init__(root)

        def __len__(self):
            return len(GREYS)

        def __getitem__(self, index):
            return Image.open(io.BytesIO(picture(GREYS[index]))), LABELS[index]

    datasets.AdvrbdGreys = Greys
    return "torchvision:AdvrbdGreys", by_number()


MAKERS: dict[str, Callable[[Path], tuple[str, list[str]]]] = {
    each.__name__: each
    for each in (
        a_folder,
        a_zip,
        a_tar,
        a_table,
        a_parquet_table_of_paths,
        a_parquet_file_of_pictures,
        a_saved_dataset,
        shards,
        an_npz,
        an_npz_of_grey_pictures,
        a_poisoned_set_of_backdoor_toolbox,
        an_older_set_of_backdoor_toolbox,
        a_set_of_torchvision,
    )
}
FILES = {"a_folder", "a_table", "a_parquet_table_of_paths", "an_older_set_of_backdoor_toolbox"}


@pytest.fixture(params=sorted(MAKERS))
def kind(request) -> str:
    return request.param


@pytest.fixture
def made(kind, tmp_path) -> tuple[str, list[str], Path]:
    """(DATA, where each picture goes in a cleaned set, the verdicts of a scan that calls the first one poisoned)."""
    (tmp_path / "home").mkdir()
    data, places = MAKERS[kind](tmp_path / "home")
    return data, places, verdicts_on(data, tmp_path)


def verdicts_on(data: str, folder: Path) -> Path:
    images = load_data(data).image_set
    lines = [f"{'id' if images.paths is None else 'path'},label,verdict,probability,suggested_label"]
    for row, label in enumerate(images.labels.tolist()):
        name, verdict = images.class_names[label], "clean" if row else "poisoned"
        lines.append(f"{(images.paths or images.sample_ids.tolist())[row]},{name},{verdict},0.5,{name}")
    (folder / "verdicts.csv").write_text("\n".join(lines) + "\n")
    return folder / "verdicts.csv"


def state(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("way", [None, "copies"])
def test_pictures_are_written_one_folder_a_class_and_stay_what_they_are(made, kind, way, tmp_path, capsys):
    data, places, verdicts = made
    before = state(tmp_path / "home")
    words = ["clean", data, "--verdicts", str(verdicts), "--out", str(tmp_path / "out"), "--json"]
    assert main([*words, *(["--as", way] if way else [])]) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out) == {
        "out": str(tmp_path / "out"),
        "as": way or ("links" if kind in FILES else "copies"),
        "images": 3,
        "poisoned_left_out": 1,
        "others_left_out": 0,
        "relabelled": 0,
        "without_verdict": 0,
    }
    assert files(tmp_path / "out") == sorted(places[1:])
    for place, grey in zip(places[1:], GREYS[1:], strict=True):
        written = np.asarray(Image.open(tmp_path / "out" / place))
        assert written.shape[:2] == SIZE and (written == grey).all()
        if kind not in ("an_npz", "an_npz_of_grey_pictures", "a_set_of_torchvision") and "toolbox" not in kind:
            assert (tmp_path / "out" / place).read_bytes() == picture(grey)  # not decoded, not encoded again
        assert (tmp_path / "out" / place).is_symlink() == (way is None and kind in FILES)
    assert state(tmp_path / "home") == before
    if set(NAMES) <= {place.split("/")[0] for place in places[1:]}:
        assert load_data(tmp_path / "out").image_set.class_names == NAMES


def test_a_manifest_names_files_or_places_in_the_set(made, kind, tmp_path):
    data, _, verdicts = made
    out = tmp_path / "deep" / "out"
    assert main(["clean", data, "--verdicts", str(verdicts), "--out", str(out), "--as", "manifest", "--quiet"]) == 0
    assert files(out) == ["manifest.csv"]
    with (out / "manifest.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    names = load_data(data).image_set.class_names
    assert [row["label"] for row in rows] == [names[label] for label in LABELS[1:]]
    if kind in FILES:
        assert all(not row["path"].startswith("/") for row in rows)
        assert [(out / row["path"]).read_bytes() for row in rows] == list(map(picture, GREYS[1:]))
        cleaned = load_data(out / "manifest.csv", root=tmp_path / "home").image_set
        assert cleaned.images[:, 0, 0, 0].tolist() == list(GREYS[1:])
    elif "path" in rows[0]:
        assert [row["path"] for row in rows] == list(load_data(data).image_set.paths[1:])
    else:
        assert [row["id"] for row in rows] == ["1", "2", "3"]


@pytest.mark.parametrize("kind", sorted(set(MAKERS) - FILES), indirect=True)
def test_links_need_files(made, tmp_path, fails):
    data, _, verdicts = made
    line = fails("clean", data, "--verdicts", verdicts, "--out", tmp_path / "out", "--as", "links")
    assert "lie in an archive or an array: --as copies writes them, --as manifest lists them" in line
    assert not (tmp_path / "out").exists()


def test_verdicts_of_another_set_are_refused(made, tmp_path, fails):
    data, _, verdicts = made
    lines = verdicts.read_text().splitlines()
    other = lines[2].split(",")
    other[1] = load_data(data).image_set.class_names[1]
    verdicts.write_text("\n".join([*lines[:2], ",".join(other), *lines[3:]]) + "\n")
    line = fails("clean", data, "--verdicts", verdicts, "--out", tmp_path / "out")
    assert "in the verdicts: give the set that was scanned" in line
    other[0] = "99"
    verdicts.write_text("\n".join([*lines[:2], ",".join(other), *lines[3:]]) + "\n")
    assert "1 of 3 pictures are not in" in fails("clean", data, "--verdicts", verdicts, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_entry_is_one_line_and_leaves_nothing(tmp_path, fails):
    (tmp_path / "home").mkdir()
    data, _ = a_zip(tmp_path / "home")
    verdicts = verdicts_on(data, tmp_path)
    whole = Path(data).read_bytes()
    place = whole.rfind(picture(GREYS[3])) + 60
    Path(data).write_bytes(whole[:place] + b"\xff\xff" + whole[place + 2 :])
    line = fails("clean", data, "--verdicts", verdicts, "--out", tmp_path / "out")
    assert "set.zip ('photos/dog/3.png') cannot be read: Bad CRC-32" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "verdicts.csv"]


def test_cifar_as_torchvision_unpacks_it(tmp_path, capsys):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rows = np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": [0, 1]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(NAMES)}))
    for data, root in ((str(folder), ()), ("torchvision:CIFAR10", ("--root", str(tmp_path)))):
        out = tmp_path / f"out{len(root)}"
        verdicts = tmp_path / "verdicts.csv"
        verdicts.write_text("id,label,verdict,suggested_label\n7,dog,clean,dog\n0,cat,mislabelled,dog\n")
        assert main(["clean", data, *root, "--verdicts", str(verdicts), "--out", str(out), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["without_verdict"] == 8
        assert files(out) == ["dog/000000.png", "dog/000007.png"]
        assert np.array_equal(
            np.asarray(Image.open(out / "dog/000007.png")), rows[1].reshape(3, 32, 32).transpose(1, 2, 0)
        )


def test_class_names_that_no_folder_can_have_go_into_a_manifest(tmp_path, fails):
    np.savez(tmp_path / "set.npz", images=pixels(), labels=LABELS, class_names=("cat/dog", "n/a"))
    verdicts = verdicts_on(str(tmp_path / "set.npz"), tmp_path)
    words = ("clean", tmp_path / "set.npz", "--verdicts", verdicts, "--out", tmp_path / "out")
    assert "--as manifest takes any name" in fails(*words)
    assert main([*map(str, words), "--as", "manifest", "--quiet"]) == 0
    assert "3,n/a" in (tmp_path / "out" / "manifest.csv").read_text()
