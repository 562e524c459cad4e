"""What is computed beside a pass on a GPU: identities, in a thread of their own."""

import threading

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from lookalike import embed
from lookalike.embedding import run
from lookalike.embedding.beside import beside
from tests.small import bright_images


def test_on_a_cpu_it_is_computed_at_once():
    calls = []
    find = beside(lambda: calls.append(threading.current_thread()) or 3, torch.device("cpu"))
    assert calls == [threading.current_thread()]
    assert find() == 3
    assert len(calls) == 1


@pytest.mark.parametrize("data", ["arrays", "tensors", "samples"])
def test_only_arrays_are_identified_in_another_thread(net, monkeypatch, data):
    """A data set of the user's own need not allow to be read in two threads."""
    x, y = bright_images(12)
    given = {
        "arrays": (x.numpy(), np.asarray(y)), "tensors": (x, y),
        "samples": torch.utils.data.Subset(TensorDataset(x, y), list(range(12))),
    }[data]  # fmt: skip
    devices = []

    def spy(compute, device):
        devices.append(device.type)
        return beside(compute, torch.device("cpu"))

    monkeypatch.setattr(run, "beside", spy)
    monkeypatch.setattr(run, "device_of", lambda model: torch.device("cuda"))
    embed(net, given)
    assert devices == ["cpu" if data == "samples" else "cuda"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_errors_of_the_thread_reach_the_caller():
    def fail():
        raise ValueError("unreadable")

    with pytest.raises(ValueError, match="unreadable"):
        beside(fail, torch.device("cuda"))()
