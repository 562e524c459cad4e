"""Loaders that make their own batches, and what data sets get wrong."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler, TensorDataset

from lookalike import LookalikeError, convert
from lookalike.data import Batches

X = torch.randn(20, 3, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Bulk(Dataset):
    """Takes a list of indices, as arrays on disk are read best."""

    def __len__(self):
        return len(X)

    def __getitem__(self, indices):
        assert isinstance(indices, list)
        return X[indices], Y[indices]


BATCHES = [(X[i : i + 6], Y[i : i + 6]) for i in range(0, 20, 6)]
SINGLES = list(zip(X, Y, strict=True))
KINDS = {
    "stream of batches": Stream(BATCHES),
    "stream of batches with a length": type("Sized", (Stream,), {"__len__": lambda self: 4})(BATCHES),
    "its loader": DataLoader(Stream(BATCHES), batch_size=None),
    "its loader with a conversion": DataLoader(
        Stream(BATCHES), batch_size=None, collate_fn=lambda batch: {"image": batch[0], "label": batch[1].tolist()}
    ),
    "stream of NumPy batches": Stream([(x.numpy(), y.numpy()) for x, y in BATCHES]),
    "stream of batches as mappings": Stream([{"pixel_values": x, "labels": y} for x, y in BATCHES]),
    "stream of samples": DataLoader(Stream(SINGLES), batch_size=None),
    "data set of batches": DataLoader(Items(BATCHES), batch_size=None),
    "data set of samples": DataLoader(Items(SINGLES), batch_size=None),
    "shuffled samples": DataLoader(TensorDataset(X, Y), batch_size=None, shuffle=True),
    "asked for several": DataLoader(
        Bulk(), batch_size=None, sampler=BatchSampler(SequentialSampler(range(20)), 6, drop_last=False)
    ),
    "one-hot": TensorDataset(X, nn.functional.one_hot(Y, 3)),
    "one-hot floats": (X, nn.functional.one_hot(Y, 3).float()),
    "whole floats": (X, Y.double()),
    "bfloat16 labels": (X, Y.bfloat16()),
    "a column": (X, Y[:, None]),
    "labels as arrays": Items([(x, np.array(int(y))) for x, y in SINGLES]),
    "labels as short tensors": Items([(x, y[None].short()) for x, y in SINGLES]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_rows(kind):
    batches = list(Batches(KINDS[kind], None if "batches" in kind or "loader" in kind else 6))
    assert torch.equal(torch.cat([torch.as_tensor(batch.inputs) for batch in batches]), X)
    assert np.concatenate([batch.labels for batch in batches]).tolist() == Y.tolist()
    assert np.concatenate([batch.indices for batch in batches]).tolist() == list(range(20))
    assert batches[-1].read == 20


def test_a_stream_of_batches_goes_on_where_it_was():
    later = list(Batches(Stream(BATCHES)).starting_at(8))
    assert np.concatenate([batch.indices for batch in later]).tolist() == list(range(8, 20))
    assert torch.equal(torch.cat([batch.inputs for batch in later]), X[8:])


def test_a_stream_of_batches_is_converted():
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 3))
    model = convert(net, DataLoader(Stream(BATCHES), batch_size=None), n_prototypes=1)
    torch.testing.assert_close(model.prototypes.vectors, convert(net, (X, Y), n_prototypes=1).prototypes.vectors)


@pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.bool])
def test_a_single_image_with_a_one_hot_label_is_no_batch(kind):
    singles = [(x, nn.functional.one_hot(y, 3).to(kind)) for x, y in SINGLES]
    assert np.concatenate([batch.labels for batch in Batches(Stream(singles), 6)]).tolist() == Y.tolist()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Items([(x, None) for x in X]), r"sample 0 has no label \(None\)"),
        (Items([(x, "cat") for x in X]), "sample 0 has the label 'cat', a str; labels are the numbers of classes"),
        (Items([(x, {"boxes": 1}) for x in X]), "a dict; labels are the numbers"),
        (Items([*SINGLES[:3], (X[3], None)]), r"sample 3 has no label \(None\)"),
        (Items([(x, y / 2) for x, y in SINGLES]), "labels must be whole numbers, one per sample; these are float32"),
        (Items([(x, torch.ones(4)) for x in X]), "labels must be whole numbers, one per sample"),
        ((X, torch.full((20, 3), 1 / 3)), "labels must be whole numbers, one per sample"),
        ((X, torch.full((20,), float("nan"))), "labels must be whole numbers, one per sample"),
        ((X, np.array([None] * 20)), "some labels are None"),
        ((X, Y - 1), "labels must not be negative; there is a -1"),
        ((X, Y.to(torch.complex64)), "labels must be whole numbers"),
        (Items([(X[0], 0), (X[1][:, :2], 1)]), "samples differ in shape"),
        (Items([({"a": X[0]}, 0), ({"b": X[1]}, 1)]), "samples 0 to 1 cannot form a batch: KeyError: 'a'"),
        (Items([({"a": X[0]}, 0), ({"a": X[1][:, :2]}, 1)]), "samples 0 to 1 cannot form a batch: RuntimeError"),
        (Items([(X[0], 0), (X[1].numpy(), [1, 2])]), "samples 0 to 1 cannot form a batch"),
        (Items([{"image": X[0]}]), "sample 0 has the keys image; it needs one of"),
        (Items([X[0]]), "sample 0 is a Tensor, not a pair"),
        (Items([(object(), 0)]), "sample 0 has a object for x"),
        (
            DataLoader(Items(SINGLES), 4, collate_fn=lambda items: (torch.cat(items), 0)),
            "collate_fn fails",
        ),
        (DataLoader(Items(SINGLES), 4, collate_fn=lambda items: (X[:3], Y[:4])), "has 3 inputs and 4 labels"),
        (Stream([(X[:4], torch.tensor([0, 1, 0, -1]))]), "labels must not be negative"),
        ((np.array([["a"], ["b"]]), [0, 1]), "x has values of type <U1, which are not numbers"),
    ],
    ids=range(22),
)
def test_what_data_sets_get_wrong_is_told(data, message):
    with pytest.raises(LookalikeError, match=message) as raised:
        list(Batches(data))
    assert "\n" not in str(raised.value)
