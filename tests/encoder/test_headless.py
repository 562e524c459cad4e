"""Encoders without a head, of many families: what their embedding is, and that nothing pretends to be a black box."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from lookalike import convert, evaluate, explain, load, load_classifier
from lookalike._core.errors import LookalikeError, LookalikeWarning
from lookalike.encoder import Encoder
from lookalike.encoder.headless import check_activation

transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
         "image_size": 32, "patch_size": 16}  # fmt: skip
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
POOLED, LAST = "its own pooled output, 'pooler_output'", "its 'last_hidden_state'"


def hf(stem, options, *, model="Model", config="Config"):
    return getattr(transformers, stem + model)(getattr(transformers, stem + config)(**options))


def tiny_clip(image_size=32):
    open_clip = pytest.importorskip("open_clip")
    vision = {"image_size": image_size, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    return open_clip.CLIP(embed_dim=12, vision_cfg=vision, text_cfg=text)


def extractor():
    from torchvision.models import resnet18
    from torchvision.models.feature_extraction import create_feature_extractor

    return create_feature_extractor(resnet18(weights=None), ["flatten"])


FAMILIES = {
    "vit": (lambda: hf("ViT", SMALL), POOLED, lambda o: o.pooler_output),
    "dinov2": (lambda: hf("Dinov2", SMALL), POOLED, lambda o: o.last_hidden_state[:, 0]),
    "dinov2-registers": (lambda: hf("Dinov2WithRegisters", SMALL), POOLED, lambda o: o.last_hidden_state[:, 0]),
    "dinov3": (lambda: hf("DINOv3ViT", SMALL), POOLED, lambda o: o.last_hidden_state[:, 0]),
    "clip": (lambda: hf("CLIPVision", SMALL), POOLED, lambda o: o.pooler_output),
    "clip-projected": (lambda: hf("CLIPVision", SMALL | {"projection_dim": 12}, model="ModelWithProjection"),
                       "its projected image embedding, 'image_embeds'", lambda o: o.image_embeds),
    "siglip": (lambda: hf("SiglipVision", SMALL), POOLED, lambda o: o.pooler_output),
    "beit": (lambda: hf("Beit", SMALL), POOLED, lambda o: o.pooler_output),
    "data2vec": (lambda: hf("Data2VecVision", SMALL),
                 f"the mean of all patches, without the class token, of {LAST}",
                 lambda o: o.last_hidden_state[:, 1:].mean(1)),
    "deit-without-pooling": (lambda: transformers.DeiTModel(transformers.DeiTConfig(**SMALL), add_pooling_layer=False),
                             f"the class token of {LAST}", lambda o: o.last_hidden_state[:, 0]),
    "mae": (lambda: hf("ViTMAE", SMALL | {"mask_ratio": 0.0}), f"the class token of {LAST}",
            lambda o: o.last_hidden_state[:, 0]),
    "ijepa": (lambda: hf("IJepa", SMALL), f"the mean over 4 positions of {LAST}",
              lambda o: o.last_hidden_state.mean(1)),
    "convnext": (lambda: hf("ConvNext", {"hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1]}), POOLED,
                 lambda o: o.pooler_output),
    "resnet": (lambda: hf("ResNet", STAGES), POOLED, lambda o: o.pooler_output.flatten(1)),
    "swin": (lambda: hf("Swin", {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2],
                                 "window_size": 4}), POOLED, lambda o: o.last_hidden_state.mean(1)),
    "timm-resnet": (lambda: timm.create_model("resnet10t", num_classes=0), "its output", lambda o: o),
    "timm-convnext": (lambda: timm.create_model("convnext_atto", num_classes=0), "its output", lambda o: o),
    "timm-vit": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0, depth=1), "its output",
                 lambda o: o),
    "timm-dinov2": (lambda: timm.create_model("vit_small_patch14_dinov2", img_size=28, num_classes=0, depth=1),
                    "its output", lambda o: o),
    "open-clip": (lambda: tiny_clip().visual, "its output", lambda o: o),
    "torchvision-features": (extractor, "its output 'flatten'", lambda o: o["flatten"]),
    "own": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
            "the mean over 784 positions of its output", lambda o: o.flatten(2).mean(2)),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_the_embedding_is_what_the_library_says_it_is(name):
    torch.manual_seed(0)
    build, described, reference = FAMILIES[name]
    model = build().eval()
    size = 28 if name == "timm-dinov2" else 32
    x = torch.randn(8, 3, size, size)
    with pytest.warns(LookalikeWarning, match="no black box to compare with"):
        encoder = Encoder(model, x)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), reference(model(x)))
    assert encoder.embedding_from == described
    assert encoder.outputs is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sem = convert(model, (x, torch.arange(8) % 2), n_prototypes=1, head="output", progress=False)
    assert sem.encoder.embedding_from == described
    explanation = explain(sem, x[:1], relevance=True)[0]
    assert explanation.original is None
    assert explanation.black_box_heat_map is None
    assert np.isfinite(explanation.likenesses[0].heat_map).all()


def test_models_of_images_and_texts_are_refused_with_the_part_to_give():
    with pytest.raises(LookalikeError, match=r"CLIP compares images with texts: give its image encoder, model\.visual"):
        Encoder(tiny_clip(), torch.randn(2, 3, 32, 32))
    with pytest.raises(LookalikeError, match=r"ViTMAEModel hides a random 75% .*mask_ratio = 0"):
        Encoder(hf("ViTMAE", SMALL), torch.randn(2, 3, 32, 32))


def test_a_classifier_with_features_beside_its_scores_keeps_its_head():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU()), nn.Linear(6, 3)

        def forward(self, x):
            z = self.body(x)
            return {"scores": self.head(z), "pooler_output": z}

    encoder = Encoder(Both(), torch.randn(2, 3, 2, 2))
    assert encoder.head_name == "head"
    assert encoder.output_key == "scores"


BASE = {
    "dinov2": (lambda: hf("Dinov2", SMALL), "Dinov2Model"),
    "clip": (lambda: hf("CLIP", {"vision_config": SMALL, "projection_dim": 12, "text_config": {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99,
        "bos_token_id": 1, "eos_token_id": 2}}), "CLIPVisionModelWithProjection"),
    "siglip": (lambda: hf("Siglip", {"vision_config": SMALL, "text_config": {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "vocab_size": 99}}), "SiglipVisionModel"),
    "mae": (lambda: hf("ViTMAE", SMALL), "ViTMAEModel"),
}  # fmt: skip


@pytest.mark.parametrize("name", BASE)
def test_base_models_of_hugging_face_are_loaded_saved_and_loaded_again(name, tmp_path):
    torch.manual_seed(0)
    build, loaded_as = BASE[name]
    build().save_pretrained(tmp_path / "network")
    loaded = load_classifier(f"hf:{tmp_path / 'network'}")
    assert type(loaded.model).__name__ == loaded_as
    assert loaded.head == "output"
    assert loaded.class_names is None
    x = torch.randn(6, 3, 32, 32)
    sem = convert(loaded, (x, torch.arange(6) % 2), n_prototypes=1, progress=False)
    sem.save(tmp_path / "model")
    torch.testing.assert_close(load(tmp_path / "model").embed(x), sem.embed(x))


def test_a_pooling_layer_without_weights_is_left_out(tmp_path):
    transformers.ViTModel(transformers.ViTConfig(**SMALL), add_pooling_layer=False).save_pretrained(tmp_path / "n")
    with pytest.warns(LookalikeWarning, match="no trained pooling layer"):
        loaded = load_classifier(f"hf:{tmp_path / 'n'}")
    encoder = Encoder(loaded.model, torch.randn(2, 3, 32, 32), head="output")
    assert encoder.embedding_from == f"the class token of {LAST}"
    sem = convert(loaded, (torch.randn(4, 3, 32, 32), [0, 1, 0, 1]), n_prototypes=1, progress=False)
    sem.save(tmp_path / "model")
    load(tmp_path / "model")


def test_the_image_encoder_of_open_clip_by_name(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    (tmp_path / "lookalike-tiny.json").write_text(json.dumps({"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(tmp_path / "lookalike-tiny.json")
    whole = open_clip.create_model("lookalike-tiny", pretrained=None).eval()
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    loaded = load_classifier("open_clip:lookalike-tiny", tmp_path / "weights.pth")
    x = torch.randn(6, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(x), whole.encode_image(x))
    assert loaded.preprocessing.interpolation == "bicubic"
    assert loaded.preprocessing.crop == (32, 32)
    sem = convert(loaded, (x, torch.arange(6) % 2), n_prototypes=1, progress=False)
    sem.save(tmp_path / "model")
    torch.testing.assert_close(load(tmp_path / "model").embed(x), sem.embed(x))
    with pytest.raises(LookalikeError, match=r"open_clip:lookalike-tiny needs weights: it has no published weights"):
        load_classifier("open_clip:lookalike-tiny")
    with pytest.raises(LookalikeError, match=r"ViT-B-32 needs weights: its published weights are openai"):
        load_classifier("open_clip:ViT-B-32/nothing")
    with pytest.raises(LookalikeError, match="open_clip has no model 'nothing'"):
        load_classifier("open_clip:nothing", tmp_path / "weights.pth")


def test_weights_of_another_activation_are_refused():
    """open_clip only logs it, and answers with embeddings that are slightly wrong."""
    models = {"M": {}, "M-quickgelu": {"quick_gelu": True}, "N": {}}
    quick, plain, silent = {"quick_gelu": True}, {"quick_gelu": False}, {}

    def check(name, weights):
        check_activation(name, weights, models.get, list(models))

    for name, weights in (("M/t", plain), ("M/t", silent), ("M-quickgelu/t", quick), ("M-quickgelu/t", silent)):
        check(name, weights)
    with pytest.raises(
        LookalikeError, match=r"open_clip:M/t were trained with QuickGELU.*; use open_clip:M-quickgelu/t"
    ):
        check("M/t", quick)
    with pytest.raises(LookalikeError, match=r"trained with GELU.*has QuickGELU.*; use open_clip:M/t"):
        check("M-quickgelu/t", plain)
    with pytest.raises(LookalikeError, match="choose other weights"):
        check("N/t", quick)


def test_published_weights_of_open_clip_are_checked_before_they_are_downloaded():
    pytest.importorskip("open_clip")
    with pytest.raises(LookalikeError, match=r"use open_clip:ViT-B-32-quickgelu/openai"):
        load_classifier("open_clip:ViT-B-32/openai")


def test_the_scorecard_compares_with_plain_classifiers_in_place_of_a_black_box():
    torch.manual_seed(0)
    centres = 4 * torch.randn(3, 12)
    y = torch.arange(90) % 3
    x = (centres[y] + torch.randn(90, 12)).reshape(90, 3, 2, 2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.LayerNorm(8))
    sem = convert(network, (x[:60], y[:60]), n_prototypes=2, head="output", progress=False)
    card = evaluate(sem, (x[60:], y[60:]), train=(x[:60], y[:60]), only=("faithfulness", "same_embedding"))
    for absent in ("agreement", "black_box_accuracy", "explanation_divergence"):
        assert card.get(absent) is None
    z, z_test = sem.embed(x[:60]).numpy(), sem.embed(x[60:]).numpy()
    nearest = y[:60][np.square(z_test[:, None] - z[None]).sum(-1).argmin(1)]
    assert card["accuracy_nearest_neighbour"] == pytest.approx(float((nearest == y[60:]).float().mean()))
    means = np.stack([z[y[:60] == k].mean(0) for k in range(3)])
    nearest_mean = np.square(z_test[:, None] - means[None]).sum(-1).argmin(1)
    assert card["accuracy_nearest_mean"] == pytest.approx(float((nearest_mean == y[60:].numpy()).mean()))
    assert any("on the same embedding" in sentence for sentence in card.verdict())
    assert "original" not in " ".join(card.verdict())
    shown = {title: value for title, value, _ in card.rows()}
    for title in (
        "logistic regression on the embedding",
        "1-NN on the embedding",
        "the nearest class mean in the embedding",
    ):
        assert shown[f"accuracy of {title}"].endswith("%")
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with_box = convert(classifier, (x[:60], y[:60]), n_prototypes=2, progress=False)
    with pytest.raises(LookalikeError, match="'same_embedding' cannot be measured: the model has a black box"):
        evaluate(with_box, (x[60:], y[60:]), train=(x[:60], y[:60]), only=("same_embedding",))


def test_few_images_per_prototype_are_warned_of_and_auto_takes_fewer():
    torch.manual_seed(0)
    x, y = torch.randn(16, 4), torch.tensor([0] * 11 + [1] * 5)
    network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    options = {"head": "output", "progress": False, "class_names": ["ant", "bee"]}
    with pytest.warns(LookalikeWarning, match=r"2 of 2 classes have fewer than 3 .*\('bee' has 5 for 4\).*'auto'"):
        convert(network, (x, y), n_prototypes=4, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sem = convert(network, (x, y), n_prototypes="auto", **options)
        convert(network, (x, y), n_prototypes={"ant": 3, "bee": 1}, **options)
    assert np.bincount(sem.prototypes.labels.numpy())[1] == 1
