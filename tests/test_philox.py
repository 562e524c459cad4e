"""Philox4x32-10 against published numbers, a plain loop, and what random numbers must be like."""

import numpy as np
import pytest
import torch

from lookalike._core.philox import orders, philox, uniform

# Published with the generator by its authors (Random123, kat_vectors): counter, key, result.
PUBLISHED = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_published_numbers(counter, key, expected):
    words = philox(tuple(torch.tensor([word]) for word in counter), tuple(key))
    assert [int(word) for word in words] == expected


def plainly(counter, key):
    """The generator in Python's own whole numbers."""
    (a, b, c, d), (k, m) = counter, key
    for _ in range(10):
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (second >> 32) ^ b ^ k, second & 0xFFFFFFFF, (first >> 32) ^ d ^ m, first & 0xFFFFFFFF
        k, m = (k + 0x9E3779B9) & 0xFFFFFFFF, (m + 0xBB67AE85) & 0xFFFFFFFF
    return a, b, c, d


def test_numbers_are_the_words_of_their_counters():
    """A counter is (index, kind, stream's lower and upper word); the key is the seed."""
    seed, kind, stream = (7 << 32) + 5, 3, (9 << 32) + 2
    found = uniform(seed, kind, torch.tensor([1, stream]), 11)
    words = [word for index in range(3) for word in plainly((index, kind, 2, 9), (5, 7))]
    assert found[1].tolist() == [(word >> 8) / 2**24 for word in words[:11]]


def test_numbers_depend_neither_on_how_many_are_drawn_nor_on_the_others():
    streams = torch.tensor([4, 0, 2])
    many = uniform(1, 0, streams, 300_001)  # more than are computed at once
    for row, stream in enumerate(streams):
        assert torch.equal(uniform(1, 0, stream[None], 300_001)[0], many[row])
        assert torch.equal(uniform(1, 0, stream[None], 5)[0], many[row, :5])
    assert torch.equal(orders(1, 0, streams, 9)[2], orders(1, 0, streams[2:], 9)[0])


def test_numbers_are_uniform_and_streams_apart():
    found = uniform(0, 0, torch.arange(4), 100_000).numpy()
    assert 0 <= found.min() < 1e-4
    assert 1 - 1e-4 < found.max() < 1
    np.testing.assert_allclose(np.histogram(found, 20, (0, 1))[0] / 20_000, 1, atol=0.05)
    correlations = np.corrcoef(
        [*found, uniform(0, 1, torch.tensor([0]), 100_000)[0], uniform(1, 0, torch.tensor([0]), 100_000)[0]]
    )
    assert np.abs(correlations - np.eye(6)).max() < 0.02


def test_orders_hold_each_number_once_and_favour_none():
    found = orders(3, 1, torch.arange(5_000), 7)
    assert torch.equal(found.sort(dim=1).values, torch.arange(7).expand(5_000, 7))
    np.testing.assert_allclose(found.double().mean(0), 3, atol=0.12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_draws_the_same_numbers():
    streams = torch.arange(3)
    assert torch.equal(uniform(5, 0, streams.cuda(), 100_003).cpu(), uniform(5, 0, streams, 100_003))
    assert torch.equal(orders(5, 1, streams.cuda(), 5_003).cpu(), orders(5, 1, streams, 5_003))
