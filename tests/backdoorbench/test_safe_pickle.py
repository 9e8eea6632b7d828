"""Files from strangers: what BackdoorBench writes is read, anything else stops with its name."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from advrbd_plugin.backdoorbench import safe_pickle
from advrbd_plugin.backdoorbench.safe_pickle import state_dict_of
from advrbd_plugin.data.pickle_reader import UnreadablePickle, read_pickle
from advrbd_plugin.errors import AdvrBDError


class Command:
    """Runs a command when it is unpickled, as a malicious record would."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def saved(path: Path, content: object, **options) -> Path:
    torch.save(content, path, **options)
    return path


def zipped(path: Path, pickled: bytes, **storages: bytes) -> Path:
    """A file in the layout of torch.save with any pickle and storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in storages.items():
            archive.writestr(f"archive/data/{name}", content)
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_backdoorbench_writes_is_read(tmp_path, zipped):
    shared = torch.arange(12.0).reshape(3, 4)
    content = {
        "array": numpy.arange(6, dtype=numpy.int64).reshape(2, 3),
        "floats": numpy.array([0.5, -1.0], dtype=numpy.float32),
        "columns": numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3)),
        numpy.int64(7): [Image.new("RGB", (3, 2), (1, 2, 3)), numpy.float64(0.25), torch.tensor([1, 2])],
        "state": OrderedDict(weight=shared, turned=shared.t(), half=shared.half(), none=torch.zeros(0, 3)),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "plain": [(1, 2.5, None, True), "text", b"bytes", torch.float32, torch.Size([2]), torch.device("cpu"), {3}],
    }
    path = saved(tmp_path / "x.pt", content, _use_new_zipfile_serialization=zipped)
    read = safe_pickle.load(path)
    assert numpy.array_equal(read["array"], content["array"]) and read["array"].dtype == numpy.int64
    assert numpy.array_equal(read["floats"], content["floats"]) and read["floats"].dtype == numpy.float32
    assert numpy.array_equal(read["columns"], content["columns"]) and read["columns"].flags.f_contiguous
    picture, number, tensor = read[7]
    assert picture.getpixel((2, 1)) == (1, 2, 3)
    assert number == 0.25
    assert tensor.tolist() == [1, 2]
    for name, value in content["state"].items():
        assert torch.equal(read["state"][name], value) and read["state"][name].dtype == value.dtype
    assert read["state"]["weight"].data_ptr() == read["state"]["turned"].data_ptr()
    assert isinstance(read["parameter"], torch.nn.Parameter) and read["plain"] == content["plain"]


def test_a_models_state_reads_as_torch_reads_it(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    path = saved(tmp_path / "x.pt", model.state_dict())
    ours, theirs = safe_pickle.load(path), torch.load(path, weights_only=True)
    assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert ours._metadata == theirs._metadata
    model.load_state_dict(ours)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I", "F", "I;16"])
def test_pictures_of_every_mode_are_read(tmp_path, mode):
    picture = Image.new(mode, (11, 5), 1 if mode in ("1", "L", "P", "I", "F", "I;16") else None)
    if mode == "P":
        picture.putpalette([1, 2, 3, 40, 50, 60])
    read = safe_pickle.load(saved(tmp_path / "x.pt", [picture]))[0]
    assert (read.mode, read.size, read.tobytes()) == (picture.mode, picture.size, picture.tobytes())
    assert read.convert("RGB").tobytes() == picture.convert("RGB").tobytes()


@pytest.mark.parametrize(
    "wrap", [lambda bad: bad, lambda bad: {"model": [bad]}, lambda bad: numpy.array([bad], object)]
)
def test_another_type_stops_before_it_runs(tmp_path, wrap):
    made = tmp_path / "made"
    path = saved(tmp_path / "x.pt", wrap(Command(made)))
    with pytest.raises(AdvrBDError, match=r"mkdir|numpy.dtype\(O8\)") as error:
        safe_pickle.load(path)
    assert "--trust-record" in str(error.value) and "\n" not in str(error.value)
    assert not made.exists()


def test_trust_is_the_informed_way_around(tmp_path):
    made = tmp_path / "made"
    safe_pickle.load(saved(tmp_path / "x.pt", [Command(made)]), trust=True)
    assert made.is_dir()


def test_damaged_files_are_named(tmp_path):
    whole = saved(tmp_path / "whole.pt", {"a": torch.zeros(100)}).read_bytes()
    old = saved(tmp_path / "old.pt", {"a": torch.zeros(100)}, _use_new_zipfile_serialization=False).read_bytes()
    files = {
        "cut.pt": whole[: len(whole) // 2],
        "cut_old.pt": old[:-8],
        "text.pt": b"not a pickle",
        "empty.pt": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AdvrBDError, match=name):
            safe_pickle.load(tmp_path / name)
    with pytest.raises(AdvrBDError, match="does not exist"):
        safe_pickle.load(tmp_path / "nothing.pt")
    with pytest.raises(AdvrBDError, match=str(tmp_path)):
        safe_pickle.load(tmp_path)


def array(dtype: bytes, shape: bytes, content: bytes, call: bytes = b"cnumpy.core.multiarray\n_reconstruct\n") -> bytes:
    """The opcodes of an array, with anything in the places of its dtype, shape and bytes."""
    made = b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    kind = (
        b"cnumpy\ndtype\n" + pickle.dumps(dtype.decode(), 2)[2:-1] + b"K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
    )
    kind += b"J\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01" + shape + kind + b"I00\n" + b"B" + struct.pack("<I", len(content)) + content + b"tb"
    return b"\x80\x02" + call + made + state + b"."


def test_an_array_by_its_opcodes():
    read, _ = read_pickle(array(b"i8", b"K\x02\x85", struct.pack("<2q", 3, -4)))
    assert read.tolist() == [3, -4] and read.flags.owndata and read.flags.writeable


NDARRAY = b"cnumpy\nndarray\n"


@pytest.mark.parametrize(
    ("name", "pickled"),
    [
        ("ndarray called over bytes of the file", NDARRAY + b"K\x01\x85U\x02O8C\x08AAAAAAAA\x87R."),
        ("ndarray made as a new object", NDARRAY + b"K\x01\x85U\x02i8C\x08AAAAAAAA\x87\x81."),
        ("ndarray as a value", NDARRAY + b"."),
        ("ndarray that is given a state", NDARRAY + b"}b."),
        ("an array without state", b"cnumpy.core.multiarray\n_reconstruct\n" + NDARRAY + b"K\x00\x85C\x01b\x87R."),
        ("an array of objects", array(b"O8", b"K\x01\x85", b"AAAAAAAA")),
        ("an array of records", array(b"V8", b"K\x01\x85", b"AAAAAAAA")),
        ("an array of texts", array(b"U2", b"K\x01\x85", b"AAAAAAAA")),
        ("an array of times", array(b"M8", b"K\x01\x85", b"AAAAAAAA")),
        ("a dtype of fields", array(b"i4,O8", b"K\x01\x85", b"AAAAAAAAAAAA")),
        ("an array longer than its bytes", array(b"i8", b"J\x00\x00\x00\x40\x85", b"AAAAAAAA")),
        ("an array shorter than its bytes", array(b"i1", b"K\x01\x85", b"AAAAAAAA")),
        ("a negative side", array(b"i8", b"J\xff\xff\xff\xff\x85", b"")),
        ("a side that is no number", array(b"i8", b"U\x018\x85", b"AAAAAAAA")),
        (
            "a shape that overflows",
            array(b"i8", b"J\x00\x00\x00\x40J\x00\x00\x00\x40J\x00\x00\x00\x40\x87", b"AAAAAAAA"),
        ),
        ("sixty dimensions", array(b"i1", b"(" + b"K\x01" * 60 + b"t", b"A")),
        (
            "a number of another dtype",
            b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02O8\x85RC\x08AAAAAAAA\x86R.",
        ),
        ("a slow codec", b"c_codecs\nencode\nX\x04\x00\x00\x00aaaaU\x08punycode\x86R."),
        ("an old instance", b"(iposix\nsystem\n."),
        ("an object of an old class", b"(cposix\nsystem\no."),
        ("an extension", b"\x82\x01."),
        ("a buffer outside the file", b"\x97."),
        ("a persistent id", b"U\x01xQ."),
        ("a name across the stack", b"\x8c\x05posix\x8c\x06system\x93."),
        ("a name of many dots", b"cbuiltins\n__import__.__self__.eval\n."),
        ("an unhashable key", b"}]K\x01s."),
        ("a key that is slow to compare", b"}K\x01\x85K\x01s."),
        ("a list within itself", b"]q\x00h\x00a."),
        ("lists of lists of lists", b"]" * 500 + b"a" * 499 + b"."),
        ("a large memo index that is not there", b"j\xff\xff\xff\x0f."),
        ("a text that is cut short", b"X\xff\xff\xff\x7faaaa."),
        ("bytes of negative length", b"T\xff\xff\xff\xffaaaa."),
        ("a whole number of a thousand bytes", b"\x8b\xe8\x03\x00\x00" + b"A" * 1000 + b"."),
        ("a decimal of a thousand digits", b"L" + b"9" * 1000 + b"L\n."),
        ("nothing on the stack", b"a."),
        ("a mark alone", b"(."),
        ("no end", b"]"),
        ("an unknown protocol", b"\x80\x63N."),
    ],
)
def test_nothing_but_plain_data_is_made(tmp_path, name, pickled):
    with pytest.raises(UnreadablePickle) as error:
        read_pickle(pickled)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    with pytest.raises(AdvrBDError) as line:
        safe_pickle.load(zipped(tmp_path / "x.pt", pickled))
    assert "\n" not in str(line.value)


def test_shared_lists_are_counted_as_often_as_they_are_reached():
    levels = b"".join(
        b"](h" + bytes([level - 1]) + b"h" + bytes([level - 1]) + b"eq" + bytes([level]) for level in range(1, 60)
    )
    with pytest.raises(UnreadablePickle, match="shared many times"):
        read_pickle(b"]q\x00" + levels + b".")


def test_a_large_memo_index_takes_no_memory():
    assert read_pickle(b"]r\xff\xff\xff\x0f.")[0] == []


def tensor(storage: bytes, size: bytes, stride: bytes, offset: bytes = b"K\x00") -> bytes:
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"Q" + offset + size + stride + b"I00\nNtR."


def storage(count: int, kind: bytes = b"FloatStorage") -> bytes:
    return b"(U\x07storagectorch\n" + kind + b"\nU\x010U\x03cpuJ" + struct.pack("<i", count) + b"t"


@pytest.mark.parametrize(
    ("pickled", "content"),
    [
        (tensor(storage(4), b"K\x05\x85", b"K\x01\x85"), bytes(16)),
        (tensor(storage(4), b"K\x04\x85", b"K\x01\x85", b"K\x01"), bytes(16)),
        (tensor(storage(4), b"K\x04\x85", b"K\x02\x85"), bytes(16)),
        (tensor(storage(4), b"J\x00\x00\x00\x10\x85", b"K\x00\x85"), bytes(16)),
        (tensor(storage(4), b"K\x04\x85", b"J\xff\xff\xff\xff\x85"), bytes(16)),
        (tensor(storage(4), b"K\x02\x85", b"K\x01\x85", b"J\xff\xff\xff\xff"), bytes(16)),
        (tensor(storage(250_000_000), b"J\x80\xb2\xe6\x0e\x85", b"K\x01\x85"), bytes(16)),
        (tensor(storage(4), b"K\x04\x85", b"K\x01\x85"), bytes(20)),
        (tensor(storage(4, b"QInt8Storage"), b"K\x04\x85", b"K\x01\x85"), bytes(4)),
    ],
)
def test_a_tensor_lies_inside_its_storage(tmp_path, pickled, content):
    assert safe_pickle.load(
        zipped(tmp_path / "good.pt", tensor(storage(4), b"K\x02K\x02\x86", b"K\x01K\x02\x86"), **{"0": bytes(16)})
    ).shape == (2, 2)
    with pytest.raises(AdvrBDError) as error:
        safe_pickle.load(zipped(tmp_path / "x.pt", pickled, **{"0": content}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "state",
    [
        [{}, "RGB", (2, 2), None, bytes(11)],
        [{}, "RGB", (-2, -2), None, bytes(12)],
        [{}, "RGB", (2**20, 2**20), None, bytes(12)],
        [{}, "BGR;24", (2, 2), None, bytes(12)],
        [{}, ["RGB"], (2, 2), None, bytes(12)],
        [{}, "P", (2, 2), [300] * 3, bytes(4)],
        [{}, "P", (2, 2), ["a"] * 3, bytes(4)],
        [{}, "RGB", (0, 0), None, b""],
        {"mode": "RGB"},
    ],
)
def test_a_picture_has_the_bytes_that_it_needs(tmp_path, state):
    pickled = b"\x80\x04cPIL.Image\nImage\n)\x81" + pickle.dumps(state, 3)[2:-1] + b"b."
    with pytest.raises(AdvrBDError, match="damaged"):
        safe_pickle.load(zipped(tmp_path / "x.pt", pickled))


def test_parts_that_overlap_or_are_compressed_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", tensor(storage(10**6), b"J\x40\x42\x0f\x00\x85", b"K\x01\x85"))
        archive.writestr("archive/data/0", bytes(4 * 10**6))
    with pytest.raises(AdvrBDError, match="compressed"):
        safe_pickle.load(path)


@pytest.mark.parametrize("content", [None, [], {}, {"a": 1}, {1: torch.zeros(1)}, {"a": {"b": torch.zeros(1)}}])
def test_a_state_dict_holds_tensors_by_name(content):
    with pytest.raises(AdvrBDError, match="x.pt is no model's state dict"):
        state_dict_of(content, "x.pt")


def test_dataset_batches_hold_numbers_only(tmp_path):
    batch = {"data": numpy.arange(12, dtype=numpy.uint8).reshape(2, 6), "labels": [3, 4]}
    for protocol in range(6):
        read, _ = read_pickle(pickle.dumps(batch, protocol))
        assert numpy.array_equal(read["data"], batch["data"]) and read["labels"] == [3, 4]
    with pytest.raises(UnreadablePickle, match="mkdir"):
        read_pickle(pickle.dumps(Command(tmp_path / "made")))
    assert not (tmp_path / "made").exists()
