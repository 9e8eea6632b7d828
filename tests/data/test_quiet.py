"""Damaged pictures make no library write to stderr by itself."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

READ = """
import sys
from advrbd_plugin.data import decoding
{instead}
content = open(sys.argv[1], "rb").read()
try:
    decoding.decode(content, (64, 64))
except decoding.UnreadableImage:
    pass
"""


@pytest.fixture
def damaged_fax(tmp_path):
    """A TIFF in the facsimile's code, with wrong code words."""
    pixels = np.random.default_rng(0).integers(0, 2, (64, 64), np.uint8) * 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert("1").save(buffer, "TIFF", compression="group4")
    content = bytearray(buffer.getvalue())
    content[400:406] = b"\xff" * 6
    path = tmp_path / "fax.tif"
    path.write_bytes(content)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="where libtiff is loaded from is known on Linux alone")
@pytest.mark.parametrize(("instead", "silent"), [("", True), ("decoding.quiet_pillow = lambda: None", False)])
def test_libtiff_writes_nothing_of_its_own(damaged_fax, instead, silent):
    code = READ.format(instead=instead)
    done = subprocess.run([sys.executable, "-c", code, str(damaged_fax)], capture_output=True, text=True, check=True)
    assert (done.stderr == "") == silent, done.stderr
