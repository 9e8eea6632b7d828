"""Parquet files and data sets that Hugging Face's ``datasets`` saved, made here by pyarrow alone."""

from __future__ import annotations

import json
import sys

import pytest

from advrbd_plugin.data.doors import load_data
from advrbd_plugin.data.tables import Columns
from advrbd_plugin.errors import AdvrBDError

from .conftest import png

pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'advrbd_plugin[parquet]'")
pq = pytest.importorskip("pyarrow.parquet")

FEATURES = {
    "image": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": ["cat", "dog"]},
}
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def refused(*arguments, **options) -> str:
    with pytest.raises(AdvrBDError) as raised:
        load_data(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def pictures(count: int, start: int = 0):
    return pa.array([{"bytes": png(start + each), "path": f"{each}.png"} for each in range(count)], PICTURE)


def hub_table(labels, start: int = 0, features=FEATURES):
    """As the hub's Parquet files are."""
    table = pa.table({"image": pictures(len(labels), start), "label": pa.array(labels, pa.int64())})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


@pytest.mark.parametrize("rows", [2, 100])
def test_a_parquet_file_with_pictures(tmp_path, rows):
    pq.write_table(hub_table([0, 1, 1, 0, 1]), tmp_path / "set.parquet", row_group_size=rows)
    loaded = load_data(tmp_path / "set.parquet").image_set
    assert loaded.class_names == ("cat", "dog") and loaded.labels.tolist() == [0, 1, 1, 0, 1]
    assert loaded.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4] and loaded.paths[0] == "set.parquet#1"


def test_rows_are_found_in_any_order_and_when_little_is_kept(tmp_path, monkeypatch):
    from advrbd_plugin.data import arrow

    monkeypatch.setattr(arrow, "_KEPT_BYTES", 500)
    monkeypatch.setattr(arrow, "_MOST_ROWS_AT_ONCE", 2)
    pq.write_table(hub_table([0, 1] * 6), tmp_path / "set.parquet", row_group_size=4)
    table = arrow._ParquetTable(tmp_path / "set.parquet", Columns())
    for row in (11, 0, 5, 4, 6, 10, 1):
        assert table.cell(row)["bytes"] == png(row)
    with pytest.raises(ValueError):
        table.cell(12)
    assert len(load_data(tmp_path / "set.parquet").image_set) == 12


def test_the_parts_of_a_folder_as_the_hub_has_it(tmp_path):
    (tmp_path / "data").mkdir()
    for number, labels in enumerate(([0, 1, 0], [1, 1])):
        pq.write_table(hub_table(labels, 3 * number), tmp_path / f"data/train-0000{number}-of-00002.parquet")
    pq.write_table(hub_table([1]), tmp_path / "data/test-00000-of-00001.parquet")
    train = load_data(tmp_path).image_set
    assert train.labels.tolist() == [0, 1, 0, 1, 1] and train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert len(load_data(tmp_path, part="test", class_names=("dog", "cat")).image_set) == 1


def test_parquet_with_bytes_names_and_paths(tmp_path):
    columns = {"jpg": pa.array([png(7), png(8)], pa.binary()), "kind": ["b", "a"]}
    pq.write_table(pa.table(columns), tmp_path / "bytes.parquet")
    assert load_data(tmp_path / "bytes.parquet", columns=Columns(label="kind")).image_set.labels.tolist() == [1, 0]
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(png(index))
    pq.write_table(pa.table({"path": ["2.png", "0.png"], "label": [5, 3]}), tmp_path / "paths.parquet")
    images = load_data(tmp_path / "paths.parquet").image_set
    assert images.class_names == ("3", "5") and images.images[:, 0, 0, 0].tolist() == [2, 0]
    named = pa.array(
        [{"bytes": None, "path": "1.png"}, {"bytes": None, "path": "/etc/passwd"}, {"bytes": None, "path": "0.png"}],
        PICTURE,
    )
    pq.write_table(pa.table({"image": named, "label": ["x", "y", "y"]}), tmp_path / "named.parquet")
    loaded = load_data(tmp_path / "named.parquet")
    assert loaded.image_set.images[:, 0, 0, 0].tolist() == [1, 0] and "--root" in loaded.left_out[0][1]


def test_parquet_files_that_are_wrong(tmp_path):
    path = tmp_path / "set.parquet"

    def line(table, **options) -> str:
        pq.write_table(table, path)
        return refused(path, **options)

    assert "row 2: the label 2 is out of range: it must be in [0, 1]" in line(hub_table([0, 2]))
    assert "row 1: the label -1 is out of range" in line(hub_table([-1, 1]))
    assert "1 of 2 row is wrong: row 2: label is None" in line(hub_table([0, None]))
    assert "holds no pictures: it is empty" in line(hub_table([]))
    assert "must be at least two distinct class names" in line(
        hub_table([0, 1], features=FEATURES | {"label": {"_type": "ClassLabel", "names": ["a", "a"]}})
    )
    plain = pa.table({"image": pictures(2), "kind": [1, 2]})
    assert "no column with the labels: name it by --label-column; its columns are image, kind" in line(plain)
    assert "has no column 'x' (--image-column)" in line(plain, columns=Columns("x", "kind"))
    assert "must hold pictures as bytes, or paths, got int64" in line(plain, columns=Columns("kind", "kind"))
    assert "must hold numbers or names, got struct" in line(plain, columns=Columns("image", "image"))
    assert "2 of 2 files are missing" in line(pa.table({"path": ["a.png", "b.png"], "label": [0, 1]}))
    assert "'../b.png' lies outside" in line(pa.table({"path": ["a.png", "../b.png"], "label": [0, 1]}))
    whole = path.read_bytes()
    for content in (whole[:-20], whole[: len(whole) // 2], b"PAR1" + bytes(100) + b"PAR1", b""):
        path.write_bytes(content)
        assert "cannot be read: " in refused(path)


def test_a_picture_that_cannot_be_read_is_left_out(tmp_path):
    cells = [{"bytes": b"nonsense", "path": None}, {"bytes": None, "path": None}, *pictures(2).to_pylist()]
    pq.write_table(pa.table({"image": pa.array(cells, PICTURE), "label": [0, 0, 0, 1]}), tmp_path / "set.parquet")
    loaded = load_data(tmp_path / "set.parquet")
    assert [path for path, _ in loaded.left_out] == ["set.parquet#1", "set.parquet#2"] and len(loaded.image_set) == 2


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    pq.write_table(hub_table([0, 1]), tmp_path / "set.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "advrbd_plugin[parquet]" in refused(tmp_path / "set.parquet")


# What save_to_disk writes.


def save(folder, table, *, indices=None, features=FEATURES, files=None):
    folder.mkdir(parents=True)
    for number, batch in enumerate((table.slice(0, 2), table.slice(2))):
        with (
            pa.OSFile(str(folder / f"data-{number}.arrow"), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as out,
        ):
            out.write_table(batch)
    state = {
        "_data_files": files or [{"filename": f"data-{number}.arrow"} for number in range(2)],
        "_indices_data_files": None,
    }
    if indices is not None:
        order = pa.table({"indices": pa.array(indices, pa.uint64())})
        with pa.OSFile(str(folder / "indices.arrow"), "wb") as sink, pa.ipc.new_stream(sink, order.schema) as out:
            out.write_table(order)
        state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


def test_a_saved_dataset_whole_reordered_and_in_parts(tmp_path):
    table = hub_table([0, 1, 1, 0])
    images = load_data(save(tmp_path / "whole", table)).image_set
    assert images.class_names == ("cat", "dog") and images.labels.tolist() == [0, 1, 1, 0]
    assert images.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    images = load_data(save(tmp_path / "some", table, indices=[3, 1])).image_set
    assert images.labels.tolist() == [0, 1] and images.images[:, 0, 0, 0].tolist() == [3, 1]
    save(tmp_path / "both" / "train", table)
    save(tmp_path / "both" / "test", table.slice(0, 3))
    (tmp_path / "both" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    assert len(load_data(tmp_path / "both").image_set) == 4
    assert len(load_data(tmp_path / "both", part="test").image_set) == 3


def test_saved_datasets_that_are_wrong(tmp_path):
    table = hub_table([0, 1, 1, 0])
    assert "must name files in its own folder under _data_files, got '../x.arrow'" in refused(
        save(tmp_path / "a", table, files=[{"filename": "../x.arrow"}])
    )
    assert "lacks the file 'x.arrow'" in refused(save(tmp_path / "b", table, files=[{"filename": "x.arrow"}]))
    assert "must name files" in refused(save(tmp_path / "c", table, files=[3]))
    assert "its indices name rows that its 4 rows do not have" in refused(save(tmp_path / "d", table, indices=[0, 9]))
    folder = save(tmp_path / "e", table)
    (folder / "data-0.arrow").write_bytes((folder / "data-0.arrow").read_bytes()[:200])
    assert "cannot be read" in refused(folder)
    (folder / "state.json").write_text("[]")
    assert "must be a JSON object" in refused(folder)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "dataset_dict.json").write_text(json.dumps({"splits": ["dev", "extra"]}))
    assert "has no part train: its parts are dev, extra" in refused(tmp_path / "f")


def struct_offsets(*offsets: int) -> bytes:
    return b"".join(offset.to_bytes(4, "little") for offset in offsets)


def test_numbers_that_lie_in_an_arrow_file_do_not_crash(tmp_path):
    """Offsets beyond the data, which pyarrow itself believes unless it is asked to check."""
    values = pa.array([b"0123456789", b"9876543210"])
    struct = pa.StructArray.from_arrays([values, pa.array(["a", "b"])], names=["bytes", "path"])
    table = pa.table({"image": struct, "label": pa.array([0, 1])})
    folder = tmp_path / "set"
    folder.mkdir()
    with pa.OSFile(str(folder / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    content, offsets = (folder / "data.arrow").read_bytes(), struct_offsets(0, 10, 20)
    assert content.count(offsets) == 1
    (folder / "data.arrow").write_bytes(content.replace(offsets, struct_offsets(0, 10, 2**30)))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (folder / "dataset_info.json").write_text("{}")
    assert "cannot be read" in refused(folder)
