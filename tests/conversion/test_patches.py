"""KMEx on patches: a prototype model whose prototypes are parts of images."""

import itertools
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import nn
from torchvision.models import convnext_tiny, densenet121, efficientnet_b0, resnet18
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from lookalike import Encoder, LookalikeError, LookalikeWarning, convert, evaluate, explain, load
from lookalike._core.wording import UNFAMILIAR_BY_PATCHES
from lookalike.encoder.patches import PatchEncoder
from lookalike.metrics.familiarity import familiarity_finding
from lookalike.model.decision import PatchLinear, PatchMean, PatchVote, make_classifier
from lookalike.parts import concepts, difference
from lookalike.testing import check_prototype_model


def make_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def small_swin(weights=None):
    return SwinTransformer([4, 4], 8, [2, 2, 2], [1, 2, 4], [4, 4], num_classes=3)


@pytest.fixture
def model(blobs):
    return convert(make_net(), blobs, n_prototypes=4, n_images=1, level="patch")


def test_a_patch_is_a_position_of_the_map_before_the_average(blobs, untouched):
    net, (x, _) = make_net(), blobs
    net.train()
    with untouched(net):
        encoder = PatchEncoder(Encoder(net, x[:2]), x[:2])
        maps = encoder.maps(x[:5])
    assert (encoder.grid, encoder.patch_dim, encoder.embedding_dim) == ((4, 4), 6, 96)
    torch.testing.assert_close(maps, net[:3](x[:5]))
    assert torch.equal(encoder(x[:5])[1, 5 * 6 : 6 * 6], maps[1, :, 1, 1])  # row by row of the map
    torch.testing.assert_close(maps.mean((2, 3)), encoder.image_encoder(x[:5]))
    net.eval()
    torch.testing.assert_close(encoder.head(encoder(x[:5])), net(x[:5]))
    embeddings, scores = encoder.embed_and_score(x[:5])
    assert torch.equal(embeddings, encoder(x[:5]))
    torch.testing.assert_close(scores, net(x[:5]))


@pytest.mark.parametrize("build", [resnet18, densenet121, efficientnet_b0, convnext_tiny, small_swin])
def test_the_map_of_known_architectures(build):
    net = build(weights=None).eval()
    x = torch.randn(2, 3, 64, 64)
    encoder = PatchEncoder(Encoder(net, x), x)
    assert encoder.grid == ((4, 4) if build is small_swin else (2, 2))
    assert encoder.is_pooled == (build is not convnext_tiny)  # which normalises the average
    if build is resnet18:
        seen = []
        with torch.no_grad(), net.layer4.register_forward_hook(lambda *call: seen.append(call[2])):
            net(x)
        assert torch.equal(encoder.maps(x), seen[0])


@pytest.mark.parametrize(("build", "grids"), [(resnet18, [8, 4, 2]), (small_swin, [16, 8, 4])])
def test_the_last_maps_of_three_resolutions_are_found_by_running(build, grids):
    net, x = build(weights=None).eval(), torch.randn(2, 3, 64, 64)
    cut = Encoder(net, x)
    encoder = PatchEncoder(cut, x, "b234")
    assert encoder.grid == (grids[0], grids[0])
    if build is resnet18:
        assert encoder.layers == ("layer2", "layer3", "layer4")
    # each layer has the same mean squared length, whatever its scale in the network
    for name, side in zip(encoder.layers, grids, strict=True):
        layer = PatchEncoder(cut, x, name)
        assert layer.grid == (side, side)
        scale = encoder.scales[encoder.layers.index(name)]
        with torch.no_grad():
            assert float((scale * layer.maps(x)).square().sum(1).mean()) == pytest.approx(1, rel=1e-4)
    assert PatchEncoder(cut, x, "b4").layers == PatchEncoder(cut, x).layers


def test_tokens_of_a_transformer_are_patches_without_the_class_token():
    net, x = VisionTransformer(32, 16, 4, 2, 32, 64).eval(), torch.randn(1, 3, 32, 32)
    cut = Encoder(net, x)
    encoder = PatchEncoder(cut, x)
    seen = []
    with torch.no_grad(), net.encoder.register_forward_hook(lambda *call: seen.append(call[2])):
        net(x)
    assert encoder.grid == (2, 2)
    torch.testing.assert_close(encoder(x).view(1, 4, 32), seen[0][:, 1:])
    assert not encoder.is_pooled  # the head reads the class token
    assert encoder.head_weight is None
    assert len(PatchEncoder(cut, x, "b234").layers) == 3


def test_receptive_fields_are_found_by_running():
    conv = {"stride": 2, "padding": 1}
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, **conv), nn.ReLU(), nn.Conv2d(4, 4, 3, **conv), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip
    x = torch.randn(2, 1, 32, 48)
    views = PatchEncoder(Encoder(net, x), x, ["1", "3"]).views()
    assert [(view.stride, view.receptive_field) for view in views] == [((2, 2), (3, 3)), ((4, 4), (7, 7))]


def test_networks_without_a_map_are_refused():
    small = torch.randn(2, 3, 32, 32)
    with pytest.raises(LookalikeError, match="no feature map larger than 1×1"):
        convert(resnet18(weights=None), (small, [0, 1]), level="patch")
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 2))
    with pytest.raises(LookalikeError, match="no feature map larger than 1×1"):
        PatchEncoder(Encoder(flat, small), small)
    mlp = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(LookalikeError, match="are needed"):
        convert(mlp, (torch.randn(6, 4), [0, 1] * 3), level="patch")
    images = (torch.randn(4, 1, 8, 8), [0, 1, 2, 0])
    for options, message in (
        ({"max_patches": 0}, "at least 1"),
        ({"layers": "conv9"}, "there is no 'conv9'"),
        ({"decision": "vto"}, "decision"),
        ({"shared": True}, "belong to no one class"),
        ({"advice": True}, "is an option of whole images"),
    ):
        with pytest.raises(LookalikeError, match=message):
            convert(make_net(), images, level="patch", **options)
    with pytest.raises(LookalikeError, match="layers is an option of patches"):
        convert(make_net(), images, layers="last")


def test_the_image_is_of_the_class_of_most_patches(model, blobs):
    x, _ = blobs
    segments = model.segment(x)
    assert segments.classes.shape == segments.concepts.shape == (90, 4, 4)
    counts = nn.functional.one_hot(segments.classes.flatten(1), 3).sum(1)
    shares, predicted = model(x), model.predict(x, batch_size=7)
    torch.testing.assert_close(shares, counts / 16, rtol=0, atol=2e-5)
    assert bool((counts.gather(1, predicted[:, None])[:, 0] == counts.max(1).values).all())
    patches = model.encoder.maps(x[:1])[0].flatten(1).T
    nearest = torch.cdist(patches, model.prototypes.vectors).argmin(1)
    assert torch.equal(segments.concepts[0].flatten(), nearest)
    assert torch.equal(segments.classes[0].flatten(), model.prototypes.labels[nearest])
    # a pixel has the concept of its cell
    assert torch.equal(segments.upsampled()[0], segments.concepts[0].repeat_interleave(2, 0).repeat_interleave(2, 1))
    torch.testing.assert_close(segments.shares().sum(1), torch.ones(90, dtype=torch.float64))


@pytest.mark.parametrize(("near", "far", "winner"), [(1.0, 9.5, 1), (0.5, 9.0, 0)])
def test_of_equal_votes_the_likest_class_wins(near, far, winner):
    patches = torch.tensor([near] * 8 + [far] * 8)
    similarities = -(patches[:, None] - torch.tensor([0.0, 10.0, 99.0])).abs()
    scores = PatchVote()(similarities[None], torch.tensor([0, 1, 2]), 3)
    torch.testing.assert_close(scores, torch.tensor([[0.5, 0.5, 0.0]]), rtol=0, atol=2e-5)
    assert int(scores.argmax()) == winner


@pytest.mark.parametrize("decision", [PatchVote(), PatchMean(0.5), PatchLinear(torch.rand(3, 5), 0.3)])
def test_scores_are_sums_over_patches_and_have_a_gradient(decision):
    similarities = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([0, 0, 1, 2, 2])
    scores, by_patch = decision(similarities, labels, 3), decision.patch_scores(similarities, labels, 3)
    torch.testing.assert_close(by_patch.sum(1), scores, rtol=0, atol=2e-5)
    (gradient,) = torch.autograd.grad(scores[:, 0].sum(), similarities)
    assert float(gradient.abs().sum()) > 0
    torch.testing.assert_close(decision.probabilities(similarities, labels, 3).sum(1), torch.ones(4))


def test_linear_weights_are_the_non_negative_least_squares():
    rng = np.random.default_rng(0)
    shares, labels = rng.dirichlet(np.ones(6), 200), rng.integers(0, 3, 200)
    weight = PatchLinear.fit(shares, labels, 3).weight.numpy()
    for k in range(3):
        np.testing.assert_allclose(weight[k], nnls(shares, (labels == k).astype(float))[0], atol=1e-3)


class ChannelNorm(nn.Module):
    def forward(self, x):
        return x - x.mean(1, keepdim=True)


def test_a_mean_over_channels_after_the_pooling_is_not_the_pooling():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), ChannelNorm(), nn.Flatten(), nn.Linear(64, 3))
    data = torch.randn(12, 3, 16, 16), torch.arange(12) % 3
    encoder = convert(nn.Sequential(*layers).eval(), data, 1, level="patch", progress=False).encoder
    assert encoder.grid == (7, 7)
    assert encoder.patch_dim == 64


def test_positions_that_are_no_places_are_told():
    class Net(nn.Module):
        def __init__(self, arranged):
            super().__init__()
            torch.manual_seed(0)
            self.patches, self.head, self.arranged = nn.Conv2d(3, 64, 4, 4), nn.Linear(64, 3), arranged
            self.mix = nn.Sequential(nn.Linear(64, 64), nn.ReLU())

        def forward(self, x):
            return self.head(self.mix(self.arranged(self.patches(x)).transpose(1, 2)).mean(1))

    data = torch.randn(12, 3, 32, 32), torch.arange(12) % 3
    options = {"n_prototypes": 1, "level": "patch", "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*training images per prototype")
        convert(Net(lambda maps: maps.flatten(2)).eval(), data, **options)
    with pytest.warns(LookalikeWarning, match=r"the positions of the layer 'mix' may be no places in the image"):
        convert(Net(lambda maps: maps.transpose(2, 3).flatten(2)).eval(), data, **options)


def test_maps_with_channels_last_are_those_that_are_pooled():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    small = {"img_size": 64, "embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    net = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, **small).eval()
    x = torch.randn(12, 3, 64, 64)
    encoder = convert(net, (x, torch.arange(12) % 3), 1, level="patch", progress=False).encoder
    assert encoder.is_pooled
    assert encoder.layers == ("norm",)
    with torch.no_grad():
        torch.testing.assert_close(encoder.maps(x).mean((2, 3)), encoder.image_encoder(x), atol=1e-5, rtol=1e-4)


def test_prototypes_are_means_of_patches_and_are_shown_by_the_nearest(model, blobs):
    x, y = blobs
    p = model.prototypes
    maps = model.encoder.maps(x)
    for j in (0, 5, 11):
        k = int(p.labels[j])
        own = maps[y == k].flatten(2).transpose(1, 2).flatten(0, 1)
        nearest = torch.cdist(own, p.vectors[p.labels == k]).argmin(1)
        mine = own[nearest == j - 4 * k]
        torch.testing.assert_close(p.vectors[j], mine.mean(0), atol=1e-4, rtol=1e-4)
        assert int(p.counts[j]) == len(mine)
        sample, position = int(p.nearest[j, 0]), int(p.positions[j, 0])
        assert int(y[sample]) == k
        distance = (maps[sample, :, position // 4, position % 4] - p.vectors[j]).norm()
        torch.testing.assert_close(distance, torch.cdist(own, p.vectors[j : j + 1]).min(), atol=1e-4, rtol=1e-4)
    assert model.images.shape == (12, 1, 8, 8, 1)
    top, left, bottom, right = model.patch_boxes()[3, 0].tolist()
    assert (bottom - top, right - left) == (0.25, 0.25)
    assert (top, left) == (int(p.positions[3, 0]) // 4 / 4, int(p.positions[3, 0]) % 4 / 4)


def test_a_share_of_the_patches_is_drawn_alike(blobs):
    one, again, other = (convert(make_net(), blobs, 3, max_patches=100, seed=seed, level="patch") for seed in (2, 2, 3))
    assert one.provenance["n_patches"] == 300
    assert torch.equal(one.prototypes.vectors, again.prototypes.vectors)
    assert len(set(one.prototypes.nearest[:, 0].tolist())) > 3
    assert not torch.equal(one.prototypes.vectors, other.prototypes.vectors)


def test_patches_beyond_the_memory_limit_are_streamed(blobs):
    whole = convert(make_net(), blobs, 2, level="patch")
    streamed = convert(make_net(), blobs, 2, level="patch", memory_limit="16kB")
    assert streamed.provenance["clustered_in_parts"] == ["0", "1", "2"]
    distances = torch.cdist(whole.prototypes.vectors, streamed.prototypes.vectors).amin(1)
    assert float(distances.max()) < 0.1 * float(whole.prototypes.vectors.norm(dim=1).mean())


def test_augmented_images_are_warned_of(blobs):
    x, y = blobs

    class Augmented(torch.utils.data.Dataset):
        def __len__(self):
            return len(y)

        def __getitem__(self, row):
            return x[row] + torch.rand(()), int(y[row])

    with pytest.warns(LookalikeWarning, match="augmented at random"):
        convert(make_net(), Augmented(), 2, level="patch")


def test_the_gallery_frames_each_patch(model):
    ax = model.plot_gallery()
    assert len(ax.patches) == 12
    frame = ax.patches[0]
    assert frame.get_width() == pytest.approx(0.24)
    assert len(model.plot_gallery(classes=[1]).patches) == 4
    model.images = None
    with pytest.raises(LookalikeError, match="holds no prototype images"):
        model.plot_gallery()


VARIANTS = {
    "vote": {},
    "mean": {"decision": "mean"},
    "shared": {"decision": "linear", "shared": True, "n_prototypes": 8},
    "layers": {"layers": ["0", "2"]},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_a_prototype_model_like_any_other(variant, blobs, tmp_path, untouched):
    net, (x, y) = make_net(), blobs
    with untouched(net):
        model = convert(net, blobs, level="patch", **{"n_prototypes": 3, **VARIANTS[variant]})
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model", model=net)
    assert torch.equal(loaded(x), model(x))
    assert torch.equal(loaded.predict_proba(x), model.predict_proba(x))
    assert torch.equal(loaded.prototypes.positions, model.prototypes.positions)
    assert loaded.encoder.layers == model.encoder.layers
    explanations = explain(loaded, x[:3], relevance=True)
    assert [explanation.prediction for explanation in explanations] == model.predict(x[:3]).tolist()
    assert all(np.abs(explanation.likenesses[0].heat_map).sum() > 0 for explanation in explanations)
    card = evaluate(loaded, blobs, train=blobs, n_images=4, n_steps=2, n_draws=1).to_dict()
    assert card["accuracy"] == pytest.approx(float((model.predict(x) == y).float().mean()))
    assert card["ghosting"] == 0
    assert {"explanation_divergence", "auroc", "diversity", "calibration_error"} <= set(card)
    again = convert(loaded, blobs, n_prototypes=2)  # the encoder of whole images is used again
    assert again.prototypes.vectors.shape == (6, 6)


def test_a_map_of_a_likeness_starts_at_the_most_similar_patch(model, blobs):
    x, _ = blobs
    z = model.embed(x[:2])
    similarities = model.evidence_of(z)
    torch.testing.assert_close(model.similarities_of(z), similarities.amax(1))
    heat_map = explain(model, x[:2], n_nearest=1, relevance=True)[0].likenesses[0].heat_map
    prototype = int(model.similarities_of(z)[0].argmax())
    row, column = divmod(int(similarities[0, :, prototype].argmax()), 4)
    reach = np.zeros((8, 8), bool)
    reach[max(2 * row - 1, 0) : 2 * row + 3, max(2 * column - 1, 0) : 2 * column + 3] = True
    assert np.abs(heat_map[~reach]).max() == 0  # nothing outside of the patch's receptive field


def test_what_a_model_of_patches_cannot_do_is_refused(model, blobs):
    with pytest.raises(LookalikeError, match="is not updated"):
        model.update(blobs)
    with pytest.raises(LookalikeError, match="is not edited"):
        model.edit(blobs)
    with pytest.raises(LookalikeError, match="is not calibrated"):
        model.calibrate(blobs)
    whole = convert(make_net(), blobs, n_prototypes=2)
    with pytest.raises(LookalikeError, match="convert with level='patch'"):
        whole.segment(blobs[0])


@pytest.mark.parametrize("shape", [(90, 8), (90, 1, 8), (90, 1, 2, 8, 8)])
def test_what_is_no_image_has_no_patches(blobs, shape):
    with pytest.raises(LookalikeError, match=r"patches are parts of images: training images \[N, C, H, W\] are needed"):
        convert(make_net(), (torch.rand(shape), blobs[1]), n_prototypes=2, level="patch", progress=False)


@pytest.mark.parametrize("shared", [False, True])
def test_a_concept_is_said_to_have_the_patches_that_it_has(shared, blobs):
    x, y = blobs
    n = 2 if shared else 3
    model = convert(make_net(), blobs, n, level="patch", shared=shared, decision="linear", progress=False)
    similarities, prototypes = model.evidence_of(model.embed(x)).flatten(0, 1), model.prototypes
    labels = y.repeat_interleave(len(similarities) // len(y))
    nearest = similarities.argmax(1)
    is_own = labels[:, None] == prototypes.labels
    behind = nearest if shared else similarities.masked_fill(~is_own, -torch.inf).argmax(1)
    for j, concept in enumerate(concepts(model)):
        count, won = int((behind == j).sum()), nearest == j
        purity = float((labels[won] == prototypes.labels[j]).double().mean())
        assert (concept.count, concept.purity) == (count, pytest.approx(purity))
        name = f"'{concept.class_name}'"
        said = f"{count:,} training patches, {purity:.0%} of {name}; "
        if not shared:
            said = (
                f"{count:,} training patches of {name}; of all patches most similar to it, {purity:.0%} are of {name}; "
            )
        assert said in concept.sentence()
    assert not shared or sum(prototypes.counts.tolist()) == len(similarities)


def test_a_concept_that_no_patch_is_most_similar_to_says_so(blobs):
    model = convert(make_net(), blobs, 3, level="patch", progress=False)
    first = replace(concepts(model)[0], count=7, purity=float("nan"))
    assert f"7 training patches of '{first.class_name}', each of them more similar to a concept of" in first.sentence()


def test_no_layers_are_refused_in_one_line(blobs):
    with pytest.raises(LookalikeError, match="layers names no layer"):
        convert(make_net(), blobs, 2, level="patch", layers=[], progress=False)


def test_a_vote_without_the_parts_that_decide_is_said_to_be_one(model, blobs):
    said = [one.sentence() for one in difference(model, blobs[0][:20])]
    assert any("would have at least as many votes." in sentence for sentence in said)
    assert not any("likely" in sentence for sentence in said)


def test_weights_that_are_no_numbers_are_refused_in_one_line(blobs):
    net = make_net()
    net[0].weight.data.fill_(torch.nan)
    with pytest.raises(LookalikeError, match=r"NaN|no feature map"):
        convert(net, blobs, 2, level="patch", progress=False)


def test_unfamiliar_is_said_of_patches_everywhere(model, blobs, tmp_path):
    model.save(tmp_path / "model")
    assert UNFAMILIAR_BY_PATCHES in " ".join((tmp_path / "model" / "README.md").read_text().split())
    counts = evaluate(model, blobs, only=("faithfulness",), progress=False).details["faithfulness"][0]["unfamiliar"]
    finding = familiarity_finding(counts | {"n": 90, "n_others": 0})
    assert UNFAMILIAR_BY_PATCHES in finding.text


def test_a_class_without_shared_prototypes_is_left_out_of_the_temperature(blobs):
    x, y = blobs
    # two shared prototypes cannot be of three classes
    model = convert(make_net(), (x, y), level="patch", shared=True, decision="linear", n_prototypes=2)
    assert len(model.prototypes.labels.unique()) == 2 < model.n_classes
    assert model.provenance["calibration"]["source"] == "fitted"
    assert bool(model.predict_proba(x[:5]).isfinite().all())
    torch.testing.assert_close(model.predict_proba(x[:5]).sum(1), torch.ones(5))


def test_a_model_of_shared_prototypes_passes_those_of_the_checks_that_apply(blobs):
    options = {"level": "patch", "decision": "linear", "shared": True, "similarity": "dot", "temperature": 1.0}
    passed = check_prototype_model(convert(make_net(), blobs, n_prototypes=2, **options), blobs[0][:4])
    assert "classes" in passed
    assert "similarities are monotone" not in passed


def test_it_passes_the_checks_for_own_models(model, blobs):
    check_prototype_model(model, blobs[0][:8])


def test_probabilities_of_images_fit_how_often_they_are_right(blobs):
    x, y = blobs
    for decision, temperature in itertools.product(("vote", "mean"), ("auto", 1)):
        model = convert(make_net(), blobs, 4, level="patch", decision=decision, temperature=temperature)
        assert (model.classifier.image_temperature == 1) == (temperature == 1)
    loss = nn.functional.nll_loss(model.predict_proba(x).log(), y)
    fitted = convert(make_net(), blobs, 4, level="patch", decision="mean")
    assert float(nn.functional.nll_loss(fitted.predict_proba(x).log(), y)) < float(loss)


class Tokens(nn.Module):
    """A small transformer's shape: tokens of an image behind as many prefix tokens as asked, and their average."""

    def __init__(self, n_prefix, grid):
        super().__init__()
        self.to_tokens, self.norm = nn.Conv2d(1, 8, 4, stride=4), nn.LayerNorm(8)
        self.prefix, self.grid, self.head = nn.Parameter(torch.randn(1, n_prefix, 8)), grid, nn.Linear(8, 3)

    def forward(self, x):
        tokens = self.to_tokens(x).flatten(2).transpose(1, 2)
        tokens = self.norm(torch.cat([self.prefix.expand(len(x), -1, -1), tokens], 1))
        return self.head(tokens[:, 0])


def test_linear_scores_have_no_unit_in_which_a_temperature_could_be_given(blobs):
    options = {"level": "patch", "decision": "linear"}
    fitted = convert(make_net(), blobs, n_prototypes=4, **options)
    given = convert(make_net(), blobs, n_prototypes=4, **options, temperature=2.5)
    torch.testing.assert_close(given.predict_proba(blobs[0]), fitted.predict_proba(blobs[0]))


@pytest.mark.parametrize("decision", ["mean", "linear"])
@pytest.mark.parametrize("scale", [0.01, 1, 100])
def test_the_most_probable_class_is_that_of_the_highest_score(decision, scale, blobs, tmp_path):
    net = make_net()
    with torch.no_grad():
        net[0].weight *= scale
        net[0].bias *= scale
    model = convert(net, blobs, n_prototypes=4, n_images=1, level="patch", decision=decision)
    x, y = blobs
    scores, probabilities = model(x), model.predict_proba(x)
    assert torch.equal(probabilities.argmax(1), scores.argmax(1))

    def loss():  # with targets smoothed by one image in n + 2
        return nn.functional.cross_entropy(model.predict_proba(x).log(), y, label_smoothing=1 / 92)

    fitted = loss()
    for factor in (0.7, 1.5):  # the temperature is the best one for them
        model.classifier.image_temperature *= factor
        assert loss() > fitted
        model.classifier.image_temperature /= factor
    model.save(tmp_path / "model")
    torch.testing.assert_close(load(tmp_path / "model", model=net).predict_proba(x), probabilities)
    # of models of earlier versions, they are those of the patches
    options = {name: value for name, value in model.classifier.options().items() if name != "read_from"}
    old = make_classifier(model.classifier.name, options, model.classifier.state_dict())
    evidence = model.evidence_of(model.embed(x))
    of_patches = old.patch_probabilities(evidence, model.prototypes.labels, 3).mean(1)
    expected = (of_patches.log() / old.image_temperature).softmax(1)
    torch.testing.assert_close(old.probabilities(evidence, model.prototypes.labels, 3), expected)


@pytest.mark.parametrize(("n_prefix", "grid"), [(1, (5, 5)), (5, (5, 5)), (6, (6, 6)), (2, (4, 5))])
def test_tokens_are_read_as_the_grid_of_the_layer_that_makes_them(n_prefix, grid):
    """30 tokens are 5 before 5×5, and not 5×6."""
    x = torch.randn(2, 1, 4 * grid[0], 4 * grid[1])
    net = Tokens(n_prefix, grid)
    encoder = PatchEncoder(Encoder(net, x), x)
    assert (encoder.layers, encoder.grid) == (("norm",), grid)
    tokens = net.norm(net.to_tokens(x).flatten(2).transpose(1, 2))
    torch.testing.assert_close(encoder(x), tokens.flatten(1))


def test_images_of_another_size_are_refused():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    x, y = torch.randn(8, 1, 9, 9), torch.arange(8) % 2
    model = convert(net, (x, y), n_prototypes=1, level="patch")
    for method in (model.predict, model.segment):
        with pytest.raises(LookalikeError, match=r"no map of 4×4 patches, as images of 9×9 give"):
            method(torch.randn(2, 1, 16, 16))


def test_a_layer_is_as_it_was_before_the_next_operation_wrote_into_it():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip
    x = torch.randn(2, 1, 8, 8)
    first, pooled = (PatchEncoder(Encoder(net, x), x, name) for name in ("0", "last"))
    torch.testing.assert_close(first.maps(x), net[0](x))
    assert pooled.is_pooled
    torch.testing.assert_close(pooled.maps(x), net[:4](x))


def test_what_stands_behind_a_prototype_of_patches_is_called_patches(model, blobs):
    explanation = explain(model, blobs[0][:1])[0]
    near = explanation.likenesses[0]
    assert near.sample == "patch"
    assert "training patches behind it" in near.nearness()
    assert explanation.sentence().startswith("A part of this looks like prototype ")
    assert "training image" not in explanation.sentence()
    far = explain(model, 50 * blobs[0][:1])[0]
    assert far.unfamiliar
    assert "its nearest patch is farther from the prototype than every training patch" in far.sentence()
    whole = explain(convert(make_net(), blobs, n_prototypes=2), blobs[0][:1])[0].likenesses[0]
    assert "training images behind it" in whole.nearness()
