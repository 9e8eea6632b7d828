"""Each patch: what fails without it works with it. One fresh process for all, since they last."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from advrbd_plugin.backdoorbench.compat import PATCHES

# For each patch, what one of the toolbox's scripts does, as a function of a scratch folder.
SYMPTOMS = {
    "record-types": """
        import numpy, torch
        from advrbd_plugin.backdoorbench import safe_pickle
        torch.save({numpy.int64(3): numpy.arange(4)}, scratch + "/record.pt")
        assert safe_pickle.load(scratch + "/record.pt")[3].tolist() == [0, 1, 2, 3]
        assert torch.load(scratch + "/record.pt")[3].tolist() == [0, 1, 2, 3]
    """,
    "numpy-names": """
        import numpy
        assert numpy.array([1], dtype=numpy.float).dtype == float
        assert numpy.infty > 1e300 and numpy.round_(1.6) == 2
    """,
    "numpy-lib-pad": """
        import numpy
        assert numpy.lib.pad(numpy.ones((1, 1)), ((0, 1), (0, 0))).shape == (2, 1)
    """,
    "ragged-arrays": """
        import numpy
        ragged = numpy.asarray([[1, 2], [3]])
        assert ragged.dtype == object and ragged[1] == [3] and numpy.asarray([[1, 2], [3, 4]]).dtype.kind == "i"
    """,
    "pkg-resources": """
        from pkg_resources import resource_stream
        assert resource_stream("json.decoder", "decoder.py").read(3) == bytes([34] * 3)
    """,
    "dataframe-append": """
        import pandas
        frame = pandas.DataFrame([{"a": 1}]).append({"a": 2}, ignore_index=True)
        assert frame["a"].tolist() == [1, 2]
    """,
    "grad-cam-use-cuda": """
        import torch
        from pytorch_grad_cam import GradCAM
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1))
        GradCAM(model=model, target_layers=[model[0]], use_cuda="cpu")
    """,
    "gaussian-multichannel": """
        import numpy
        from skimage.filters import gaussian
        image = numpy.zeros((5, 5, 3))
        image[2, 2, 0] = 1
        assert gaussian(image, sigma=1, multichannel=True)[..., 1:].max() == 0
    """,
    "old-bchlib": """
        import bchlib
        code = bchlib.BCH(137, 5)
        data = bytearray(b"secret!")
        ecc = code.encode(data)
        assert len(ecc) == 5
        data[0] ^= 1
        assert code.decode_inplace(data, bytearray(ecc)) == 1 and data == b"secret!"
        assert code.decode_inplace(bytearray(7), bytearray(b"12345")) == -1
    """,
    "float-num-workers": """
        import torch
        loader = torch.utils.data.DataLoader(torch.arange(4), batch_size=2, num_workers=1.0)
        assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3]]
    """,
    "cuda-on-cpu": """
        import torch
        model = torch.nn.Linear(2, 1).cuda()
        images = torch.ones(3, 2).cuda(non_blocking=True).to("cuda:0")
        patch = torch.zeros_like(images, device="cuda")
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            assert model(images + patch).device.type == "cpu"
    """,
    "quiet-amp": """
        import torch, warnings
        warnings.simplefilter("error", append=True)
        torch.cuda.amp.GradScaler(enabled=False)
    """,
}

PROGRAM = """
import json, sys, textwrap
from advrbd_plugin.backdoorbench.compat import PATCH_OF

scratch, symptoms = sys.argv[1], json.loads(sys.argv[2])

def outcome(code):
    try:
        exec(textwrap.dedent(code), {"scratch": scratch})
        return "works"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"

seen = {}
for name, code in symptoms.items():
    needed = PATCH_OF[name].needed()
    before = outcome(code)
    if needed:
        PATCH_OF[name].apply()
        PATCH_OF[name].apply()
    seen[name] = [needed, before, outcome(code)]
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("scratch")
    program = scratch / "program.py"  # a file, since worker processes import the main module
    program.write_text(PROGRAM)
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, str(program), str(scratch), json.dumps(SYMPTOMS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=scratch, env=environment(root))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def environment(root):
    import os

    paths = filter(None, [str(root), os.environ.get("PYTHONPATH")])
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def test_every_patch_has_a_symptom_and_says_what_broke_it():
    assert set(SYMPTOMS) == {patch.name for patch in PATCHES}
    for patch in PATCHES:
        assert patch.broken_by and patch.symptom and callable(patch.apply)


@pytest.mark.parametrize("name", SYMPTOMS)
def test_patch(outcomes, name):
    needed, before, after = outcomes[name]
    if not needed:
        pytest.skip(f"this installation does not need it: {name}")
    assert before != "works", f"{name} changes nothing on this installation"
    assert after == "works"
