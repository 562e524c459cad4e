"""What is computed beside a pass on a GPU: identities, in a thread of their own."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from lookalike import embed
from lookalike.data import ImageFiles, Preprocessing
from lookalike.embedding import one_pass, run
from lookalike.embedding.beside import Beside
from tests.small import bright_images


def test_on_a_cpu_it_is_computed_at_once():
    calls = []
    known = Beside(lambda: calls.append(threading.current_thread()) or 3, torch.device("cpu"))
    assert calls == [threading.current_thread()]
    known.start()
    assert known.result() == 3
    assert len(calls) == 1


@pytest.mark.parametrize("data", ["arrays", "tensors", "samples", "files"])
def test_only_arrays_and_files_are_identified_in_another_thread(net, tmp_path, monkeypatch, data):
    """A data set of the user's own need not allow to be read in two threads."""
    x, y = bright_images(12)
    given = {
        "arrays": (x.numpy(), np.asarray(y)), "tensors": (x, y),
        "samples": torch.utils.data.Subset(TensorDataset(x, y), list(range(12))), "files": files_of(tmp_path, x, y),
    }[data]  # fmt: skip
    devices, steps = [], []

    def on_the_cpu(known, compute, device):
        devices.append(device.type)
        init(known, compute, torch.device("cpu"))

    def embedding(*args):
        steps.append("batch")
        return compute(*args)

    init, compute = Beside.__init__, one_pass.Pass._embed
    monkeypatch.setattr(one_pass.Pass, "_embed", embedding)
    monkeypatch.setattr(Beside, "__init__", on_the_cpu)
    monkeypatch.setattr(Beside, "start", lambda known: steps.append("identity"))
    monkeypatch.setattr(run, "device_of", lambda model: torch.device("cuda"))
    monkeypatch.setattr(Beside, "result", lambda known: known._found.result())
    embed(net, given, batch_size=6)
    assert devices == ["cpu" if data == "samples" else "cuda"]
    assert steps[:2] == ["batch", "identity"]  # the first images come first


def files_of(folder, x, y):
    """Saves images as files; returns them as a data set."""
    files = [folder / f"{number}.png" for number in range(len(x))]
    for file, image in zip(files, x, strict=True):
        Image.fromarray((image[0].clamp(0, 1) * 255).byte().numpy()).save(file)
    preprocessing = Preprocessing(None, None, mean=(0.5,), std=(0.5,))
    return ImageFiles(folder, files, y.numpy(), ["a", "b", "c"], preprocessing)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_errors_of_the_thread_reach_the_caller():
    def fail():
        raise ValueError("unreadable")

    with pytest.raises(ValueError, match="unreadable"):
        Beside(fail, torch.device("cuda")).result()
