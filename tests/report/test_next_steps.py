"""What to do next: steps that follow from the findings of a page, and commands that exist."""

import html
import re
import shlex

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from lookalike import LookalikeError, convert
from lookalike.audit import audit
from lookalike.cli import app
from lookalike.report import write_report
from lookalike.report.commands import Commands
from tests.report.page import Named
from tests.small import bright_images

QUICK = {"n_images": 10, "n_steps": 2, "n_draws": 1, "progress": False}
COMMANDS = Commands("my model", "photos", network="net.py:make")


def check_command(line):
    """Parses a command as the program does, without running it."""
    program, name, *arguments = shlex.split(line)
    assert program == "lookalike"
    command = typer.main.get_command(app).get_command(None, name)
    assert command is not None, name
    command.make_context(name, arguments)


def section_of(page):
    """Returns the steps as text and their commands, or None without the section."""
    found = re.search(r'<section id="next".*?</section>', page.read_text(encoding="utf-8"), re.DOTALL)
    if found is None:
        return None
    steps = [html.unescape(re.sub(r"<[^>]+>", "", step)) for step in re.findall(r"<li>.*?</li>", found[0], re.DOTALL)]
    lines = re.findall(r"<pre><code>(.*?)</code></pre>", found[0])
    commands = [html.unescape(re.sub(r"<[^>]+>", "", line)) for line in lines]
    return steps, commands, found[0]


@pytest.fixture(scope="module")
def data():
    x, y = bright_images(120)
    return x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)), y


@pytest.fixture(scope="module")
def model(data):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3))
    return convert(net, Named(data[0][:60], data[1][:60]), n_prototypes=2, progress=False)


def page_of(model, data, tmp_path, rows, labels=None, **options):
    x, y = data
    test = Named(x[rows], (y if labels is None else labels)[rows])
    path = tmp_path / "r.html"
    train = Named(x[:60], y[:60])
    write_report(model, test, path, train=train, commands=COMMANDS, **{**QUICK, "n_maps": 2, **options})
    return path


@pytest.mark.parametrize("level", ["image", "patch"])
def test_no_audit_of_a_model_that_it_refuses_is_advised(data, level, tmp_path):
    x, y = data
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    model = convert(net, Named(x[:60], y[:60]), n_prototypes=2, progress=False, level=level)
    labels = torch.where(y == 0, 1, y)  # one class is always wrong, and a test image is a training image
    path = page_of(model, data, tmp_path, [*range(60, 80), 0, 1], labels, only=("transparency", "faithfulness"))
    assert ("lookalike audit" in path.read_text(encoding="utf-8")) == (level == "image")
    steps, commands, _ = section_of(path)
    assert any(command.startswith("lookalike evaluate") for command in commands)
    assert ("The first command lists all pairs:" in " ".join(steps)) == (level == "image")
    if level == "patch":
        with pytest.raises(LookalikeError, match="level='image'"):
            audit(model, (x, y), progress=False)


def test_all_commands_exist_and_take_their_options():
    commands = Commands(
        "a model", "some photos", "photos", network="a net.py:make", labels="l.csv", split_seed=3, skips_errors=True,
        large_images=True,
    )  # fmt: skip
    assert "--on-error skip" in commands.audit()
    assert "--on-error skip --split-seed 3 --large-images" in commands.report()
    for line in (
        commands.evaluate("--images", "100", "--sanity", "--rule", "gradient", "--only", "robustness"),
        commands.report("--images", "100", "--sanity"),
        commands.convert("--similarity", "cosine", "--n-prototypes", "a=1,b=2", "--clusterer", "gmm"),
        commands.calibrate("MORE"),
        commands.evaluate_on("MORE"),
        commands.studio(),
        commands.audit(),
    ):
        check_command(line)
        assert "'a model'" in line
        assert "net.py:make" in line


def test_a_page_of_the_command_line_names_its_own_model_and_data(image_folder, network_file, tmp_path):
    model, network = tmp_path / "my model", f"{network_file}:make"
    arguments = ["convert", network, str(image_folder), "-o", str(model), "--n-prototypes", "2"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    page = tmp_path / "r.html"
    (image_folder / "test" / "ant" / "torn.png").write_bytes(b"no image")
    options = ["--network", network, "--images", "2", "--maps", "2", "-o", str(page), "--on-error", "skip"]
    result = CliRunner().invoke(app, ["report", str(model), str(image_folder), *options])
    assert result.exit_code == 0, result.output
    steps, commands, section = section_of(page)
    assert any("--on-error skip" in command for command in commands)
    assert steps
    assert commands
    for line in commands:
        check_command(line)
        assert shlex.quote(str(model)) in line
        assert network in shlex.split(line)
    assert '<a href="#next">What to do next</a>' in page.read_text(encoding="utf-8")
    assert "MODEL is" not in section


def test_copies_are_to_be_taken_out_and_the_command_lists_them(model, data, tmp_path):
    steps, commands, section = section_of(page_of(model, data, tmp_path, [*range(60, 120), 0, 1], n_images=10))
    (step,) = [step for step in steps if step.startswith("Take copies out of the test images")]
    assert "(the 2 that are copies of training images)" in step
    assert '<a href="#duplicates">the pairs</a>' in section
    assert "lookalike audit photos --model 'my model' -o suspects.html --network net.py:make" in commands
    assert "lookalike evaluate 'my model' photos --network net.py:make" in commands


def test_where_all_test_images_are_copies_others_are_asked_for(model, data, tmp_path):
    steps, commands, _ = section_of(page_of(model, data, tmp_path, list(range(20)), n_images=10))
    assert any(step.startswith("Measure the model on other images: each of these") for step in steps)
    assert "lookalike evaluate 'my model' MORE_IMAGES --network net.py:make" in commands


def test_a_class_that_is_mostly_wrong_is_looked_at_and_gets_more_prototypes(model, data, tmp_path):
    labels = data[1].clone()
    rows = torch.arange(60, 120)[data[1][60:] == 1]
    labels[rows] = 0  # most images called 0 are of class 1
    labels[torch.arange(60, 120)[data[1][60:] == 0][3:]] = 2
    rows = list(range(60, 120))
    steps, commands, section = section_of(page_of(model, data, tmp_path, rows, labels, black_box=always(1)))
    look = re.compile(r"Look at the wrong images of '.*' \(\d+ of \d+ wrong\).*labelled correctly\?")
    assert any(look.match(step) for step in steps)
    (train,) = [step for step in steps if step.startswith("Train the original with more images of ")]
    n_wrong, n_of_class = re.search(r"\((\d+) of (\d+) wrong\)", " ".join(steps)).groups()
    name = model.class_names[0]
    assert f"of their wrong test images it gets most wrong itself ({n_wrong} of {n_wrong} of {name!r})" in train
    button = re.search(r'<button[^>]*data-show="wrong"[^>]*>', section)[0]
    assert f'data-n="{n_wrong}" data-labels="0"' in button  # the class's own errors, not all of them
    assert int(n_of_class) == int((labels[rows] == 0).sum())
    assert not any(line.startswith("lookalike convert") for line in commands)
    right = page_of(model, data, tmp_path, rows, labels, black_box=always(0), overwrite=True)
    steps, commands, section = section_of(right)
    (line,) = [line for line in commands if line.startswith("lookalike convert")]
    check_command(line)
    name = model.class_names[0]
    (lost,) = [step for step in steps if step.startswith("Look at what was lost: ")]
    assert f"{n_wrong} test images that the original gets right" in lost
    assert f"of {name!r} ({n_wrong});" in lost
    assert f'data-n="{n_wrong}"' in re.search(r'<button[^>]*data-show="lost"[^>]*>', section)[0]
    assert any(step.startswith(f"Give {name!r} more prototypes:") for step in steps)
    numbers = dict(
        pair.rsplit("=", 1) for pair in shlex.split(line)[shlex.split(line).index("--n-prototypes") + 1].split(",")
    )
    assert list(numbers.values()) == ["4", "2", "2"]


def always(k):
    """Returns a classifier that gives all images one class."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.copy_(9.0 * torch.eye(3)[k])
    return net


def test_heat_maps_are_to_be_tested_where_they_were_not_or_on_few_images(model, data, tmp_path):
    rows = list(range(60, 120))
    steps, commands, _ = section_of(page_of(model, data, tmp_path, rows, only=("faithfulness",)))
    assert any(step.startswith("Test the heat-maps: whether they point to pixels") for step in steps)
    assert "lookalike evaluate 'my model' photos --images 60 --sanity --network net.py:make" in commands
    steps, commands, _ = section_of(page_of(model, data, tmp_path, rows, overwrite=True))
    tested = [
        step for step in steps if step.startswith(("Test the heat-maps on 60 images in place of 10", "See whether"))
    ]
    assert len(tested) == 1
    for line in commands:
        check_command(line)


def test_unfamiliar_images_are_to_be_looked_at(model, data, tmp_path):
    x = data[0].clone()
    x[60:80] = 40 * torch.rand(20, 1, 8, 8)
    steps, commands, section = section_of(page_of(model, (x, data[1]), tmp_path, list(range(60, 120))))
    n = int(re.search(r"Look at the (\d+) unfamiliar images", " ".join(steps))[1])
    assert n >= 7
    assert 'data-show="unfamiliar"' in section
    assert "lookalike calibrate 'my model' MORE_IMAGES -o calibrated-model --network net.py:make" in commands
    assert "MORE_IMAGES is a folder of labelled images that it has not seen" in section


def test_the_advice_of_the_conversion_becomes_a_command(model, data, tmp_path):
    choices = [
        {"similarity": "l2", "n_prototypes": 2, "accuracy": 0.7, "log_loss": 1.0},
        {"similarity": "cosine", "n_prototypes": 20, "accuracy": 0.9, "log_loss": 0.5},
    ]
    rows, options = list(range(60, 120)), {"only": ("faithfulness",), "n_maps": 0}
    before = model.provenance
    try:
        model.provenance = {**before, "advice": {"choices": choices, "best": 1, "n_samples": 60, "sentence": "s."}}
        steps, commands, _ = section_of(page_of(model, data, tmp_path, rows, **options))
        (advice,) = [step for step in steps if "90.0% instead of 70.0% of 60 training images were classified" in step]
        assert "of training images alone" in advice
        assert "looks better than it is if the network was trained on these images, or some are nearly copies" in advice
        assert "what it gives on test images is not known" in advice
        expected = "lookalike convert 'my model' photos --similarity cosine --n-prototypes 20 -o new-model"
        assert f"{expected} --network net.py:make" in commands
        model.provenance = {**before, "advice": {"choices": choices, "best": None, "n_samples": 60, "sentence": "s."}}
        steps, _, _ = section_of(page_of(model, data, tmp_path, rows, overwrite=True, **options))
        assert not any("advice" in step for step in steps)
    finally:
        model.provenance = before


def test_where_nothing_follows_there_is_no_section(model, data, tmp_path):
    labels = model.predict(data[0])
    x, y = data[0][60:], labels[60:]
    familiar = ~torch.tensor([bool(flag) for flag in unfamiliar(model, x)])
    path = tmp_path / "r.html"
    heat_maps_tested = {"only": ("robustness", "sanity"), "n_images": int(familiar.sum()), "n_maps": 2, "n_steps": 2}
    write_report(model, Named(x[familiar], y[familiar]), path, n_draws=1, progress=False, **heat_maps_tested)
    found = section_of(path)
    assert found is None or all(step.startswith("See whether heat-maps") for step in found[0])


def unfamiliar(model, x):
    from lookalike.model.familiarity import are_unfamiliar

    return are_unfamiliar(model, model.embed(x))
