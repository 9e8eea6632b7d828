"""``--model timm:NAME`` with timm itself, where it is installed: from pictures to verdicts and back from the files."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from advrbd_plugin.cli import main
from advrbd_plugin.nn.model_file import load_model

timm = pytest.importorskip("timm", reason="needs timm: pip install 'advrbd_plugin[timm]'")


@pytest.fixture
def pictures(tmp_path):
    noise = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(8):
            Image.fromarray(noise.integers(0, 256, (32, 32, 3), np.uint8)).save(
                tmp_path / "pictures" / name / f"{index}.png"
            )
    return tmp_path / "pictures"


# Convolutions, which take every size; a transformer, which is told the size; one with a token for a teacher.
@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_a_network_of_timm_is_trained_and_read_again(pictures, tmp_path, name, capsys):
    out = tmp_path / "out"
    quick = ["--epochs", "1", "--device", "cpu", "--set", "num_masks=1", "--set", "patch_size=8"]
    status = main(["scan", str(pictures), "--out", str(out), "--model", f"timm:{name}", *quick])
    assert status in (0, 3, 4), capsys.readouterr().err
    with (out / "verdicts.csv").open() as handle:
        assert len(list(csv.DictReader(handle))) == 16
    model = load_model(out, "backdoored_model.safetensors", model=f"timm:{name}")
    assert model.predict([Image.new("RGB", (40, 30))]).shape == (1,)
    capsys.readouterr()
    assert main(["scan", str(pictures), "--out", str(tmp_path / "no"), "--model", "timm:resnet10x"]) == 2
    assert "timm has no network 'resnet10x': did you mean resnet10t" in capsys.readouterr().err
