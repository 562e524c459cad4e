"""Models go to the Hub and come back, with what belongs to a saved model and nothing else."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from lookalike import LookalikeError, convert, load, load_classifier
from lookalike._core.provenance import fingerprint_json
from lookalike.cli import app
from lookalike.data import ImageArray, Preprocessing
from lookalike.networks import small_cnn
from tests.fake_hub import fake_hub

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A local Hub, and nothing of this machine's own settings for the real one."""
    with fake_hub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_nobody")
        patch.setattr(constants, "ENDPOINT", hub.address)
        patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield hub


@pytest.fixture(scope="module")
def ask():
    """Loads a model, and pushes it or lets it predict; returns the error as text."""

    def ask(folder, repo=None, options=None, x=None):
        try:
            model = load(folder)
            return model.push_to_hub(repo, **options) if repo else model.predict_proba(torch.load(x)).tolist()
        except LookalikeError as error:
            return f"refused: {error}"

    return ask


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved model of a network that is built from its name, and inputs."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    torch.manual_seed(0)
    save_file(small_cnn(2).state_dict(), folder.with_name("net.safetensors"))
    net = load_classifier("lookalike:small-cnn", folder.with_name("net.safetensors"))
    values = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    data = ImageArray(values, np.arange(24) % 2, ["ant", "bee"], Preprocessing((32, 32), None))
    model = convert(net, data, 2, progress=False)
    model.provenance |= {"dataset": "tiny", "test": {"n_samples": 10, "accuracy": 0.9, "agreement": 1.0}}
    model.save(folder)
    x = torch.stack([data[i][0] for i in range(5)])
    torch.save(x, folder.with_name("x.pt"))
    return model, str(folder), x, str(folder.with_name("x.pt"))


def test_a_model_comes_back_as_it_was(hub, ask, saved):
    model, folder, x, file = saved
    address = ask(folder=folder, repo="someone/ants", options={"licence": "cc0-1.0", "private": True})
    assert address.startswith(f"{hub.address}/someone/ants/commit/")
    assert hub.private["someone/ants"]
    files = hub.repos["someone/ants"]
    assert {"config.json", "model.safetensors", "README.md", "gallery.png"} < set(files)
    assert {Path(name).suffix for name in files} == {".json", ".safetensors", ".md", ".png"}
    files["weights.bin"] = b"something else"
    files["README.md"] += b"edited on the Hub"
    found = ask(folder="hub:someone/ants", x=file)
    torch.testing.assert_close(torch.tensor(found), model.predict_proba(x))
    assert not {"weights.bin", "README.md"} & set(hub.downloads)


def test_the_card_has_the_metadata_that_the_hub_reads(hub, ask, saved):
    _, folder, _, _ = saved
    ask(folder=folder, repo="someone/card", options={"licence": "cc0-1.0"})
    _, metadata, card = hub.repos["someone/card"]["README.md"].decode().split("---\n", 2)
    read = yaml.safe_load(metadata)
    assert (read["library_name"], read["license"], read["pipeline_tag"]) == (
        "lookalike",
        "cc0-1.0",
        "image-classification",
    )
    (result,) = read["model-index"][0]["results"]
    assert result["dataset"]["name"] == "tiny (10 test images)"
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {"accuracy": 0.9, "agreement": 1.0}
    assert "The training images nearest to each prototype are part of this model" in card


def test_without_images_no_pixel_is_uploaded_and_earlier_ones_go(hub, ask, saved):
    model, folder, x, file = saved
    ask(folder=folder, repo="someone/private", options={})
    assert any(name.endswith(".png") for name in hub.repos["someone/private"])
    ask(folder=folder, repo="someone/private", options={"images": False})
    assert not any(name.endswith(".png") for name in hub.repos["someone/private"])
    assert "No pixel of any training image" in hub.repos["someone/private"]["README.md"].decode()
    torch.testing.assert_close(torch.tensor(ask(folder="hub:someone/private", x=file)), model.predict_proba(x))


def test_names_of_training_images_are_left_out_if_asked(hub, ask, saved, tmp_path):
    model = copy.deepcopy(saved[0])
    model.training_names = {int(index): f"patient-{index}.png" for index in model.prototypes.nearest.flatten()}
    model.save(tmp_path / "model")
    for names in (True, False):
        ask(folder=str(tmp_path / "model"), repo="someone/named", options={"names": names})
        files = hub.repos["someone/named"]
        assert any(b"patient-" in content for content in files.values()) == names


def test_hostile_and_wrong_repositories_are_refused_before_their_files_are_fetched(hub, ask, saved):
    _, folder, _, file = saved
    ask(folder=folder, repo="someone/good", options={})
    good = dict(hub.repos["someone/good"])
    config = json.loads(good["config.json"])

    def listing(**files):
        changed = {**{key: value for key, value in config.items() if key != "fingerprint"}, "files": files}
        return json.dumps({**changed, "fingerprint": fingerprint_json(changed)}).encode()

    entry = config["files"]["model.safetensors"]
    hub.repos |= {
        "bad/none": {"README.md": b"x"},
        "bad/altered": {**good, "config.json": good["config.json"].replace(b"ant", b"bat")},
        "bad/outside": {**good, "config.json": listing(**{"../../x": entry, "model.safetensors": entry})},
        "bad/longer": {**good, "model.safetensors": good["model.safetensors"] + b"x"},
        "bad/flipped": {**good, "model.safetensors": good["model.safetensors"][:-1] + b"x"},
        "bad/lacking": {name: content for name, content in good.items() if name != "model.safetensors"},
    }
    hub.downloads.clear()
    for repo, reason in {
        "bad/none": "holds no saved model: 'config.json' is missing",
        "bad/altered": "was altered: its fingerprint differs",
        "bad/outside": "names a file outside of it",
        "bad/longer": "'model.safetensors' of 'bad/longer' was altered: it has",
        "bad/lacking": "is incomplete: 'model.safetensors' is missing",
    }.items():
        said = ask(folder=f"hub:{repo}", x=file)
        assert said.startswith("refused: "), repo
        assert reason in said, said
    assert set(hub.downloads) == {"config.json"}
    assert "was altered: its fingerprint differs" in ask(folder="hub:bad/flipped", x=file)
    assert ask(folder="hub:bad/absent", x=file).startswith("refused: the Hub refuses 'bad/absent': ")
    assert "'owner/name', not 'ants'" in ask(folder="hub:ants", x=file)


def test_commands_take_an_address_or_say_what_to_do(hub, ask, saved, tmp_path):
    model, folder, _, _ = saved
    ask(folder=folder, repo="someone/commanded", options={})
    for name in model.class_names:
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(6):
            values = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(values).save(tmp_path / "data" / name / f"{i}.png")

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output + repr(result.exception)
        return result

    predicted = json.loads(run("predict", "hub:someone/commanded", tmp_path / "data" / "ant", "--json").stdout)
    assert len(predicted["predictions"]) == 6
    run("convert", "hub:someone/commanded", tmp_path / "data", "-o", tmp_path / "again", "--n-prototypes", 1)
    assert len(load(tmp_path / "again").prototypes) == 2
    for command in (["edit"], ["studio", tmp_path / "data"]):
        command.insert(1, "hub:someone/commanded")
        assert ".save('FOLDER')" in run(*command, code=2).stderr
