"""The commands and programs of the documentation run, against small networks and data."""

import shlex
import shutil
from pathlib import Path
from typing import Any

import lightning  # noqa: F401 - imported once, here, and not within the time of a command
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from typer.testing import CliRunner

import lookalike
from lookalike import Encoder, convert, embed, evaluate, explain, load, load_classifier, relevance
from lookalike.baselines import METHODS
from lookalike.cli import app
from lookalike.conversion.clustering import CLUSTERERS
from lookalike.data import DATASETS, DatasetEntry, ImageArray, Preprocessing, load_folder
from lookalike.data.bundle import DataBundle
from lookalike.experiments import EXPERIMENTS
from lookalike.metrics import SECTIONS
from lookalike.model.similarity import SIMILARITIES
from lookalike.relevance import lrp
from tests.pages import PAGES, ROOT, commands_of, python_of

REGISTRIES = (CLUSTERERS, DATASETS, EXPERIMENTS, METHODS, SECTIONS, SIMILARITIES)

# Commands that are not run, each with the reason: the beginning, or a part, of the command.
SKIPPED = {
    "--device cuda:0,cuda:1": "asks for two GPUs",
    "git clone": "not a command of this project",
    "make demo": "the demonstration: tests/demo runs it",
    "lookalike demo": "the demonstration: tests/demo runs it",
    "pip install": "needs a network",
    "npm install": "needs a network",
    "lookalike push": "needs the Hub: tests/model/test_hub.py has a local one",
    "hub:": "needs the Hub: tests/model/test_hub.py has a local one",
    "--page": "needs a package of npm: tests/export/test_page.py writes pages",
    "ray start": "needs a cluster: tests/conversion/test_distributed.py starts one",
    "--cluster": "needs a cluster: tests/conversion/test_distributed.py starts one",
    "lookalike studio": "serves until it is stopped: tests/studio starts one",
    "…": "stands for several commands",
    "python run_exported.py": "not a command of this project: tests/export runs it",
    "cifar10": "downloads the data, unless it only shows",
    "lookalike reproduce ": "takes minutes: tests/experiments runs each experiment",
}

# Programs that are not run.
SKIPPED_PAGES = {
    "localisation.md": "needs masks: tests/metrics/test_localisation.py has some",
    "any-encoder.md": "downloads an encoder: tests/encoder has small ones without a head",
    "hub.md": "needs MLflow: tests/model/test_mlflow.py runs it",
    "cluster.md": "needs a cluster: tests/conversion/test_distributed.py starts one",
}

# Networks of the pages, and the smallest ones that are built in the same way.
SMALL = {
    "torchvision:resnet18": "timm:test_resnet",
    "torchvision:resnet34": "timm:test_resnet",
    "timm:resnet18": "timm:test_resnet",
    "timm:resnet50": "timm:test_resnet",
    "hf:facebook/dinov2-small": "timm:test_resnet",
    "photos/": "images/",
    "--workers 8": "--workers 0",
}

# What commands and programs make, and what they find from models made before.
MADE = (
    "my-model", "my-vit", "report.html", "scorecard.json", "pictures", "box", "protopnet", "kmex", "protopnet-kmex",
    "protovae", "out", "work", "embeddings", "digits-model", "my-model-without-images", "experiments",
    "exported", "exported-pt2", "exported-small", "calibrated", "watch.json", "watch.jsonl", "new-modes.png",
)  # fmt: skip

# Exit codes other than 0 that a command may have: these compare figures with thresholds, or new images with old ones.
EXIT_CODES = {"--min-agreement": (0, 1), "lookalike watch": (0, 1)}

MY_NET = """
import torch
from torch import nn
from lookalike.data import Preprocessing


class MyNet(nn.Module):
    def __init__(self, n_classes=3):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d({channels}, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4, n_classes)

    def forward(self, x):
        return self.head(self.pool(self.features(x)).flatten(1))


def {function}():
    torch.manual_seed(0)
    return MyNet({n_classes}).eval(), Preprocessing.square(8, mean=({mean},) * {channels}, std=(0.25,) * {channels})
"""


def is_skipped(command: str) -> bool:
    if command.endswith("--show") or command == "lookalike reproduce":
        return False
    command = command.replace("'…'", "…")
    return any(command.startswith(part) or f" {part}" in f" {command}" for part in SKIPPED)


def image_file(path: Path, colour: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 60, (12, 12, 3), dtype=np.uint8)
    pixels[..., colour] += 190
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the pages speak of: images, networks, weights, saved models."""
    folder = tmp_path_factory.mktemp("workshop")
    parts = {
        "images/train": 4,
        "images/test": 2,
        "my-images/train": 2,
        "my-images/test": 1,
        "imagenet/train": 5,
        "validation": 14,
    }
    for part, n in parts.items():
        for k, name in enumerate(("ant", "bee", "cat")):
            for i in range(n):
                image_file(folder / part / name / f"{i}.png", k, 10 * k + i)
    for i in range(2):
        image_file(folder / "new-images" / f"{i}.png", i, i)
    image_file(folder / "more.png", 2, 2)
    image_file(folder / "photo.jpg", 0, 3)
    torch.manual_seed(0)
    for name in ("test_resnet", "test_vit"):
        weights = timm.create_model(name, num_classes=3).state_dict()
        torch.save(weights, folder / f"{name}.pth")
        save_file(weights, folder / f"{name}.safetensors")
    weights = timm.create_model("test_resnet", num_classes=3).state_dict()
    averaged = {name: tensor * 0.5 for name, tensor in weights.items()}
    for given in ("weights.pth", "weights.safetensors", "resnet18.safetensors"):
        (folder / given).write_bytes((folder / f"test_resnet{Path(given).suffix}").read_bytes())
    torch.save({"state_dict": weights, "state_dict_ema": averaged}, folder / "last.pth.tar")
    rows = [f"{file.relative_to(folder / 'images')},{file.parent.name},{file.parts[-3]}" for file in images_of(folder)]
    (folder / "labels.csv").write_text("\n".join(["file_name,label,split", *rows]))
    (folder / "edits.yaml").write_text("- split: {prototype: 0, n: 2}\n  note: two kinds\n")
    (folder / "classes.txt").write_text("cat\nant\nbee\n")
    mine = MY_NET.format(channels=3, n_classes=3, function="make", mean=0.5)
    (folder / "my_net.py").write_text(mine)
    scope: dict[str, Any] = {}
    exec(mine, scope)
    torch.save(scope["make"]()[0].state_dict(), folder / "my_net.pth")
    digits = MY_NET.format(channels=1, n_classes=10, function="digit_network", mean=0.13)
    (folder / "demo-output").mkdir()
    (folder / "demo-output" / "network.py").write_text(digits)
    exec(digits, scope)
    torch.save(scope["digit_network"]()[0].state_dict(), folder / "demo-output" / "classifier.pth")
    return folder


def images_of(folder: Path) -> list[Path]:
    return sorted((folder / "images").rglob("*.png"))


@pytest.fixture(scope="module")
def saved_models(workshop: Path) -> dict[str, Path]:
    """The converted models that pages take for granted."""
    specs = {
        "my-model": ("timm:test_resnet", "test_resnet.pth"),
        "my-vit": ("timm:test_vit", "test_vit.pth"),
        "mine": (f"{workshop / 'my_net.py'}:make", "my_net.pth"),
    }
    for name, (spec, weights) in specs.items():
        loaded = load_classifier(spec, workshop / weights)
        train = load_folder(workshop / "images", loaded.preprocessing).train
        convert(loaded, train, n_prototypes=1).save(workshop / "models" / name)
    return {name: workshop / "models" / name for name in specs}


@pytest.fixture
def at_work(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Goes to the folder; what a page registers is gone afterwards, and 'digits' has few and small images."""
    monkeypatch.chdir(workshop)
    for made in MADE:
        remove(workshop / made)
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_members", dict(registry._members))
    monkeypatch.setattr(DATASETS, "_members", DATASETS._members | {"digits": DatasetEntry("few digits", few_digits)})
    return workshop


def few_digits(preprocessing: Preprocessing | None = None) -> DataBundle:
    preprocessing = preprocessing or Preprocessing.square(8, mean=(0.13,), std=(0.31,))
    rng, names = np.random.default_rng(0), [str(k) for k in range(10)]
    parts = []
    for n in (60, 1000):
        labels = np.sort(np.arange(n) % 10)
        images = rng.integers(0, 100, (n, 8, 8), dtype=np.uint8)
        images[np.arange(n), labels % 8, labels // 8] = 255
        parts.append(ImageArray(images, labels, names, preprocessing))
    return DataBundle("digits", *parts, names, preprocessing)


def run(command: str) -> None:
    for large, small in SMALL.items():
        command = command.replace(large, small)
    _, *arguments = shlex.split(command)
    if arguments[0] == "train" and "--show" not in arguments:
        arguments += ["--epochs", "1", "--set", "image_size=16"]
        arguments += [] if "--network" in arguments else ["--network", "lookalike:small-cnn"]
    if arguments[0] == "convert" and arguments[1].startswith("timm:") and "--weights" not in arguments:
        arguments += ["--weights", "weights.pth"]  # published weights need a network
    if arguments[0] in ("evaluate", "report"):  # the last one counts
        arguments += ["--images", "1"]
    if "-o" in arguments:  # a page may show several commands with one output
        remove(Path(arguments[arguments.index("-o") + 1]))
    result = CliRunner().invoke(app, arguments)
    allowed = next((codes for part, codes in EXIT_CODES.items() if part in command), (0,))
    assert result.exit_code in allowed, f"{command}\n{result.output}\n{result.exception!r}"


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def prepared(folder: Path) -> dict[str, Any]:
    """Returns what a page's program takes for granted."""
    scope: dict[str, Any] = {"__name__": "page"}
    exec((folder / "my_net.py").read_text(), scope)
    model = scope["make"]()[0]
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(30) % 3
    x = 0.3 * torch.randn(30, 3, 8, 8, generator=generator)
    x[torch.arange(30), y] += 1
    train, test = (x, y), (x[:12], y[:12])
    sem = convert(model, train, n_prototypes=2)
    images = np.random.default_rng(0).integers(0, 255, (1000, 8, 8), dtype=np.uint8)
    y_new = torch.arange(60) % 3
    x_new = 0.3 * torch.randn(60, 3, 8, 8, generator=generator)
    x_new[torch.arange(60), y_new] += 1
    return scope | {
        "model": model, "train": train, "test": test, "x": x[:4], "sem": sem, "new_images": (x[:12], y[:12]),
        "validation": (x_new, y_new), "images": x_new,
        "lookalike": lookalike, "convert": convert, "Encoder": Encoder, "embed": embed, "evaluate": evaluate,
        "explain": explain, "load": load, "relevance": relevance, "lrp": lrp, "torch": torch, "nn": nn,
        "encoder": nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), "vectors": torch.rand(6, 4),
        "labels": torch.arange(6) % 3, "class_names": ["ant", "bee", "cat"], "weight": torch.rand(3, 6),
        "Z": x.flatten(1).numpy(), "y": y.numpy(), "GridSearchCV": GridSearchCV, "make_pipeline": make_pipeline,
        "StandardScaler": StandardScaler, "read_my_files": lambda: (images, np.arange(1000) % 2),
    }  # fmt: skip


# options of networks that a page describes, and of the one that its program runs with
OTHER_NETWORKS = {'"classifier.6"': '"head"', '"species"': "None", '"tasks.species"': "None"}

# Pages whose commands or programs take longer than five seconds
SLOW_COMMANDS = ("export.md", "evaluate.md", "train-a-baseline.md", "own-folder.md", "standard-measures.md")
SLOW_PROGRAMS = ("export.md", "train-a-baseline.md")


def marked(pages: list[Path], slow: tuple[str, ...]) -> list[Any]:
    return [pytest.param(page, marks=[pytest.mark.slow] if page.name in slow else []) for page in pages]


SHELL = [page for page in PAGES if any(not is_skipped(command) for command in commands_of(page))]
PYTHON = [page for page in PAGES if python_of(page).strip() and page.name not in SKIPPED_PAGES]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", marked(SHELL, SLOW_COMMANDS), ids=name_of)
@pytest.mark.filterwarnings("ignore")
def test_the_commands_of_a_page_run(page, at_work, saved_models):
    for name in ("my-model", "my-vit"):
        source = saved_models["mine" if page.name == "save-and-load.md" else name]
        shutil.copytree(source, at_work / name)
    for command in commands_of(page):
        if not is_skipped(command):
            run(command)


@pytest.mark.parametrize("page", marked(PYTHON, SLOW_PROGRAMS), ids=name_of)
@pytest.mark.filterwarnings("ignore")
def test_the_program_of_a_page_runs(page, at_work):
    scope = prepared(at_work)
    if page.name == "save-and-load.md":  # a network that is built again from its name
        loaded = load_classifier("timm:test_resnet", "test_resnet.pth")
        scope["MyNet"] = lambda: timm.create_model("test_resnet", num_classes=3)
        scope["sem"] = convert(loaded, load_folder("images", loaded.preprocessing).train, n_prototypes=1)
    if page.name == "number-of-prototypes.md":  # which names its classes
        scope["train"] = (scope["train"][0], np.array(["ant", "bee"])[scope["train"][1] % 2])
    program = python_of(page).replace("timm:resnet50", SMALL["timm:resnet50"])
    for of_page, of_test in OTHER_NETWORKS.items():
        program = program.replace(of_page, of_test)
    exec(compile(program, str(page), "exec"), scope)
