"""Large images pass through a network a few at a time on a CPU, whatever the batch."""

import pytest
import torch
from torch import nn

from lookalike import convert, embed
from lookalike.encoder import rows_at_once
from lookalike.metrics import Noise, relevance_ordering

CPU = torch.device("cpu")


class Counting(nn.Module):
    """A tiny network that notes how many rows it gets."""

    def __init__(self):
        super().__init__()
        self.pool, self.head, self.rows = nn.AdaptiveAvgPool2d(4), nn.Linear(48, 2), []

    def forward(self, x):
        self.rows.append(len(x))
        return self.head(self.pool(x).flatten(1))


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_rows_go_by_the_size_of_an_image(one_thread):
    assert rows_at_once(torch.empty(300, 3, 224, 224), 256, CPU) == 6
    assert rows_at_once(torch.empty(300, 3, 32, 32), 256, CPU) == 256
    assert rows_at_once(torch.empty(300, 3, 224, 224), 4, CPU) == 4
    assert rows_at_once(torch.empty(2, 3, 2048, 2048), 256, CPU) == 2
    assert rows_at_once(torch.empty(0, 3, 224, 224), 256, CPU) == 256
    assert rows_at_once({"a": torch.empty(9, 3, 224, 224), "b": torch.empty(9, 3, 224, 224)}, 256, CPU) == 3


def test_every_core_has_rows_and_a_gpu_has_all(one_thread):
    torch.set_num_threads(2)  # two threads of one core each
    assert rows_at_once(torch.empty(9, 3, 4096, 4096, device="meta"), 256, CPU) == 2
    torch.set_num_threads(16)  # four threads of four cores each
    assert rows_at_once(torch.empty(9, 3, 4096, 4096, device="meta"), 256, CPU) == 8
    assert rows_at_once(torch.empty(300, 3, 224, 224), 256, torch.device("cuda")) == 256


def test_predictions_and_embeddings_are_those_of_whole_batches(one_thread):
    torch.manual_seed(0)
    net, x = Counting(), torch.rand(40, 3, 224, 224)
    model = convert(net, (x[:8], [0, 1] * 4), n_prototypes=1, n_images=0, progress=False)
    net.rows.clear()
    z = model.embed(x)
    assert max(net.rows) == 6
    torch.testing.assert_close(z, model.encoder(x))
    net.rows.clear()
    store = embed(model.encoder, (x, [0, 1] * 20), progress=False)
    assert max(net.rows) <= 6
    torch.testing.assert_close(torch.from_numpy(store.embeddings), z)


def test_relevance_ordering_builds_no_batch_of_noisy_copies_larger_than_passes_at_once(one_thread):
    seen, x = [], torch.rand(2, 1, 640, 640)

    def score(images):
        seen.append(len(images))
        return torch.stack([images.mean((1, 2, 3)), 1 - images.mean((1, 2, 3))], 1)

    relevance_ordering(score, x, torch.rand(2, 640, 640), Noise(torch.zeros(1), torch.ones(1), 2, 0), n_steps=4)
    assert max(seen) <= 5
