"""On a GPU everything gives what it gives on the CPU, up to rounding; skipped where there is none."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike import embed, evaluate, explain, load, relevance
from lookalike.conversion.clustering import cluster, clustering_on
from lookalike.conversion.convert import convert
from lookalike.data import Batches, ImageFiles, Preprocessing, parallel
from lookalike.encoder import LoadedClassifier
from lookalike.networks import NETWORKS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
SPEC = {"source": "lookalike", "name": "small-cnn", "args": {"n_classes": 3}}
TF32 = {"rtol": 0.01, "atol": 0.01}  # convolutions round to ten bits there


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 3
    x = 0.3 * torch.randn(120, 3, 32, 32, generator=generator)
    for k in range(3):
        x[y == k, k] += 1
    return x, y


@pytest.fixture(scope="module")
def models(data):
    torch.manual_seed(0)
    net = NETWORKS["small-cnn"](n_classes=3).eval()
    on_gpu = copy.deepcopy(net).cuda()
    made = {}
    for device, network in (("cpu", net), ("cuda", on_gpu)):
        classifier = LoadedClassifier(network, SPEC)
        made[device] = convert(classifier, data, n_prototypes=2, precision="float32", progress=False)
    return made


def test_embeddings_and_prototypes(models, data):
    stores = {device: embed(model, data, precision="float32", progress=False) for device, model in models.items()}
    torch.testing.assert_close(
        torch.from_numpy(stores["cuda"].embeddings), torch.from_numpy(stores["cpu"].embeddings), **TF32
    )
    torch.testing.assert_close(models["cuda"].prototypes.vectors.cpu(), models["cpu"].prototypes.vectors, **TF32)
    assert models["cuda"].prototypes.vectors.is_cuda


def test_half_precision_keeps_the_predictions(models, data):
    store = embed(models["cuda"], data, precision="auto", progress=False)
    assert store.info["precision"] == ("bfloat16" if torch.cuda.is_bf16_supported() else "float16")
    assert store.info["precision_effect"]["same_predictions"] > 0.95


@pytest.mark.parametrize("method", ["predict", "predict_proba", "similarities", "embed"])
def test_a_model_answers_alike(models, data, method):
    gpu, cpu = (getattr(models[device], method)(data[0]).cpu() for device in ("cuda", "cpu"))
    torch.testing.assert_close(gpu, cpu, **TF32)


@pytest.mark.parametrize("composite", ["epsilon-plus-flat", "gamma", "attnlrp"])
def test_maps_point_to_the_same_pixels(models, data, composite):
    x = data[0][:4]
    for make in (
        lambda model: relevance.lrp(model.encoder.model, x, 1, composite),
        lambda model: relevance.lrp(model, x, None, composite, of="probability"),
        lambda model: relevance.prp(model, x, "nearest", composite),
    ):
        maps = {device: make(model).pixels.double().cpu().flatten(1) for device, model in models.items()}
        assert torch.nn.functional.cosine_similarity(maps["cuda"], maps["cpu"]).min() > 0.95


def test_explanations_and_figures(models, data):
    x, y = data
    gpu, cpu = (explain(models[device], x[:3], relevance=True) for device in ("cuda", "cpu"))
    assert [one.class_name for one in gpu] == [one.class_name for one in cpu]
    options = {"n_images": 6, "n_steps": 4, "n_draws": 2, "progress": False}
    cards = {device: evaluate(model, (x, y), train=(x, y), **options) for device, model in models.items()}
    for figure in ("accuracy", "agreement", "ghosting", "auroc", "diversity"):
        assert cards["cuda"][figure] == pytest.approx(cards["cpu"][figure], abs=0.02), figure


def test_a_model_moves_between_devices(models, data, tmp_path):
    models["cuda"].save(tmp_path / "m")
    again = load(tmp_path / "m")
    assert not again.prototypes.vectors.is_cuda
    torch.testing.assert_close(again.predict_proba(data[0]), models["cuda"].predict_proba(data[0]).cpu(), **TF32)
    moved = again.cuda()
    torch.testing.assert_close(
        moved.predict_proba(data[0]).cpu(), models["cuda"].predict_proba(data[0]).cpu(), rtol=0, atol=1e-4
    )


def test_kmeans_on_the_device_finds_clusters_as_good_and_the_same_each_time():
    points = torch.rand(5_000, 16, generator=torch.Generator().manual_seed(0)).numpy()
    on_cpu = cluster(points, 20, seed=3)
    with clustering_on(torch.device("cuda")):
        first, second = cluster(points, 20, seed=3), cluster(points, 20, seed=3)
    assert (first.centres == second.centres).all()
    assert first.inertia == pytest.approx(on_cpu.inertia, rel=0.01)


@pytest.mark.parametrize("by", ["threads", "processes"])
def test_files_are_read_copied_and_embedded_as_on_the_cpu(tmp_path, monkeypatch, by):
    monkeypatch.setattr(parallel, "_FEWEST_FILES", 1 if by == "processes" else 1000)
    monkeypatch.setattr(parallel, "_FEWEST_PROCESSES", 2)
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.jpg" for number in range(70)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
    files = ImageFiles(tmp_path, paths, [0, 1] * 35, ["a", "b"], Preprocessing.square(32))
    torch.manual_seed(0)
    net = NETWORKS["small-cnn"](n_classes=2).eval()
    options = {"batch_size": 16, "num_workers": 2, "precision": "float32", "progress": False}
    on_cpu, on_gpu = embed(net, files, **options), embed(copy.deepcopy(net).cuda(), files, **options)
    torch.testing.assert_close(torch.from_numpy(on_gpu.embeddings), torch.from_numpy(on_cpu.embeddings), **TF32)
    assert (on_gpu.indices == on_cpu.indices).all()


def test_files_that_nvjpeg_decodes(tmp_path):
    """Some levels apart, as nvJPEG has arithmetic of its own; the progressive file is read on the CPU."""
    ramp = np.linspace(0, 255, 96 * 128).reshape(96, 128).astype(np.uint8)
    picture = Image.fromarray(np.stack([ramp, ramp[::-1], ramp[:, ::-1]], 2))
    for number in range(4):
        picture.save(tmp_path / f"{number}.jpg", quality=90, progressive=number == 3)
    preprocessing = Preprocessing(64, (56, 56))
    paths = [tmp_path / f"{number}.jpg" for number in range(4)]
    files = ImageFiles(tmp_path, paths, np.zeros(4, dtype=np.int64), ["all"], preprocessing)
    [found], [expected] = (list(Batches(files, decode_on=where)) for where in ("cuda", None))
    assert found.inputs.is_cuda
    levels = (preprocessing.pixels(found.inputs.cpu()) - preprocessing.pixels(expected.inputs)).abs() * 255
    assert levels.mean() < 2
    assert levels.max() < 20
