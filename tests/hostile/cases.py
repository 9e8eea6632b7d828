"""All cases of a run: what is made to harm, each once, and as many damaged and random inputs as are asked for."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.hostile import doors, files
from tests.hostile.judge import Case

KINDS = ("pickle", "record", "zip", "image", "yaml", "json", "safetensors", "folder", "door")
HEAVY = (
    "million",
    "megapixels",
    "90 MB",
    "60 MB",
    "200 MB",
    "190 MB",
    "that swell",
    "scans",
    "plain PPM",
    "of runs",
    "names of",
)
"""Words in the names of those that take seconds each, which the shortened run leaves out but for a few."""


def made_to_harm(seed: int = 0) -> Iterator[Case]:
    """Each known way to harm, in every place where such a file is read."""
    rng = random.Random(seed)
    for name, make in files.pickles_to_harm().items():
        yield Case(f"pickle: {name}, as a batch", _cifar("data_batch_1", make))
        yield Case(f"pickle: {name}, as the class names", _cifar("batches.meta", make))
        yield Case(f"pickle: {name}, in a zip of torch", _torch(lambda make=make: files.torch_zip(make())))
        yield Case(f"pickle: {name}, alone", _torch(make))
    for name, change in _records_to_harm().items():
        yield Case(f"record: {name}", _record(change))
    for name, make in _torch_files_to_harm().items():
        yield Case(f"torch: {name}", _torch(make))
    for name, make in files.zips_to_harm(rng).items():
        yield Case(f"zip: {name}", _defend_zip(make))
    for name, make in files.pictures_to_harm().items():
        yield Case(f"image: {name}", _defend_picture(make, 3))
        yield Case(f"image: {name}, as a trigger", _trigger(make))
    for name, make in files.yamls_to_harm().items():
        yield Case(f"yaml: {name}", _config(make))
    for name, make in files.jsons_to_harm().items():
        yield Case(f"json: {name}", _model(make))
    for name, build in _folders_to_harm().items():
        yield Case(f"folder: {name}", build)
    for name, make_door in doors.to_harm().items():
        yield Case(f"door: {name}", _door(make_door))


def at_random(seed: int, number: int) -> Case:
    """The ``number``-th random case of a seed; the kinds take turns."""
    rng = random.Random(f"{seed} {number}")
    kind = KINDS[number % len(KINDS)]
    make: Callable[[random.Random], Callable[[Path], tuple[str, ...]]] = globals()[f"_random_{kind}"]
    return Case(f"{kind}: random {seed}-{number}", make(rng))


# Builders: from what makes a file to what writes the input and names the command.


def _defend(data: str, *more: str) -> tuple[str, ...]:
    return ("advrbd", "defend", data, "--out", "out", "--epochs", "1", *more)


def _cifar(part: str, make: Callable[[], bytes]) -> Callable[[Path], tuple[str, ...]]:
    def build(folder: Path) -> tuple[str, ...]:
        parts = {f"data_batch_{number}": files.honest_batch() for number in range(1, 6)}
        parts |= {"test_batch": files.honest_batch(), "batches.meta": files.honest_meta()}
        content = make()
        if part != "batches.meta" and content.startswith(b"}U\x04data"):
            content = content[:-1] + b"U\x06labels]s."
        files.write(folder / "data/cifar-10-batches-py", parts | {part: content})
        return _defend("data")

    return build


def _torch(make: Callable[[], bytes]) -> Callable[[Path], tuple[str, ...]]:
    def build(folder: Path) -> tuple[str, ...]:
        files.write(folder, {"x.pt": make()})
        return ("torch", "x.pt")

    return build


def _door(make: Callable[[], tuple[str, dict[str, bytes]]]) -> Callable[[Path], tuple[str, ...]]:
    def build(folder: Path) -> tuple[str, ...]:
        data, held = make()
        files.write(folder, held)
        return _defend(data)

    return build


def _random_door(rng: random.Random) -> Callable[[Path], tuple[str, ...]]:
    return _door(lambda: doors.damaged(rng))


def _defend_zip(make: Callable[[], bytes]) -> Callable[[Path], tuple[str, ...]]:
    def build(folder: Path) -> tuple[str, ...]:
        files.write(folder, {"data.zip": make()})
        return _defend("data.zip")

    return build


def _defend_picture(make: Callable[[], bytes], copies: int = 1) -> Callable[[Path], tuple[str, ...]]:
    def build(folder: Path) -> tuple[str, ...]:
        content = make()
        honest = {
            f"data/{name}/{number}.png": files.large_png(8, 8, 8, 2, number) for name in "ab" for number in (1, 2)
        }
        files.write(folder, honest | {f"data/a/x{number}.png": content for number in range(copies)})
        return _defend("data")

    return build


def _trigger(make: Callable[[], bytes]) -> Callable[[Path], tuple[str, ...]]:
    def build(folder: Path) -> tuple[str, ...]:
        files.write(folder, {"x.png": make()})
        return ("trigger", "x.png")

    return build


def _honest_folder(folder: Path) -> None:
    files.write(
        folder, {f"data/{name}/{n}.png": files.large_png(8, 8, 8, 2, n) for name in ("cat", "dog") for n in (1, 2)}
    )


def _config(make: Callable[[], str]) -> Callable[[Path], tuple[str, ...]]:
    def build(folder: Path) -> tuple[str, ...]:
        _honest_folder(folder)
        (folder / "x.yaml").write_text(make(), encoding="utf-8", errors="surrogatepass")
        return ("advrbd", "defend", "data", "--out", "out", "--config", "x.yaml")

    return build


def _model(make: Callable[[], str], weights: bytes | None = None) -> Callable[[Path], tuple[str, ...]]:
    def build(folder: Path) -> tuple[str, ...]:
        _honest_folder(folder)
        (folder / "model").mkdir()
        (folder / "model/model.json").write_text(make(), encoding="utf-8", errors="surrogatepass")
        (folder / "model/model.safetensors").write_bytes(_honest_weights() if weights is None else weights)
        return ("advrbd", "evaluate", "model", "--clean", "data")

    return build


def _honest_weights() -> bytes:
    from safetensors.torch import save

    from advrbd_plugin.nn.description import ModelDescription

    description = ModelDescription("resnet_narrow", ("cat", "dog"), 3, (8, 8), (0.5,) * 3, (0.5,) * 3)
    return save({name: value.contiguous() for name, value in description.build().state_dict().items()})


# Records.


def honest_record() -> dict[str, Any]:
    indicator = np.zeros(6)
    indicator[[1, 4]] = 1
    state = {
        "bd_data_container": {
            "save_folder_path": "./record/x/bd",
            "data_dict": {np.int64(i): {"path": f"./record/x/bd/2/{i}.png", "other_info": [0, 2]} for i in (1, 4)},
            "save_file_format": ".png",
        },
        "getitem_all": True,
        "getitem_all_switch": False,
        "original_index_array": np.arange(6),
        "poison_indicator": indicator,
        "save_folder_path": "./record/x/bd",
    }
    return {
        "model_name": "preactresnet18",
        "num_classes": 3,
        "model": {"linear.weight": torch.ones(3, 2), "linear.bias": torch.zeros(3)},
        "data_path": "./data/cifar10",
        "img_size": (8, 8, 3),
        "clean_data": "cifar10",
        "bd_train": state,
        "bd_test": state,
    }


def _record(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], tuple[str, ...]]:
    def build(folder: Path) -> tuple[str, ...]:
        (folder / "record/x").mkdir(parents=True)
        content = honest_record()
        changed = change(content)
        torch.save(content if changed is None else changed, folder / "record/x/attack_result.pt")
        return ("record", "record/x")

    return build


def _doubled(levels: int = 40) -> list[Any]:
    value: list[Any] = ["x"]
    for _ in range(levels):
        value = [value, value]
    return value


def _looped() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def odd_values() -> list[Any]:
    return [
        None,
        True,
        0,
        -1,
        2**31,
        2**63,
        10**400,
        0.5,
        float("nan"),
        float("inf"),
        "",
        "x",
        "x" * 10**6,
        "a\0b",
        "\ud800",
        "../../x",
        b"",
        b"x",
        [],
        [[]],
        (),
        {},
        {"a": 1},
        {1: {2: 3}},
        set(),
        [0] * 10,
        np.zeros(3),
        np.zeros((2, 2)),
        np.zeros(0),
        np.array([True]),
        np.float64(1),
        np.int8(-1),
        torch.zeros(3),
        torch.zeros(()),
        Image.new("RGB", (2, 2)),
        _doubled(),
        _looped(),
        torch.float32,
        torch.Size([1]),
        "x/" * 3000,
    ]


def _records_to_harm() -> dict[str, Callable[[dict[str, Any]], Any]]:
    def setting(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
        return lambda content: content.update({key: value})

    cases: dict[str, Callable[[dict[str, Any]], Any]] = {
        f"{key} is {number}": setting(key, value)
        for key in ("model_name", "img_size", "num_classes", "model", "bd_train", "bd_test")
        for number, value in enumerate(odd_values())
    }
    return cases | {"it makes a folder": lambda content: content | {"model_name": files.Sentinel()}}


def _torch_files_to_harm() -> dict[str, Callable[[], bytes]]:
    def tensor(count: int, size: int, stride: int, offset: int = 0, stored: int = 16) -> bytes:
        def number(value: int) -> bytes:
            return pickle.dumps(value, 2)[2:-1]

        storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu" + number(count) + b"tQ"
        body = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + number(size) + b"\x85"
        return files.torch_zip(b"\x80\x02" + body + number(stride) + b"\x85\x89NtR.", {"0": bytes(stored)})

    def legacy() -> bytes:
        buffer = io.BytesIO()
        torch.save({"a": torch.zeros(4)}, buffer, _use_new_zipfile_serialization=False)
        return buffer.getvalue()

    def overlapping() -> bytes:
        """A thousand storages that are one place in the file."""
        keys = b"".join(
            b"ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nX"
            + struct.pack("<I", len(str(i)))
            + str(i).encode()
            + b"U\x03cpuJ"
            + struct.pack("<i", 2_000_000)
            + b"tQK\x00J"
            + struct.pack("<i", 2_000_000)
            + b"\x85K\x01\x85\x89NtR"
            for i in range(1000)
        )
        content = files.torch_zip(b"\x80\x02(" + keys + b"l.", {"0": bytes(8_000_000)})
        end = content.rindex(b"PK\x05\x06")
        listed = content[struct.unpack_from("<I", content, end + 16)[0] : end]
        entry = listed[listed.index(b"archive/data/0") - 46 :][: 46 + len("archive/data/0")]
        more = b"".join(
            entry[:28] + struct.pack("<H", len(f"archive/data/{i}")) + entry[30:46] + f"archive/data/{i}".encode()
            for i in range(1, 1000)
        )
        sizes = struct.pack("<HHII", 1003, 1003, len(listed + more), end - len(listed))
        return content[:end] + more + b"PK\x05\x06" + bytes(4) + sizes + bytes(2)

    return {
        "a tensor of 1 GB in 16 bytes": lambda: tensor(250_000_000, 250_000_000, 1),
        "a tensor of 1 GB by a stride of 0": lambda: tensor(4, 250_000_000, 0),
        "a tensor behind its storage": lambda: tensor(4, 4, 1, 2**40),
        "a tensor before its storage": lambda: tensor(4, 4, 1, -4),
        "a tensor of negative strides": lambda: tensor(4, 4, -1),
        "a storage that swells": lambda: files.torch_zip(
            tensor(50_000_000, 50_000_000, 1), {"0": bytes(200_000_000)}, method=8
        ),
        "storages that are one": overlapping,
        "an old file": legacy,
        "half an old file": lambda: legacy()[:-10],
        "the magic number alone": lambda: legacy()[:15],
    }


# Folders.


def _folders_to_harm() -> dict[str, Callable[[Path], tuple[str, ...]]]:
    def with_links(folder: Path) -> tuple[str, ...]:
        _honest_folder(folder)
        os.symlink("/dev/zero", folder / "data/cat/zero.png")
        os.symlink("/proc/self/mem", folder / "data/cat/mem.png")
        os.symlink("nothing", folder / "data/cat/broken.png")
        os.symlink("self.png", folder / "data/cat/self.png")
        os.symlink(folder / "data", folder / "data/cat/loop")
        os.symlink("/proc/self/fd", folder / "data/dog/descriptors")
        os.mkfifo(folder / "data/dog/pipe.png")
        return _defend("data")

    def with_names(folder: Path) -> tuple[str, ...]:
        _honest_folder(folder)
        odd = (
            b"a\nb.png",
            b"\xff\xfe.png",
            b"\x1b[31m.png",
            "\u202e.png".encode(),
            b"=1+1.png",
            b"'.png",
            b"a,b;c.png",
            b"\r.png",
        )
        for number, name in enumerate(odd):
            Path(os.fsdecode(os.fsencode(folder) + b"/data/cat/" + name)).write_bytes(
                files.large_png(8, 8, 8, 2, number)
            )
            os.mkdir(os.fsencode(folder) + b"/data/" + name)
            Path(os.fsdecode(os.fsencode(folder) + b"/data/" + name + b"/0.png")).write_bytes(
                files.large_png(8, 8, 8, 2, number)
            )
        return _defend("data")

    def deep(folder: Path) -> tuple[str, ...]:
        _honest_folder(folder)
        (folder / "data/cat" / "/".join(["a"] * 100)).mkdir(parents=True)
        return _defend("data")

    def sparse(folder: Path) -> tuple[str, ...]:
        _honest_folder(folder)
        for number in range(8):
            with open(folder / f"data/cat/x{number}.png", "wb") as handle:
                handle.truncate(2**28 if number else 2**40)
        with open(folder / "data/cat/y.bmp", "wb") as handle:
            handle.write(files._flat_bmp()[:54])
            handle.truncate(8000 * 8000 * 3 + 54)
        return _defend("data")

    def sparse_cifar(folder: Path) -> tuple[str, ...]:
        _cifar("data_batch_1", files.honest_batch)(folder)
        with open(folder / "data/cifar-10-batches-py/data_batch_2", "wb") as handle:
            handle.truncate(2**40)
        return _defend("data")

    def pipe_as_batch(folder: Path) -> tuple[str, ...]:
        _cifar("data_batch_1", files.honest_batch)(folder)
        (folder / "data/cifar-10-batches-py/batches.meta").unlink()
        os.mkfifo(folder / "data/cifar-10-batches-py/batches.meta")
        return _defend("data")

    def pipe_as_config(folder: Path) -> tuple[str, ...]:
        _honest_folder(folder)
        os.mkfifo(folder / "x.yaml")
        return ("advrbd", "defend", "data", "--out", "out", "--config", "x.yaml")

    def zero_as_config(folder: Path) -> tuple[str, ...]:
        _honest_folder(folder)
        return ("advrbd", "defend", "data", "--out", "out", "--config", "/dev/zero")

    def pipe_as_data(folder: Path) -> tuple[str, ...]:
        os.mkfifo(folder / "data.zip")
        return _defend("data.zip")

    return {
        "links": with_links,
        "names": with_names,
        "a hundred folders deep": deep,
        "sparse files": sparse,
        "a sparse batch": sparse_cifar,
        "a pipe as a batch": pipe_as_batch,
        "a pipe as a configuration": pipe_as_config,
        "zeros without end as a configuration": zero_as_config,
        "a pipe as the data": pipe_as_data,
    }


# Random ones.


def _random_pickle(rng: random.Random) -> Callable[[Path], tuple[str, ...]]:
    honest = rng.choice((files.honest_batch, files.honest_meta))
    content = rng.choice(
        (lambda: files.opcodes(rng), lambda: files.any_opcodes(rng), lambda: files.mutated(rng, honest()))
    )()
    place = rng.randrange(4)
    if place == 0:
        return _cifar("data_batch_3", lambda: content)
    if place == 1:
        return _cifar("batches.meta", lambda: content)
    return _torch(lambda: content if place == 2 else files.torch_zip(content))


def _random_record(rng: random.Random) -> Callable[[Path], tuple[str, ...]]:
    def change(content: dict[str, Any]) -> Any:
        values = odd_values()
        for _ in range(rng.choice((1, 1, 2))):
            target: Any = content
            while True:
                key = rng.choice(list(target))
                if not isinstance(target[key], dict) or not target[key] or rng.random() < 0.3:
                    break
                target[key] = dict(target[key])
                target = target[key]
            target[key] = rng.choice(values)
        return content

    if rng.random() < 0.7:
        return _record(change)
    buffer = io.BytesIO()
    torch.save(honest_record(), buffer, _use_new_zipfile_serialization=rng.random() < 0.7)
    return _torch(lambda: files.mutated(rng, buffer.getvalue()))


def _random_zip(rng: random.Random) -> Callable[[Path], tuple[str, ...]]:
    content = files.zip_of(files.class_zip(rng), system=rng.choice((0, 3)), method=rng.choice((0, 8)))
    return _defend_zip(lambda: files.mutated(rng, content))


def _random_image(rng: random.Random) -> Callable[[Path], tuple[str, ...]]:
    content = files.picture(rng)
    if rng.random() < 0.2 and content[:2] in (b"\x89P", b"\xff\xd8"):
        content = files.with_exif(rng, content)
    else:
        content = files.mutated(rng, content)
    return rng.choice((_defend_picture, _trigger))(lambda: content)


def _random_yaml(rng: random.Random) -> Callable[[Path], tuple[str, ...]]:
    return _config(lambda: files.yaml_text(rng))


def _random_json(rng: random.Random) -> Callable[[Path], tuple[str, ...]]:
    if rng.random() < 0.5:
        return _model(lambda: files.json_text(rng))
    return _model(lambda: files.mutated(rng, files.model_json().encode()).decode("utf-8", "replace"))


def _random_safetensors(rng: random.Random) -> Callable[[Path], tuple[str, ...]]:
    weights = files.safetensors_to_harm(rng) if rng.random() < 0.5 else files.mutated(rng, _honest_weights())
    return _model(files.model_json, weights)


def _random_folder(rng: random.Random) -> Callable[[Path], tuple[str, ...]]:
    names = (
        "cat",
        "dog",
        "train",
        "test",
        "@eaDir",
        "lost+found",
        ".hidden",
        "a b",
        "\u00e9",
        "e\u0301",
        "1.png",
        "gtsrb",
        "GTSRB",
        "imagenette2",
        "val",
        "n01440764",
        "tiny-imagenet-200",
        "cifar-10-batches-py",
        "batches.meta",
        "wnids.txt",
    )

    def build(folder: Path) -> tuple[str, ...]:
        (folder / "data").mkdir()
        for _ in range(rng.randrange(12)):
            parts = rng.choices(names, k=rng.randrange(1, 5))
            place = folder / "data" / "/".join(parts)
            try:
                place.mkdir(parents=True, exist_ok=True)
                (place / rng.choice(("0.png", "1.jpg", "README", "x.zip", "GT-final_test.csv"))).write_bytes(
                    files.picture(rng, "PNG")
                )
                if rng.random() < 0.2:
                    os.symlink(folder / "data" / rng.choice(names), place / rng.choice(names))
            except OSError:
                continue
        return _defend("data")

    return build
