"""Random numbers that are the same on every device: the counter-based generator Philox4x32-10.

A counter-based generator has no state: number i of a stream is a function of the key, the stream and i. So all numbers
are computed at once, in whole-number arithmetic, which a GPU does exactly as a CPU does.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_ROUNDS = 10
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF
_COUNTERS_AT_ONCE = (
    1 << 16
)  # on a CPU: a few arrays of half a MiB stay in its caches; half or twice as many take longer


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Returns four random words for each counter.

    Words of 32 bits are in tensors of int64. Products overflow there, which leaves their lower 64 bits as they are; the
    upper half of a product may have wrong signs, which the mask of the next round removes.

    Args:
        counter: The four words of the counters, tensors of one shape.
        key: The two words of the key.

    Example:
        >>> zero = torch.tensor(0)
        >>> [hex(int(word)) for word in philox((zero, zero, zero, zero), (0, 0))]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    a, b, c, d = counter
    k, m = key
    for _ in range(_ROUNDS):
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a = (second >> 32).bitwise_xor_(b).bitwise_xor_(k).bitwise_and_(_WORD)
        c = (first >> 32).bitwise_xor_(d).bitwise_xor_(m).bitwise_and_(_WORD)
        b, d = second, first
        k, m = (k + _KEY_STEPS[0]) & _WORD, (m + _KEY_STEPS[1]) & _WORD
    return a, b & _WORD, c, d & _WORD


def uniform(seed: int, kind: int, streams: Tensor, n: int) -> Tensor:
    """Draws uniform numbers in [0, 1), float32, multiples of 2⁻²⁴.

    Args:
        seed: The key, of 64 bits.
        kind: What the numbers are for, of 32 bits: other kinds are other streams.
        streams: Numbers of the streams [S], int64, on the device of the result.
        n: How many to draw from each.

    Returns:
        [S, n]. The first numbers of a stream are the same for every ``n``.
    """
    numbers = torch.empty(len(streams), -(-n // 4), 4, dtype=torch.float32, device=streams.device)
    for part, words in _words(seed, kind, streams, numbers.shape[1]):
        for column, word in enumerate(words):
            numbers[:, part, column] = word.bitwise_right_shift_(8)
    return numbers.mul_(2**-24).flatten(1)[:, :n]


def orders(seed: int, kind: int, streams: Tensor, n: int) -> Tensor:
    """Draws a random order of 0 … n − 1 from each stream [S, n], int64: the ranks of n random numbers of 63 bits."""
    numbers = torch.empty(len(streams), -(-n // 2), 2, dtype=torch.int64, device=streams.device)
    for part, (a, b, c, d) in _words(seed, kind, streams, numbers.shape[1]):
        numbers[:, part, 0] = (a >> 1 << 32) | b
        numbers[:, part, 1] = (c >> 1 << 32) | d
    return inverse(numbers.flatten(1)[:, :n].argsort(dim=1, stable=True))


def inverse(order: Tensor) -> Tensor:
    """Returns the inverse of permutations along the last axis: from an order of values, their ranks."""
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)


def _words(seed: int, kind: int, streams: Tensor, n_counters: int) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
    """Yields the four words [S, c] of the next counters of each stream, and which counters they are."""
    key = seed & _WORD, seed >> 32 & _WORD
    step = n_counters if streams.device.type != "cpu" else max(1, _COUNTERS_AT_ONCE // max(len(streams), 1))
    low, high = (streams & _WORD)[:, None], (streams >> 32 & _WORD)[:, None]
    for start in range(0, n_counters, step):
        part = slice(start, min(start + step, n_counters))
        index = torch.arange(part.start, part.stop, device=streams.device)[None]
        a, b, c, d = torch.broadcast_tensors(index, torch.full_like(low, kind), low, high)
        yield part, philox((a, b, c, d), key)
