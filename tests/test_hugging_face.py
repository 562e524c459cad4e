"""Image classifiers of transformers, by their folders: convert, explain, save, load by name alone, explain the same.

``tools/families.py`` tries all of them; here are those that differ most, to be quick.
"""

import pytest
import torch

from lookalike import convert, load, load_classifier
from lookalike._core.errors import LookalikeError
from lookalike.encoder import Encoder
from lookalike.encoder.building import safe_config
from lookalike.relevance import lrp
from tests.architectures import randomised
from tests.hugging_face import classifiers, hugging_face
from tests.round_trip import differ_by, explained_twice

pytest.importorskip("transformers")

QUICK = (
    "hf:beit", "hf:clip", "hf:convnextv2", "hf:cvt", "hf:deit", "hf:dinov2_with_registers", "hf:hgnet_v2", "hf:hiera",
    "hf:LevitForImageClassificationWithTeacher", "hf:mobilevit", "hf:perceiver", "hf:poolformer", "hf:pvt_v2",
    "hf:resnet", "hf:segformer", "hf:siglip", "hf:swiftformer", "hf:swinv2", "hf:vit",
)  # fmt: skip


def network(name):
    torch.manual_seed(0)
    build, shape = hugging_face(name)
    return randomised(build()), torch.randn(4, *shape)


@pytest.mark.parametrize("name", [name for name in QUICK if name in classifiers()])
def test_a_saved_folder_is_explained_as_the_network_was(name, tmp_path):
    model, images = network(name)
    model.save_pretrained(tmp_path / "network")
    loaded = load_classifier(f"hf:{tmp_path / 'network'}")
    assert type(loaded.model) is type(model)
    first, second = explained_twice(loaded, images, tmp_path / "model")
    assert first[0].black_box_heat_map is not None
    assert first[0].caution is None
    assert differ_by(first, second) < 1e-4


def test_a_network_of_timm_within_transformers_is_loaded_with_itself(tmp_path):
    model, images = network("hf:timm_wrapper")
    model.save_pretrained(tmp_path / "network")
    loaded = load_classifier(f"hf:{tmp_path / 'network'}")
    labels = torch.tensor([0, 1, 0, 1])
    sem = convert(loaded, (images, labels), n_prototypes=1, progress=False, class_names=["ant", "bee"])
    sem.save(tmp_path / "model")
    with pytest.raises(LookalikeError, match=r"a wrapped network .* is refused; make the network yourself"):
        load(tmp_path / "model")
    again = load(tmp_path / "model", model=loaded.model)
    torch.testing.assert_close(again.predict_proba(images), sem.predict_proba(images))


@pytest.mark.parametrize(
    ("value", "refused"),
    [([0, 0, 12], False), (3, False), (True, True), ("name", True), (["name"], True), ([[1], {"a": 1}], True)],
)
def test_numbers_under_a_name_that_fetches_are_allowed(value, refused):
    config = {"model_type": "swinv2", "pretrained_window_sizes": value}
    if not refused:
        assert safe_config(config) == config
        return
    with pytest.raises(LookalikeError, match="asks for pretrained_window_sizes"):
        safe_config(config)


def test_two_heads_on_different_tokens_are_asked_about():
    model, images = network("hf:DeiTForImageClassificationWithTeacher")
    with pytest.raises(LookalikeError, match=r"'cls_classifier', 'distillation_classifier'.*choose with head="):
        Encoder(model, images)
    assert Encoder(model, images, head="cls_classifier").embedding_dim == 32


@pytest.mark.parametrize("name", ["hf:imagegpt", "hf:siglip2"])
def test_classifiers_that_take_no_images_are_refused_by_name(name):
    model, images = network(name)
    with pytest.raises(LookalikeError, match=r"cannot run inputs of shape \(3, 64, 64\)"):
        lrp(model, images)
