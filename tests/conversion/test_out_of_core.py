"""Clustering within a memory limit."""

import numpy as np
import pytest
import torch

from lookalike import convert
from lookalike._core.cores import memory
from lookalike._core.errors import LookalikeError, LookalikeWarning
from lookalike.conversion.clustering import cluster
from lookalike.conversion.out_of_core import _improve, bytes_of, cluster_in_parts, streamed_classes
from lookalike.conversion.per_class import Clustering, learn_prototypes
from lookalike.embedding import EmbeddingStore, embed
from lookalike.encoder import Encoder
from lookalike.model.similarity import make_similarity


def points(n=3000, dim=8, modes=4, seed=0):
    rng = np.random.default_rng(seed)
    centres = 6 * rng.normal(size=(modes, dim))
    return (centres[rng.integers(modes, size=n)] + rng.normal(size=(n, dim))).astype(np.float32)


@pytest.mark.parametrize(
    ("given", "expected"), [(10, 10), ("10", 10), ("2GiB", 2**31), ("1.5 MiB", 3 * 2**19), ("3MB", 3_000_000)]
)
def test_limits_are_bytes_or_texts(given, expected):
    assert bytes_of(given) == expected


def test_a_limit_that_says_nothing():
    for given in ("two", "2 pounds", "0", -1):
        with pytest.raises(LookalikeError, match="memory_limit takes bytes, or a text such as '2GiB'"):
            bytes_of(given)
    assert bytes_of(None) > 2**28  # half of this machine's


def test_a_container_may_have_less_memory_than_its_machine(tmp_path):
    limit = tmp_path / "memory.max"
    limit.write_text("1000000\n")
    assert memory((str(limit), "/no/such/file")) == 1_000_000
    limit.write_text("max\n")
    assert memory((str(limit),)) == memory(()) > 2**30


def test_only_classes_that_do_not_fit_are_streamed():
    counts = np.array([10, 1000, 20])
    assert streamed_classes(counts, 8, 4 * 4 * 8 * 100) == [1]
    assert streamed_classes(counts, 8, None) == []


@pytest.mark.parametrize("method", ["kmeans", "minibatch"])
def test_in_parts_it_ends_where_all_at_once_does(method):
    z = points()
    read, most = [], 4 * 4 * 8 * 500

    def read_rows(rows):
        read.append(len(rows))
        return z[rows]

    centres = cluster_in_parts(len(z), read_rows, lambda _: 4, method, limit=most, seed=0)
    whole = cluster(z, 4, seed=0)
    squares = np.square(z[:, None] - centres).sum(2).min(1).sum()
    assert squares == pytest.approx(whole.inertia, rel=1e-3)
    assert max(read) == 500
    assert np.array_equal(centres, cluster_in_parts(len(z), read_rows, lambda _: 4, method, limit=most, seed=0))


def test_the_sample_is_clustered_as_asked(monkeypatch):
    z, asked = points(), []

    def watched(*args, **options):
        asked.append((args[1:], options))
        return cluster(*args, **options)

    monkeypatch.setattr("lookalike.conversion.out_of_core.cluster", watched)
    options = {"limit": 4 * 4 * 8 * 500, "n_init": 3}
    found = cluster_in_parts(len(z), lambda rows: z[rows], lambda _: 4, "minibatch", seed=5, **options)
    assert asked == [((4, "minibatch"), {"n_init": 3, "seed": 5})]
    default = cluster_in_parts(len(z), lambda rows: z[rows], lambda _: 4, "kmedoids", **options)
    first = cluster_in_parts(len(z), lambda rows: z[rows], lambda _: 4, "kmedoids", seed=0, **options)
    assert np.array_equal(default, first)
    assert len(found) == 4


def test_a_centre_that_loses_all_its_points_is_none():
    points = np.concatenate([np.zeros((20, 2)), np.ones((20, 2))]).astype(np.float32)
    far = np.array([[0, 0.1], [1, 0.9], [50, 50]], np.float32)
    centres = _improve(far, lambda: iter(np.split(points, 4)))
    np.testing.assert_allclose(centres, [[0, 0], [1, 1]])


def test_other_methods_keep_what_a_sample_tells():
    z = points()
    centres = cluster_in_parts(len(z), lambda rows: z[rows], lambda _: 4, "kmedoids", limit=4 * 4 * 8 * 200)
    assert all((z == centre).all(1).any() for centre in centres)  # medoids are samples


def test_large_and_small_classes_side_by_side():
    z = np.concatenate([points(2000), points(100, seed=1)])
    y = np.repeat([0, 1], [2000, 100])
    whole = learn_prototypes(z, y, ["a", "b"], make_similarity("l2"), Clustering(4))
    clustering = Clustering(4, memory_limit=4 * 4 * 8 * 400)
    parts = learn_prototypes(z, y, ["a", "b"], make_similarity("l2"), clustering)
    assert parts.labels.tolist() == whole.labels.tolist()
    assert torch.equal(parts.vectors[4:], whole.vectors[4:])  # the small class fits: nothing changes for it
    order = [int((parts.vectors[:4] - one).norm(dim=1).argmin()) for one in whole.vectors[:4]]
    assert sorted(order) == [0, 1, 2, 3]
    torch.testing.assert_close(parts.vectors[order], whole.vectors[:4], atol=0.1, rtol=0)


def test_the_result_says_what_was_clustered_in_parts(net, blobs):
    encoder = Encoder(net, blobs[0][:2])
    store = embed(encoder, blobs)
    whole = convert(encoder, store, n_prototypes=2)
    parts = convert(encoder, store, n_prototypes=2, memory_limit=4 * 4 * 24 * 20)
    assert whole.provenance["clustered_in_parts"] == []
    assert parts.provenance["clustered_in_parts"] == ["0", "1", "2"]
    assert parts.provenance["memory_limit"] == 4 * 4 * 24 * 20
    with pytest.raises(LookalikeError, match="memory_limit takes"):
        convert(encoder, store, memory_limit="much")


@pytest.mark.parametrize("similarity", ["l2", "mahalanobis", "rbf", "head"])
def test_half_precision_embeddings_convert_like_single(net, blobs, tmp_path, similarity):
    encoder = Encoder(net, blobs[0][:2])
    single, half = (embed(encoder, blobs, folder=tmp_path / dtype, dtype=dtype) for dtype in ("float32", "float16"))
    models = [convert(encoder, store, 2, similarity) for store in (single, half)]
    torch.testing.assert_close(models[1].prototypes.vectors, models[0].prototypes.vectors, rtol=5e-3, atol=5e-3)
    assert models[1].prototypes.vectors.dtype == torch.float32
    assert torch.equal(models[1].predict(blobs[0]), models[0].predict(blobs[0]))


def test_no_class_is_read_but_the_one_that_is_clustered(tmp_path):
    """Of a memory map nothing of the size of all embeddings is ever held."""
    z, y = points(4000, 16), np.arange(4000) % 40
    np.save(tmp_path / "embeddings.npy", z)
    mapped = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
    largest = []

    class Watched(np.memmap):
        def __getitem__(self, rows):
            found = super().__getitem__(rows)
            largest.append(np.size(found))
            return np.asarray(found)

    store = EmbeddingStore(mapped.view(Watched), y, np.arange(4000))
    learn_prototypes(store.embeddings, y, [str(k) for k in range(40)], make_similarity("l2"), Clustering(2))
    assert max(largest) == 100 * 16


def test_a_memory_limit_that_holds_fewer_points_than_prototypes_is_refused():
    z, y = points(400, 8), np.arange(400) % 2
    with pytest.raises(LookalikeError, match=r"memory_limit=512 is too little: .* needs 5 embeddings .* 640 bytes"):
        learn_prototypes(z, y, ["a", "b"], make_similarity("l2"), Clustering(5, memory_limit=4 * 4 * 8 * 4))
    assert len(learn_prototypes(z, y, ["a", "b"], make_similarity("l2"), Clustering(5, memory_limit=640))) == 10


def test_fewer_distinct_points_in_a_sample_than_prototypes_are_told():
    z, y = np.zeros((400, 8), dtype=np.float32), np.zeros(400, dtype=np.int64)
    z[0] = 1
    with pytest.warns(LookalikeWarning, match="distinct embeddings in the sample that memory_limit=1280 holds"):
        learn_prototypes(z, y, ["a"], make_similarity("l2"), Clustering(5, memory_limit=1280))


@pytest.mark.parametrize(("size", "why"), [(3e18, "as large as"), (1e-19, "so small")])
def test_embeddings_whose_squares_no_number_holds_are_refused(size, why):
    z, y = points(40, 8) * np.float32(size), np.arange(40) % 2
    with pytest.raises(LookalikeError, match=f"{why} .*scale the embeddings"):
        learn_prototypes(z, y, ["a", "b"], make_similarity("l2"))
