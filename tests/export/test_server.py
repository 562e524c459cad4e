"""The example server starts, and answers as the model does."""

import io
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike import explain
from tests.export.test_file import PREPROCESSING, folder, model, pixels  # noqa: F401 - fixtures

for package in ("fastapi", "uvicorn"):
    pytest.importorskip(package)
EXAMPLE = Path(__file__).parents[2] / "examples" / "serve_exported.py"


@pytest.fixture(scope="module")
def address(folder):  # noqa: F811
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(EXAMPLE), str(folder), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert server.poll() is None, "the server ended"
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        server.terminate()


def test_an_image_is_explained(address, model):  # noqa: F811
    values = pixels()[0][3]
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    found = json.load(urllib.request.urlopen(urllib.request.Request(f"{address}/explain", buffer.getvalue())))
    (expected,) = explain(model, PREPROCESSING(values)[None])
    assert found["class"] == expected.class_name
    assert found["probability"] == pytest.approx(expected.probability, abs=1e-4)
    assert [near["prototype"] for near in found["looks_like"]] == [near.prototype for near in expected.likenesses]
    shown = urllib.request.urlopen(f"{address}/{found['looks_like'][0]['image']}").read()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(shown))), expected.likenesses[0].image)


def test_what_is_no_image_is_refused(address):
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(urllib.request.Request(f"{address}/explain", b"no image"))
    assert error.value.code == 422
    assert "no image that can be read" in error.value.read().decode()
