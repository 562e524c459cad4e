import dataclasses
import inspect
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

ray = pytest.importorskip("ray")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from ray.cluster_utils import Cluster  # noqa: E402

from lookalike import convert  # noqa: E402
from lookalike import load as load_model  # noqa: E402
from lookalike._core.errors import LookalikeError, LookalikeWarning  # noqa: E402
from lookalike._core.working_folder import alone, lock_in  # noqa: E402
from lookalike.cli import app  # noqa: E402
from lookalike.conversion.on_ray import Ray  # noqa: E402
from lookalike.conversion.on_ray.embedding import Embedder  # noqa: E402
from lookalike.conversion.on_ray.pool import work_through  # noqa: E402
from lookalike.conversion.on_ray.readers import FileReader, RowReader  # noqa: E402
from lookalike.conversion.on_ray.record import prepare_folder  # noqa: E402
from lookalike.conversion.on_ray.row_groups import list_groups  # noqa: E402
from lookalike.conversion.on_ray.shards import (  # noqa: E402
    IndexSet,
    Rows,
    count_classes,
    damaged_shards,
    open_shards,
    read_rows,
    repeated_rows,
    shard_name,
    sorted_by_index,
    write_shard,
)
from lookalike.conversion.options import ConversionOptions  # noqa: E402
from lookalike.data import ImageArray, Preprocessing, load_digits, load_folder  # noqa: E402
from lookalike.encoder import Encoder, load_classifier  # noqa: E402
from lookalike.model.similarity import L2  # noqa: E402

NETWORK = """
import time
import torch
from torch import nn
from lookalike.data import Preprocessing


class Pausing(nn.Module):
    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return x


def make(seed=0, seconds=0.0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        Pausing(seconds),
        nn.Conv2d(1, 8, 5, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    )
    return net, Preprocessing.square(28, mean=(0.5,), std=(0.5,))


def slow():
    return make(seconds=0.25)


def other():
    return make(seed=1)


def broken():
    net, preprocessing = make()
    net[1].bias.data[0] = float("nan")
    return net, preprocessing
"""
SIZES = {"batch_size": 8, "shard_rows": 8}
ONE_ACTOR = {"n_actors": 1}
OPTIONS = {"n_prototypes": 3, "n_nearest": 4, "seed": 3}


def convert_on_ray(model, data, cluster="auto", **options):
    """Converts on a cluster, with its options and those of the conversion side by side."""
    of_cluster = {field.name for field in dataclasses.fields(Ray)} & options.keys()
    backend = Ray(cluster, **{name: options.pop(name) for name in of_cluster})
    return convert(model, data, backend=backend, **options)


N_SHARDS = 24


@pytest.fixture(autouse=True)
def watched():
    """No test waits for ever for a cluster."""

    def stop(*_):
        raise TimeoutError("the cluster has not answered")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(600)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def cluster():
    """Two nodes on this machine, and no process of theirs afterwards."""
    nodes = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "object_store_memory": 100_000_000,
            "include_dashboard": False,
            "_system_config": {
                "worker_niceness": 0,  # else they starve where other tests keep the processors busy
                "kill_idle_workers_interval_ms": 0,  # else each test waits for torch to be imported
                "health_check_initial_delay_ms": 500,  # a lost node is missed at once
                "health_check_period_ms": 500,
                "health_check_failure_threshold": 12,  # and a slow one is not
            },
        },
    )
    nodes.add_node(num_cpus=1, object_store_memory=100_000_000)
    ray.init(nodes.address, log_to_driver=False, logging_level="error")
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """192 real digits of four classes in a folder, and a file that makes networks."""
    root = tmp_path_factory.mktemp("digits")
    digits = load_digits().train
    for label in range(4):
        folder = root / "images" / "train" / f"digit-{label}"
        folder.mkdir(parents=True)
        for i, row in enumerate(np.flatnonzero(digits.labels == label)[:48]):
            Image.fromarray(digits.images[row]).save(folder / f"{i:03d}.png")
    (root / "network.py").write_text(NETWORK)
    return root


@pytest.fixture(scope="module")
def classifier(root):
    return load(root, "make")


@pytest.fixture(scope="module")
def expected(root, classifier):
    """What one machine makes of the folder."""
    train = load_folder(root / "images", classifier.preprocessing).train
    return convert(classifier, train, batch_size=8, **OPTIONS)


def load(root, function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no weights are given
        return load_classifier(f"{root / 'network.py'}:{function}")


def write_table(folder, files, order, groups_of):
    """Writes images in two Parquet files, in an order that the column ``index`` tells of."""
    content = [files.files[i].read_bytes() for i in order]
    table = pa.table({"image": content, "label": files.labels[order], "index": order})
    folder.mkdir()
    pq.write_table(table.slice(0, 96), folder / "a.parquet", row_group_size=groups_of)
    pq.write_table(table.slice(96), folder / "b.parquet", row_group_size=groups_of)


def assert_same(found, expected):
    assert found.class_names == expected.class_names
    for name, tensor in expected.prototypes.state_dict().items():
        torch.testing.assert_close(found.prototypes.state_dict()[name], tensor, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert torch.equal(found.prototypes.nearest, expected.prototypes.nearest)
    torch.testing.assert_close(found.value_range, expected.value_range)
    assert torch.equal(found.images, expected.images)
    assert found.provenance["calibration"]["source"] == "fitted"
    assert found.classifier.temperature == pytest.approx(expected.classifier.temperature, rel=1e-3)


def shards_in(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder / "shards").glob("[0-9]*")}


def test_equals_one_machine(cluster, root, classifier, expected, tmp_path):
    found = convert_on_ray(classifier, root / "images", working_folder=tmp_path / "work", **SIZES, **OPTIONS)
    assert_same(found, expected)
    assert len(shards_in(tmp_path / "work")) == N_SHARDS
    assert found.provenance["cluster"] == {"nodes": 2, "actors": 2, "shards": N_SHARDS, "num_gpus": 0}
    assert found.provenance["versions"]["ray"] == ray.__version__
    assert found.training_names == expected.training_names
    for name in ("n_samples", "skipped", "next_sample", "precision"):
        assert found.provenance[name] == expected.provenance[name]
    assert found.provenance["fingerprints"] == expected.provenance["fingerprints"]
    before = shards_in(tmp_path / "work")
    again = convert_on_ray(classifier, root / "images", working_folder=tmp_path / "work", **SIZES, **OPTIONS)
    assert_same(again, expected)
    assert shards_in(tmp_path / "work") == before

    keyed = {
        "model": ({"model": load(root, "other")}, "weights;"),
        "similarity": ({"similarity": "cosine"}, r"similarity \(was 'l2', now 'cosine'\)"),
        "similarity_options": ({"similarity": "log", "similarity_options": {"epsilon": 1e-3}}, ".*epsilon "),
        "seed": ({"seed": 4}, r"seed \(was 3, now 4\);"),
        "preprocessing": ({"preprocessing": Preprocessing.square(28, mean=(0.4,), std=(0.5,))}, "transform;"),
        "n_prototypes": ({"n_prototypes": 2}, r"n_prototypes \(was 3, now 2\);"),
        "clusterer": ({"clusterer": "kmedoids"}, "clusterer "),
        "n_init": ({"n_init": 3}, "n_init "),
        "class_order": ({"class_order": [f"digit-{k}" for k in (1, 0, 2, 3)]}, "outputs.names "),
        "batch_size": ({"batch_size": 4}, "batch_size "),
        "shard_rows": ({"shard_rows": 16}, "shard_rows "),
        "on_error": ({"on_error": "skip"}, "on_error "),
        "class_names": ({"class_names": ["d", "c", "b", "a"]}, "class_names "),
    }
    # the others are not in the key, or refused: see test_options_of_one_machine_are_refused
    not_keyed = {"train", "head", "output", "working_folder", "address", "probabilities", "n_nearest", "n_images"}
    not_keyed |= {"n_actors", "num_cpus", "num_gpus", "progress", "temperature", "level", "backend"}
    fields = {field.name for field in dataclasses.fields(Ray)} | set(get_type_hints(ConversionOptions))
    names = set(inspect.signature(convert).parameters) - {"options"} | fields
    assert names == keyed.keys() | not_keyed | REFUSED.keys()
    for changed, named in keyed.values():
        arguments = {"model": classifier, "data": root / "images", **SIZES, **OPTIONS, **changed}
        with pytest.raises(LookalikeError, match=f"was made with other {named}"):
            convert_on_ray(**arguments, working_folder=tmp_path / "work")


REFUSED = {
    "num_workers": (2, "num_workers sets the reading processes of one machine"),
    "devices": (["cpu"], "devices are those of one machine"),
    "memory_limit": ("1GiB", "memory_limit is not kept on a cluster"),
    "embeddings": (None, "embeddings are made on the cluster"),
    "precision": ("bfloat16", "a cluster embeds in float32, not in bfloat16"),
    "nearest_from": ("any", "nearest images come from the prototype's own class"),
    "max_patches": (4, "max_patches is an option of patches"),
    "layers": ("b4", "layers is an option of patches"),
    "decision": ("mean", "decision is an option of patches"),
    "shared": (False, "shared is an option of patches"),
    "advice": (True, "advice is given where all embeddings are in one place"),
}


@pytest.mark.parametrize("option", REFUSED)
def test_options_of_one_machine_are_refused(option, tmp_path):
    value, message = REFUSED[option]
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    with pytest.raises(LookalikeError, match=message):
        convert(net, (torch.rand(4, 2), [0, 1, 0, 1]), backend=Ray(), working_folder=tmp_path, **{option: value})


@pytest.mark.slow
def test_damaged_shards_and_classes_are_made_again(cluster, root, classifier, expected, tmp_path):
    def again():
        return convert_on_ray(
            classifier, root / "images", working_folder=tmp_path / "work", **sizes, **ONE_ACTOR, **OPTIONS
        )

    sizes = {"batch_size": 8, "shard_rows": 96}
    assert_same(again(), expected)
    shard = sorted((tmp_path / "work" / "shards").glob("[0-9]*"))[1]
    kept = sorted((tmp_path / "work" / "classes").glob("[0-9]*"))[2]
    for path, told in ((shard, "1 shards do not fit their checksums"), (kept, "npz' cannot be used")):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.warns(LookalikeWarning, match=told):
            assert_same(again(), expected)
        assert path.read_bytes() != content
    entered, end = threading.Event(), threading.Event()
    holder = threading.Thread(target=hold, args=(tmp_path / "work", entered, end))
    holder.start()
    entered.wait()
    with pytest.raises(LookalikeError, match="work' is in use by another thread"):
        again()
    end.set()
    holder.join()


def hold(folder, entered, end):
    with alone(lock_in(folder)):
        entered.set()
        end.wait(60)


@pytest.mark.parametrize(
    "learned", [{"similarity": "mahalanobis", "similarity_options": {"max_samples": 50}}, {"similarity": "log"}]
)
def test_what_a_similarity_learns_equals_one_machine(cluster, root, classifier, tmp_path, learned):
    train = ImageArray(*digits_of(root), transform=classifier.preprocessing)
    options = {**OPTIONS, **learned}
    expected = convert(classifier, train, batch_size=8, **options)
    sizes = {"batch_size": 8, "shard_rows": 64}
    found = convert_on_ray(classifier, train, working_folder=tmp_path / "work", **sizes, **ONE_ACTOR, **options)
    torch.testing.assert_close(found.prototypes.vectors, expected.prototypes.vectors, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.prototypes.nearest, expected.prototypes.nearest)
    assert found.similarity.options() == pytest.approx(expected.similarity.options())


def digits_of(root):
    files = load_folder(root / "images", load(root, "make").preprocessing).train
    return np.stack([np.asarray(Image.open(file)) for file in files.files]), files.labels, files.classes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_a_lost_node_changes_nothing(cluster, root, expected, tmp_path, kind):
    classifier, data, options = load(root, "slow"), root / "images", {}
    if kind == "parquet":
        data = tmp_path / "table"
        write_table(data, load_folder(root / "images", classifier.preprocessing).train, np.arange(192), groups_of=8)
        options = {"class_names": expected.class_names}
    while ray.cluster_resources()["CPU"] > 2:  # a node that was lost before is still counted
        time.sleep(0.1)
    node = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    left = []

    def lose():
        while len(shards_in(tmp_path / "work")) < 4:
            time.sleep(0.02)
        cluster.remove_node(node, allow_graceful=False)
        left.append(N_SHARDS - len(shards_in(tmp_path / "work")))

    loser = threading.Thread(target=lose, daemon=True)
    loser.start()
    found = convert_on_ray(classifier, data, working_folder=tmp_path / "work", **options, **SIZES, **OPTIONS)
    loser.join()
    assert left[0] > 0
    assert_same(found, expected)
    assert found.provenance["cluster"]["actors"] == 3
    assert len(shards_in(tmp_path / "work")) == N_SHARDS


def pool_of(folder, jobs, start="", num_cpus=0, size=2, **options):
    class Worker:  # in here, so that it travels to its process without this file and all that it imports
        """Dies of some jobs: always, or once."""

        def __init__(self):
            if start:
                raise ImportError(start)

        def ready(self):
            pass

        def work(self, job):
            died = folder / "died"
            if job == "deadly" or (job == "once" and not died.exists()):
                died.touch()
                os._exit(1)
            return job

    start_actor = ray.remote(Worker).options(num_cpus=num_cpus, max_restarts=0).remote
    return sorted(work_through(jobs, start_actor, size, **options))


def test_the_job_of_a_lost_actor_is_done_by_another(cluster, tmp_path):
    assert pool_of(tmp_path, ["a", "once", "b", "c"]) == ["a", "b", "c", "once"]
    assert (tmp_path / "died").exists()
    assert pool_of(tmp_path, []) == []
    assert pool_of(tmp_path, [1, 2], prepare=lambda job: -job) == [-2, -1]


def test_a_pool_that_cannot_work_gives_up(cluster, tmp_path):
    with pytest.raises(LookalikeError, match="has lost 3 actors in a row"):
        pool_of(tmp_path, ["deadly"], size=1)
    with pytest.raises(LookalikeError, match="could not start: ImportError: no such network"):
        pool_of(tmp_path, ["a"], start="no such network")
    with pytest.raises(LookalikeError, match="none of 2 actors could start within 1 seconds"):
        pool_of(tmp_path, ["a"], num_cpus=64, start_seconds=1.0)


DRIVER = """
import sys, warnings
from lookalike import convert
from lookalike.conversion.on_ray import Ray
warnings.simplefilter("ignore")
backend = Ray(n_actors=1, shard_rows=8)
convert(sys.argv[1], sys.argv[2], 3, backend=backend, working_folder=sys.argv[3], batch_size=8, n_nearest=4, seed=3)
"""


@pytest.mark.slow
def test_a_killed_driver_is_taken_up(cluster, root, expected, tmp_path):
    work = tmp_path / "work"
    command = [sys.executable, "-c", DRIVER, f"{root / 'network.py'}:slow", str(root / "images"), str(work)]
    driver = subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": cluster.address})
    while len(shards_in(work)) < 3:
        assert driver.poll() is None
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(1.0)  # what its actors were writing is written
    before = shards_in(work)
    assert 3 <= len(before) < N_SHARDS
    found = convert_on_ray(load(root, "slow"), root / "images", working_folder=work, **SIZES, **ONE_ACTOR, **OPTIONS)
    assert_same(found, expected)
    after = shards_in(work)
    assert len(after) == N_SHARDS
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
def test_tables_equal_the_folder(cluster, root, classifier, expected, tmp_path):
    files = load_folder(root / "images", classifier.preprocessing).train
    write_table(tmp_path / "table", files, np.random.default_rng(0).permutation(len(files)), groups_of=30)
    options = {
        "preprocessing": classifier.preprocessing,
        "class_names": expected.class_names,
        "batch_size": 8,
        "shard_rows": 64,
        **ONE_ACTOR,
        **OPTIONS,
    }
    found = convert_on_ray(classifier.model, tmp_path / "table", working_folder=tmp_path / "parquet", **options)
    assert_same(found, expected)

    pixels, labels, _ = digits_of(root)
    names = np.array(expected.class_names)[labels]
    rows = [{"image": pixels[i], "label": str(names[i])} for i in range(len(labels))]
    dataset = ray.data.from_items(rows, override_num_blocks=3)
    assert_same(convert_on_ray(classifier.model, dataset, working_folder=tmp_path / "order", **options), expected)

    write_table(tmp_path / "repeated", files, np.array([7, 8, 7]), groups_of=3)
    reader = RowReader(classifier.preprocessing, expected.class_names, 64, IndexSet(np.arange(0)))
    result = actor_of(classifier.model, reader, tmp_path).work(list_groups([tmp_path / "repeated" / "a.parquet"]))
    assert "the index 7 stands for two samples" in result.error
    groups = list_groups([tmp_path / "repeated" / "a.parquet"])
    (tmp_path / "repeated" / "a.parquet").write_bytes(b"damaged")
    result = actor_of(classifier.model, reader, tmp_path).work(groups)
    assert result.error.startswith("the data cannot be read: ")


def actor_of(model, reader, folder):
    encoder = Encoder(model, torch.zeros(1, 1, 28, 28))
    return Embedder((ray.put(encoder), ray.put(reader)), str(folder), 4, "stop", gpu=False)


def test_broken_images_are_named(cluster, root, classifier, tmp_path):
    images = tmp_path / "images" / "train"
    for label, name in enumerate(["one", "two"]):
        (images / name).mkdir(parents=True)
        for i in range(6):
            kind = ["png", "jpg"][label]  # torch decodes the latter, and looks at their memory
            grey = Image.fromarray(np.full((28, 28), 100 * label + 10 * i, dtype=np.uint8))
            grey.save(images / name / f"{i}.{kind}")
    (images / "one" / "2.png").write_bytes(b"no image")
    options = {"batch_size": 4, "shard_rows": 4, "n_prototypes": 1, "n_images": 0, **ONE_ACTOR}
    with pytest.warns(LookalikeWarning, match=r"1 image left out: .*one/2\.png"):
        found = convert_on_ray(
            classifier, tmp_path / "images", working_folder=tmp_path / "skip", on_error="skip", **options
        )
    assert found.prototypes.counts.tolist() == [5, 6]
    assert found.provenance["skipped_samples"] == [f"cannot read the image '{images / 'one' / '2.png'}': not an image"]

    paths = np.array([str(images / "one" / f"{i}.png") for i in range(3)])
    rows = {"index": np.arange(3), "path": paths, "label": np.zeros(3, dtype=int)}
    actor = actor_of(classifier.model, FileReader(classifier.preprocessing), tmp_path)
    assert actor.work(rows).error == f"cannot read the image '{images / 'one' / '2.png'}': not an image"
    network = load(root, "broken").model
    actor = actor_of(network, FileReader(classifier.preprocessing), tmp_path)
    rows = {name: column[:2] for name, column in rows.items()}
    assert actor.work(rows).error == f"2 embeddings have NaN or infinite values: {paths[0]}, {paths[1]}"
    assert not list(tmp_path.glob("*.parquet"))

    labels = np.array([0, 0, 2, 2, 2, 2])
    train = ImageArray(np.zeros((6, 28, 28), np.uint8), labels, ["a", "b", "c"], found.preprocessing)
    with pytest.raises(LookalikeError, match="class 'b' has no training samples"):
        convert_on_ray(classifier.model, train, working_folder=tmp_path / "empty", **options)
    with pytest.raises(LookalikeError, match="own names in another order, not a, b, c"):
        convert_on_ray(
            classifier.model, train, working_folder=tmp_path / "named", class_names=["b", "a", "c"], **options
        )


class Whole(L2):
    """A similarity that needs every embedding."""

    name = "whole"

    def fit(self, embeddings, labels, head_weight=None):
        return self


def test_nonsense_is_told_before_anything_is_done(cluster, root, classifier, tmp_path):
    work = {"working_folder": tmp_path / "work"}
    with pytest.raises(LookalikeError, match="'whole' is fitted to all embeddings at once"):
        convert_on_ray(classifier, root / "images", similarity=Whole(), **work)
    with pytest.raises(LookalikeError, match="cannot read samples from a list"):
        convert_on_ray(classifier, [1, 2], **work)
    with pytest.raises(LookalikeError, match="with preprocessing="):
        convert_on_ray(classifier.model, root / "images", **work)
    ready = TensorDataset(torch.zeros(8, 1, 28, 28), torch.arange(8) // 2)
    with pytest.raises(LookalikeError, match=r"does not make inputs of the data's shape \(1, 28, 28\)"):
        convert_on_ray(classifier.model, ready, preprocessing=Preprocessing.square(32), **work)
    with pytest.raises(LookalikeError, match="have no column 'image', but id"):
        convert_on_ray(classifier, ray.data.range(4), **work)
    with pytest.raises(LookalikeError, match="num_gpus=1 does not fit into the cluster, which has 2 CPUs and 0 GPUs"):
        convert_on_ray(classifier, root / "images", num_gpus=1, **work)
    with pytest.raises(LookalikeError, match=r"is connected to, not '192\.0\.2\.1:6379'"):
        convert_on_ray(classifier, root / "images", cluster="192.0.2.1:6379", **work)
    with pytest.raises(LookalikeError, match=r"holds files and was not made by a conversion"):
        convert_on_ray(classifier, root / "images", working_folder=root)
    assert json.loads((tmp_path / "work" / "conversion.json").read_text())["head"] == "5"


def write(folder, indices, labels, embeddings):
    write_shard(folder / shard_name(indices), indices, Rows(indices, labels, embeddings), None, {})


def test_no_shard_has_more_rows_than_asked_for(tmp_path):
    table = pa.table({"image": [b""] * 600, "label": [0] * 600})
    pq.write_table(table, tmp_path / "a.parquet")
    reader = RowReader(None, None, 64, IndexSet(np.arange(100, 500)))
    found = [rows["index"] for rows in reader.read(list_groups([tmp_path / "a.parquet"]))]
    assert [len(indices) for indices in found] == [64, 64, 64, 8]
    assert np.concatenate(found).tolist() == [*range(100), *range(500, 600)]


def test_a_class_is_read_from_its_own_run_of_rows(tmp_path):
    rng = np.random.default_rng(0)
    indices, labels = rng.permutation(3000), rng.integers(0, 7, 3000)
    embeddings = rng.normal(size=(3000, 3)).astype(np.float32)
    for rows in np.split(np.arange(3000), [1000, 1001]):
        write(tmp_path, indices[rows], labels[rows], embeddings[rows])
    shards = open_shards(tmp_path)
    assert count_classes(shards, {}) == dict(enumerate(np.bincount(labels).tolist()))
    for k in range(7):
        parts = []
        for shard in shards:
            for label, start, count in shard.classes.tolist():
                if label == k:
                    parts.append(read_rows(shard.path, start, count))
                    assert (parts[-1].labels == k).all()
        found = sorted_by_index(parts)
        members = np.flatnonzero(labels == k)
        members = members[np.argsort(indices[members])]
        np.testing.assert_array_equal(found.indices, indices[members])
        np.testing.assert_array_equal(found.embeddings, embeddings[members])


def test_every_flipped_bit_of_a_shard_is_noticed(tmp_path):
    indices = np.arange(20)
    write(tmp_path, indices, indices % 2, np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32))
    path = tmp_path / shard_name(indices)
    assert damaged_shards([str(path)]) == []
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert damaged_shards([str(path)]) == [str(path)]
    path.write_bytes(whole)
    (tmp_path / f".{path.name}.sha256").unlink()
    assert damaged_shards([str(path)]) == [str(path)]  # without a checksum it is not believed


def test_a_working_folder_of_a_cluster_is_taken_up_at_any_moment_of_its_making(tmp_path):
    key = {"weights": "0" * 64, "seed": 3}
    prepare_folder(tmp_path / "whole", key)
    expected = (tmp_path / "whole" / "conversion.json").read_bytes()
    for names in ([], [".conversion.json.0123abcd.part"], ["conversion.json"], ["conversion.json", "shards/"]):
        work = tmp_path / str(len(list(tmp_path.iterdir())))
        work.mkdir()
        for name in names:
            if name.endswith("/"):
                (work / name).mkdir()
            else:
                (work / name).write_bytes(expected if name[0] != "." else b"{")
        prepare_folder(work, key)
        assert sorted(path.name for path in work.iterdir()) == ["classes", "conversion.json", "shards"]
        assert (work / "conversion.json").read_bytes() == expected
    with pytest.raises(LookalikeError, match=r"was made with other seed \(was 3, now 4\);"):
        prepare_folder(work, {**key, "seed": 4})
    (work / "conversion.json").write_bytes(expected.replace(b"3", b"4"))
    with pytest.raises(LookalikeError, match=r"cannot be used: 'conversion\.json': it was altered or damaged"):
        prepare_folder(work, key)


def test_samples_that_lie_in_two_shards_count_once(tmp_path):
    z = np.arange(12, dtype=np.float32).reshape(6, 2)
    y = np.array([0, 0, 1, 1, 0, 1])
    for rows in ([0, 1, 2, 3], [2, 3, 4], [5]):
        rows = np.array(rows)
        write(tmp_path, rows, y[rows], z[rows])
    shards = open_shards(tmp_path)
    repeated = repeated_rows(shards)
    assert {shards[s].path.name: found.tolist() for s, found in repeated.items()} == {
        shard_name(np.array([2, 3, 4])): [2, 3]
    }
    assert count_classes(shards, repeated) == {0: 3, 1: 3}
    write(tmp_path, np.array([3, 5]), y[[3, 5]], z[[0, 5]])
    with pytest.raises(LookalikeError, match="the index 3 stands for two different samples"):
        repeated_rows(open_shards(tmp_path))


def test_the_command_line_gives_the_same_model(cluster, network_file, image_folder, tmp_path):
    def run(*arguments):
        command = ["convert", f"{network_file}:make", image_folder, "--n-prototypes", 2, *arguments]
        return CliRunner().invoke(app, [*map(str, command)])

    failed = run("-o", tmp_path / "c", "--cluster", "auto")
    assert failed.exit_code == 2
    assert "--cluster needs --working-folder" in failed.stderr
    done = run("-o", tmp_path / "there", "--cluster", "auto", "--working-folder", tmp_path / "w")
    assert done.exit_code == 0, done.output
    net = load_classifier(f"{network_file}:make")
    there = load_model(tmp_path / "there", model=net.model)
    here = convert(net, load_folder(image_folder, net.preprocessing).train, n_prototypes=2)
    torch.testing.assert_close(here.prototypes.vectors, there.prototypes.vectors, rtol=1e-5, atol=1e-5)
    assert torch.equal(here.prototypes.nearest, there.prototypes.nearest)
    assert there.class_names == ["ant", "bee", "cat"]
