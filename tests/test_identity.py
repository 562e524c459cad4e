"""Identity of arrays by XXH3, and what earlier versions identified by SHA-256."""

import json

import numpy as np
import pytest
import torch
import xxhash
from torch import nn

from lookalike._core import identity
from lookalike._core.errors import LookalikeError
from lookalike._core.identity import are_comparable, identify_array, identify_json, identify_tensors, identifying_as
from lookalike._core.provenance import fingerprint_array, fingerprint_json, fingerprint_tensors
from lookalike._core.working_folder import read_record, write_record
from lookalike.data import Batches, TrainingRecord
from lookalike.embedding import as_encoder, embed
from lookalike.embedding.checking import check_store
from tests.small import FailingSamples


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(24, 3, 2, 2, generator=generator), torch.arange(24) % 3


def test_the_identity_of_an_array_is_xxh3_of_type_shape_and_bytes():
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    expected = xxhash.xxh3_128_hexdigest(b"int32:(2, 3);" + array.tobytes())
    assert identify_array(array) == f"{expected}:xxh3p"
    with identifying_as("…:xxh3"):  # as an earlier version did
        assert identify_array(array) == f"{expected}:xxh3"
    assert identify_array(array.T) != identify_array(array)
    assert identify_array(np.asfortranarray(array)) == identify_array(array)


@pytest.mark.parametrize("kind", ["<f4", ">f4", "?", "<f2"])
def test_large_arrays_are_identified_by_their_parts(monkeypatch, kind):
    array = np.arange(40, dtype=np.uint8).view(kind)
    whole = identify_array(array)
    monkeypatch.setattr(identity, "_PART", 16)
    data = array.tobytes()
    digests = b"".join(xxhash.xxh3_128_digest(part) for part in (data[:16], data[16:32], data[32:]))
    expected = xxhash.xxh3_128_hexdigest(f"{array.dtype}:{array.shape};".encode() + digests)
    assert identify_array(array) == f"{expected}:xxh3p" != whole
    with identifying_as("…:xxh3"):
        assert identify_array(array).removesuffix(":xxh3") == whole.removesuffix(":xxh3p")


@pytest.mark.parametrize("array", [np.array(3.0), np.zeros((0, 4)), np.zeros(0, ">i8")])
def test_arrays_without_an_axis_or_a_value(array):
    assert identify_array(array).endswith(":xxh3p")


def test_tensors_differ_by_name_type_shape_and_any_bit():
    zeros = torch.zeros(4)
    flipped = zeros.clone()
    flipped[3] = -0.0
    different = [
        {"a": zeros}, {"b": zeros}, {"a": zeros.double()}, {"a": zeros.reshape(2, 2)}, {"a": flipped}, {"a": zeros[:0]},
        {"a": zeros.bfloat16()}, {"a": "state"},
    ]  # fmt: skip
    assert len({identify_tensors(tensors) for tensors in different}) == len(different)
    assert identify_tensors({"a": zeros, "b": flipped}) == identify_tensors({"b": flipped, "a": zeros})


def test_what_was_identified_by_sha256_is_compared_by_sha256():
    array, tensors, value = np.arange(3), {"a": torch.ones(2)}, {"b": 1, "a": [2]}
    with identifying_as(fingerprint_array(array)):
        assert identify_array(array) == fingerprint_array(array)
        assert identify_tensors(tensors) == fingerprint_tensors(tensors)
        assert identify_json(value) == fingerprint_json(value)
    assert identify_json(value) == identify_json({"a": [2], "b": 1}) != fingerprint_json(value)
    assert not are_comparable(identify_array(array), fingerprint_array(array))
    assert not are_comparable(None, fingerprint_array(array))


def as_of_an_earlier_version(folder, net, data, scheme="sha256"):
    """Rewrites the record of embeddings as earlier versions wrote it."""
    record = read_record(folder / "embeddings.json")
    with identifying_as(scheme):
        record["info"] |= {
            "weights": identify_tensors(net.state_dict()),
            "data": Batches(data).fingerprint(),
            "transform": Batches(data).transform_fingerprint(),
        }
    write_record(folder / "embeddings.json", record)


@pytest.mark.parametrize(("scheme", "length"), [("sha256", 64), ("…:xxh3", 37)])
def test_embeddings_of_an_earlier_version_are_taken_up(net, data, tmp_path, scheme, length):
    made = embed(net, data, folder=tmp_path / "z")
    as_of_an_earlier_version(tmp_path / "z", net, data, scheme)
    taken_up = embed(net, data, folder=tmp_path / "z", resume=True)
    assert len(taken_up.info["data"]) == length
    assert np.array_equal(taken_up.embeddings, made.embeddings)
    batches = Batches(data)
    check_store(taken_up, as_encoder(net, batches), batches)
    other = data[0] + 1, data[1]
    with pytest.raises(LookalikeError, match="made with other data: "):
        embed(net, other, folder=tmp_path / "z", resume=True)
    with pytest.raises(LookalikeError, match="made with other data; "):
        check_store(taken_up, as_encoder(net, batches), Batches(other))


def test_unfinished_embeddings_of_an_earlier_version_are_continued(net, data, tmp_path):
    samples = FailingSamples(*data, limit=8)
    with identifying_as("sha256"), pytest.raises(RuntimeError):
        embed(net, samples, folder=tmp_path / "z", batch_size=4)
    journal = tmp_path / "z.part" / "journal.jsonl"
    key = json.loads(journal.read_text().splitlines()[0])["key"]
    assert key["weights"] == key["weights"].partition(":")[0]
    samples.limit = None
    store = embed(net, samples, folder=tmp_path / "z", batch_size=4, resume=True)
    assert len(store) == 24
    assert len(store.info["weights"]) == 64


@pytest.mark.parametrize("scheme", ["sha256", "…:xxh3"])
def test_a_model_of_an_earlier_version_knows_its_data(data, scheme):
    with identifying_as(scheme):
        record = TrainingRecord(Batches(data).fingerprint())
    other = Batches((data[0] + 1, data[1]))
    assert record.matches(Batches(data))
    assert not record.matches(other)
    assert record.has_fingerprint_of(other, other.fingerprint()) is False
    assert record.has_fingerprint_of(None, other.fingerprint()) is None  # nobody can tell
