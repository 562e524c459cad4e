"""Names of outputs: where they come from, how they are compared, how a user gives them."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lookalike._core.errors import LookalikeError, LookalikeWarning
from lookalike.encoder import Encoder, Outputs, load_classifier, map_classes, match_names, natural_order
from lookalike.encoder.class_names import names_of_checkpoint, names_of_model, read_class_order


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("ant", "ant"),
        ("Ant", "ANT"),
        ("great_white-shark", "Great White  Shark"),
        ("caf\u00e9", "cafe\u0301"),
        ("STRASSE", "straße"),
        ("tench", "tench, Tinca tinca"),
        ("Tinca_tinca", "tench, Tinca tinca"),
        ("n01440764", "n01440764 tench, Tinca tinca"),
        ("n01440764_tench", "n01440764"),
        ("tench", "n01440764-tench"),
        ("007", "7"),
        ("3", "3"),
        ("hotdog", "Hot Dog"),
    ],
)
def test_names_alike_are_the_same_class(name, other):
    assert match_names([name], ["something else", other]).positions == [1]
    assert match_names([other], [name, "something else"]).positions == [0]


def test_a_name_written_alike_goes_before_a_similar_one():
    assert match_names(["a", "A"], ["A", "a"]).positions == [1, 0]
    assert match_names(["maillot"], ["maillot, tank suit", "maillot"]).positions == [1]


def test_what_fits_twice_or_not_at_all_is_said():
    twice = match_names(["crane"], ["crane, bird", "crane, machine"])
    assert (twice.positions, twice.ambiguous) == ([-1], ["crane"])
    both = match_names(["Crane", "crane_"], ["crane", "dog"])
    assert (both.complete, both.ambiguous) == (False, ["Crane", "crane_"])
    assert match_names(["ant", "bee"], ["ant"]).missing == ["bee"]
    assert match_names(["crane", "crane"], ["crane", "crane"]).complete  # the same list


def test_natural_order_is_timms():
    from timm.data.readers.reader_image_folder import natural_key

    names = ["10", "1", "2", "cat", "Bee", "ant", "a10b2", "a9", "Ä", "_x", "x 3", "X 12"]
    assert natural_order(names) == sorted(names, key=natural_key)


def test_outputs_are_mapped_to_the_models_classes():
    named = Outputs(None, 4, names=("goldfish", "cock", "tench, Tinca tinca", "great white shark"))
    by_name = map_classes(named, ["Tench", "cock", "goldfish", "great_white_shark"])
    assert (by_name.classes.tolist(), by_name.basis) == ([2, 1, 0, 3], "names")
    subset = map_classes(named, ["cock", "Tench"])
    assert subset.classes.tolist() == [2, 0, 1, 2]  # 2: none of the two
    assert map_classes(Outputs(None, 3), ["a", "b", "c"]).classes.tolist() == [0, 1, 2]
    numbered = Outputs(None, 12, names=tuple(map(str, range(12))))
    folders = sorted(map(str, range(12)))  # 0, 1, 10, 11, 2, …
    assert [folders[k] for k in map_classes(numbered, folders).classes] == [str(k) for k in range(12)]
    assert map_classes(named, ["0", "1", "2", "3"]).note == ""  # labels without names number the outputs
    assert map_classes(Outputs(None, 1, names=("no", "yes")), ["yes", "no"]).classes.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("outputs", "classes", "message"),
    [
        (Outputs(None, 3, names=("ant", "bee", "cat")), ["ant", "bee", "dog"], "'dog' are not among the black box's"),
        (Outputs(None, 3), ["ant", "bee"], "has 3 classes and the model 2, and its outputs have no names"),
        (Outputs(None, 3, names=("x", "y", "z")), ["ant", "bee"], "none has the same name"),
        (Outputs(None, 3, names=("crane, a", "crane, b", "c")), ["crane", "c"], "'crane' fit several outputs"),
        (Outputs(None, 3, names=("1", "2", "3")), ["0", "1", "2"], "'0' are not among"),
    ],
)
def test_half_matching_names_are_not_guessed_at(outputs, classes, message):
    found = map_classes(outputs, classes)
    assert found.classes is None
    assert message in found.note
    assert "--class-order" in found.note


def test_names_with_nothing_in_common_are_taken_in_order_and_said_to_be():
    found = map_classes(Outputs(None, 2, names=("tench", "goldfish")), ["n1", "n2"])
    assert found.classes.tolist() == [0, 1]
    assert "output k of the black box is taken for class k" in found.note


@pytest.mark.parametrize(
    "content",
    [
        {"classes": ["b", "a", "c"]},
        {"CLASSES": ("b", "a", "c")},
        {"class_to_idx": {"a": 1, "b": 0, "c": 2}},
        {"idx_to_class": {"0": "b", 1: "a", "2": "c"}},
        {"id2label": {0: "b", 1: "a", 2: "c"}},
        {"label2id": {"c": 2, "b": 0, "a": 1}},
        {"names": {0: "b", 1: "a", 2: "c"}},
        {"meta": {"dataset_meta": {"classes": ["b", "a", "c"]}}},
        {"hyper_parameters": {"class_names": ["b", "a", "c"]}},
        {"classes": ["a", "b", "c"], "class_to_idx": {"a": 1, "b": 0, "c": 2}},  # the numbers go before the list
    ],
)
def test_names_in_a_checkpoint(content, tmp_path):
    assert names_of_checkpoint({"state_dict": {"w": torch.zeros(2)}, **content}) == ["b", "a", "c"]
    net = nn.Sequential(nn.Linear(2, 3))
    (tmp_path / "net.py").write_text("from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(2, 3))\n")
    torch.save({"state_dict": net.state_dict(), **content}, tmp_path / "w.pth")
    loaded = load_classifier(f"{tmp_path / 'net.py'}:make", tmp_path / "w.pth")
    assert loaded.class_names == ["b", "a", "c"]


@pytest.mark.parametrize(
    "content",
    [
        {"labels": [3, 1, 2]},
        {"classes": 3},
        {"class_to_idx": {"a": 0, "b": 7}},
        {"id2label": {0: "LABEL_0", 1: "LABEL_1"}},
        {"names": "abc"},
        {"epoch": 3},
    ],
)
def test_what_names_no_outputs(content):
    assert names_of_checkpoint(content) is None


def test_numbered_folders_in_class_to_idx():
    assert names_of_checkpoint({"class_to_idx": {"1": 0, "10": 1, "2": 2}}) == ["1", "10", "2"]


def test_names_in_the_metadata_of_a_safetensors_file(tmp_path):
    net = nn.Sequential(nn.Linear(2, 3))
    save_file(net.state_dict(), tmp_path / "w.safetensors", metadata={"id2label": json.dumps({0: "b", 1: "a", 2: "c"})})
    (tmp_path / "net.py").write_text("from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(2, 3))\n")
    assert load_classifier(f"{tmp_path / 'net.py'}:make", tmp_path / "w.safetensors").class_names == ["b", "a", "c"]


def test_a_networks_own_names():
    from transformers import ResNetConfig, ResNetForImageClassification

    names = {0: "b", 1: "a", 2: "c"}
    small = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
    model = ResNetForImageClassification(ResNetConfig(**small, id2label=names)).eval()
    x = torch.randn(1, 3, 32, 32)
    assert Encoder(model, x).outputs.names == ("b", "a", "c")
    assert names_of_model(ResNetForImageClassification(ResNetConfig(**small, num_labels=3))) is None  # LABEL_0, …

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            return self.net(x).logits

    assert Encoder(Around(), x).outputs.names == ("b", "a", "c")
    plain = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    plain.class_to_idx = {"no": 1, "yes": 0}
    assert Encoder(plain, torch.zeros(1, 4)).outputs.names == ("yes", "no")


def test_names_of_published_networks():
    from lookalike.encoder.class_names import names_of_timm

    published = nn.Identity()
    published.num_classes = 1000
    names = names_of_timm(published)
    assert names[0] == "n01440764 tench, Tinca tinca"
    assert match_names(["tench", "n01443537", "great white shark"], names).positions == [0, 1, 2]


def test_names_of_another_number_of_classes_are_left_out():
    with pytest.warns(LookalikeWarning, match="names of 3 classes and has 2"):
        found = Encoder(nn.Linear(4, 2), torch.zeros(1, 4), output_names=["a", "b", "c"])
    assert found.outputs.names is None


def test_a_class_order_is_read(tmp_path):
    (tmp_path / "lines.txt").write_text("\ufeffb\na, with a comma\nc\n\n", encoding="utf-8")
    (tmp_path / "list.json").write_text('["b", "a", "c"]')
    (tmp_path / "map.json").write_text('{"a": 1, "b": 0, "c": 2}')
    assert read_class_order(str(tmp_path / "lines.txt")) == ["b", "a, with a comma", "c"]
    for given in (
        "b,a,c",
        "b, a ,c",
        '["b", "a", "c"]',
        ["b", "a", "c"],
        tmp_path / "list.json",
        tmp_path / "map.json",
    ):
        assert read_class_order(given) == ["b", "a", "c"]
    assert read_class_order("natural", ["10", "2"]) == ["2", "10"]
    assert read_class_order(None) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nosuchfile", "neither a file nor a list of names"),
        ("a,,b", "no name for output 1"),
        ([], "holds no names"),
        ([1, 2], "must be names"),
        ("[1, 2]", "must be a JSON list of names"),
        ("[", "is no JSON"),
        ("natural", "needs data whose classes have names"),
    ],
)
def test_a_class_order_that_is_none_is_refused(given, message):
    with pytest.raises(LookalikeError, match=message):
        read_class_order(given)
