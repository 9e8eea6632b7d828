"""What the toolbox's functions learn in this process: our networks, and Imagenette."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torchvision import transforms

from advrbd_plugin.backdoorbench import additions
from advrbd_plugin.backdoorbench.classifiers import NORMALIZATION
from advrbd_plugin.errors import AdvrBDError

ROOT = Path(__file__).resolve().parents[2]
WNIDS = ("n01440764", "n02102040", "n03000684")


def write_imagenette(root, size="imagenette2-160"):
    """Torchvision's layout: three of its classes, three pictures each in train and one in val."""
    for part, count in (("train", 3), ("val", 1)):
        for label, wnid in enumerate(WNIDS):
            folder = root / size / part / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = numpy.full((160, 200 + number, 3), 40 * label + 10, dtype=numpy.uint8)
                Image.fromarray(pixels).save(folder / f"{wnid}_{number}.JPEG")
    return root


def unknown(name):
    raise Exception("Invalid Dataset")


def dataset_module():
    """What the toolbox's module looks like from outside."""

    def get_transform(name, height, width, train=True):
        steps = [transforms.Resize((height, width)), transforms.ToTensor(), module.get_dataset_normalization(name)]
        return transforms.Compose(steps)

    module = types.SimpleNamespace(
        get_num_classes=unknown,
        get_input_shape=unknown,
        get_dataset_normalization=unknown,
        get_transform=get_transform,
        dataset_and_transform_generate=lambda args: "the toolbox's own",
    )
    additions._extend_datasets(module)
    return module


def test_imagenette_is_read_as_torchvision_lays_it_out(tmp_path):
    module = dataset_module()
    assert module.get_num_classes("imagenette") == 10 and module.get_input_shape("imagenette") == (128, 128, 3)
    args = types.SimpleNamespace(
        dataset="imagenette", dataset_path=str(write_imagenette(tmp_path)), img_size=(128, 128, 3)
    )
    train, _train_transform, none, test, test_transform, _ = module.dataset_and_transform_generate(args)
    assert (len(train), len(test), none) == (9, 3, None)
    assert train.targets == [0, 0, 0, 1, 1, 1, 2, 2, 2] and train.classes[:2] == ["tench", "English springer"]
    pixels = test_transform(test[2][0])
    assert pixels.shape == (3, 128, 128) and test[2][1] == 2
    expected = (torch.tensor(90 / 255) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(pixels[:, 64, 64], expected, atol=0.02, rtol=0)


def test_what_the_toolbox_knows_stays_its_own():
    module = dataset_module()
    assert module.dataset_and_transform_generate(types.SimpleNamespace(dataset="cifar10")) == "the toolbox's own"
    with pytest.raises(Exception, match="Invalid Dataset"):
        module.get_num_classes("svhn")


def test_imagenette_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(AdvrBDError, match="holds no Imagenette: unpack imagenette2-160.tgz there"):
        additions.imagenette_part(tmp_path, "train")


def test_batches_are_normalised_where_a_module_does_it_by_itself():
    module = types.SimpleNamespace(normalization=lambda opt, inputs: "the toolbox's own")
    additions._extend_normalization(module)
    grey = torch.full((2, 3, 4, 4), 0.5)
    found = module.normalization(types.SimpleNamespace(dataset="imagenette"), grey)
    assert float(found[0, 0, 0, 0]) == pytest.approx((0.5 - 0.485) / 0.229)
    assert module.normalization(types.SimpleNamespace(dataset="tiny"), grey) == "the toolbox's own"


def run(code, folder):
    settings = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-B", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | settings)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("first", ["installed", "imported"])
def test_networks_are_known_whichever_comes_first(tmp_path, first):
    module = tmp_path / "utils/aggregate_block/model_trainer_generate.py"
    module.parent.mkdir(parents=True)
    for folder in (module.parent, module.parent.parent):
        (folder / "__init__.py").touch()
    module.write_text(
        "def generate_cls_model(model_name, num_classes=10, image_size=32, **options):\n"
        "    return model_name, num_classes, image_size, options\n"
    )
    steps = [
        "from advrbd_plugin.backdoorbench.additions import install_additions; install_additions()",
        "import utils.aggregate_block.model_trainer_generate as module",
    ]
    asked = (
        "print(module.generate_cls_model('resnet18', 7, pretrained=True));"
        "print(module.generate_cls_model('resnet_narrow', 7).fc.out_features)"
    )
    code = "\n".join([*(steps if first == "installed" else reversed(steps)), steps[0], asked])
    assert run(code, tmp_path).splitlines() == ["('resnet18', 7, 32, {'pretrained': True})", "7"]


def test_the_normalisation_is_the_toolboxs(backdoorbench):
    pytest.importorskip(
        "tqdm", reason="BackdoorBench's data sets import it: pip install 'advrbd_plugin[backdoorbench]'"
    )
    code = (
        "from utils.aggregate_block.dataset_and_transform_generate import get_dataset_normalization as n\n"
        f"for name in {sorted(set(NORMALIZATION) - {'imagenette'})}:\n"
        "    print((name, tuple(map(float, n(name).mean)), tuple(map(float, n(name).std))))"
    )
    expected = [(name, *NORMALIZATION[name]) for name in sorted(set(NORMALIZATION) - {"imagenette"})]
    assert run(code, backdoorbench).splitlines() == [str(row) for row in expected]
