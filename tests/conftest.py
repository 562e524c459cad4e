"""Small models and data that many tests share, and the watch over models that must not be touched."""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a network

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from tests.small import bright_images, small_network
from tests.watch import model_state

mpl.use("Agg")
# A busy machine may pause a test for longer than any deadline; and a test must not fail today for an example that it
# happens to draw today. Another profile looks for new ones: pytest --hypothesis-profile=default.
settings.register_profile(
    "suite", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")
torch.set_num_threads(1)  # the tests run side by side
if (
    threading.current_thread() is threading.main_thread()
):  # a shell's background jobs ignore Ctrl-C, and so would theirs
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Starts each test with the same random numbers, whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def net() -> nn.Module:
    """A small untrained classifier of 1×8×8 images into 3 classes, in train mode in part, frozen in part."""
    return small_network()


@pytest.fixture
def blobs() -> tuple[Tensor, Tensor]:
    """90 images of 3 classes that differ in where they are bright."""
    return bright_images(90)


@pytest.fixture
def untouched() -> Callable[[nn.Module], AbstractContextManager[None]]:
    """A context that fails if a model is not exactly as it was, exceptions included."""

    @contextmanager
    def watch(model: nn.Module) -> Iterator[None]:
        before = model_state(model)
        try:
            yield
        finally:
            assert model_state(model) == before

    return watch


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder with train and test parts of three classes of 12×10 RGB images."""
    return _with_images(tmp_path / "images")


def _with_images(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, number in (("train", 8), ("test", 3)):
        for k, name in enumerate(["ant", "bee", "cat"]):
            (root / part / name).mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(0, 60, (12, 10, 3), dtype=np.uint8)
                pixels[..., k] += 190
                Image.fromarray(pixels).save(root / part / name / f"{i:02d}.png")
    return root


NETWORK_FILE = """
import torch
from torch import nn
from lookalike.data import Preprocessing


def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return net, Preprocessing.square(8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def bare():
    return make()[0]


def wrong():
    return 42


def fails():
    raise RuntimeError("no luck")
"""


@pytest.fixture
def network_file(tmp_path: Path) -> Path:
    """A user's file with functions that make networks."""
    path = tmp_path / "network.py"
    path.write_text(NETWORK_FILE)
    return path


@pytest.fixture(scope="session")
def converted_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command ``convert`` makes of the images of ``image_folder``, with two prototypes per class."""
    from lookalike.cli import app

    folder = tmp_path_factory.mktemp("converted")
    (folder / "network.py").write_text(NETWORK_FILE)
    images, out = _with_images(folder / "images"), folder / "out"
    arguments = ["convert", f"{folder / 'network.py'}:make", str(images), "-o", str(out), "--n-prototypes", "2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def converted(converted_once: Path, tmp_path: Path) -> Path:
    """A copy of that model's folder."""
    return shutil.copytree(converted_once, tmp_path / "out")


@pytest.fixture(scope="module")
def browser():
    """Chromium, one for all tests of a module."""
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((path for path in map(shutil.which, names) if path), None)
    if program is None:
        pytest.skip("there is no Chromium here")
    sync_api.expect.set_options(timeout=30_000)  # a busy machine takes its time
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()
