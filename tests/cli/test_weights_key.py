"""The commands ask which weights of a checkpoint are meant."""

import pytest
import torch

from lookalike import load, load_classifier
from tests.cli.test_commands import mistake, run


@pytest.fixture
def two_sets(network_file, tmp_path):
    state = load_classifier(f"{network_file}:bare").model.state_dict()
    content = {"state_dict": state, "state_dict_ema": {name: tensor * 1.5 for name, tensor in state.items()}}
    torch.save(content, tmp_path / "w.ckpt")
    return tmp_path / "w.ckpt"


def test_commands_ask_which_weights_are_meant(two_sets, network_file, image_folder, tmp_path):
    network = f"{network_file}:make"
    convert = ["convert", network, image_folder, "-o", tmp_path / "m", "--weights", two_sets, "--n-prototypes", 1]
    assert "holds 2 sets of weights: 'state_dict'" in mistake(*convert)
    run(*convert, "--weights-key", "state_dict_ema")
    expected = load_classifier(network, two_sets, weights_key="state_dict_ema").model.state_dict()
    found = load(tmp_path / "m", model=load_classifier(network).model).encoder.model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    box = ["evaluate", tmp_path / "m", image_folder, "--network", network, "--only", "diversity", "--images", 4]
    box += ["--black-box", f"{network_file}:bare", "--black-box-weights", two_sets]
    assert "choose one with --black-box-weights-key NAME" in mistake(*box)
    assert "holds no weights 'ema'" in mistake(*box, "--black-box-weights-key", "ema")
    assert "--black-box-weights-key needs --black-box" in mistake(
        "evaluate", tmp_path / "m", image_folder, "--network", network, "--black-box-weights-key", "x"
    )


def test_weights_of_the_original_under_other_names_are_matched_by_order(network_file, image_folder, tmp_path):
    network = f"{network_file}:make"
    run("convert", network, image_folder, "-o", tmp_path / "m", "--n-prototypes", 1)
    state = load_classifier(f"{network_file}:bare").model.state_dict()
    torch.save({f"layer_{k}": tensor for k, tensor in enumerate(state.values())}, tmp_path / "renamed.pth")
    box = ["evaluate", tmp_path / "m", image_folder, "--network", network, "--only", "faithfulness"]
    box += ["--black-box", f"{network_file}:bare", "--black-box-weights", tmp_path / "renamed.pth"]
    assert "--black-box-weights-by-order" in mistake(*box)
    printed = run(*box, "--black-box-weights-by-order").output
    assert "--black-box-weights-by-order -o" in " ".join(printed.split())
    flag = ["evaluate", tmp_path / "m", image_folder, "--network", network, "--black-box-weights-by-order"]
    assert "--black-box-weights-by-order needs --black-box" in mistake(*flag)
