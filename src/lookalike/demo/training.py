"""Training of the demonstration's black box, which stands for a user's own model."""

import torch
from torch import nn
from torch.utils.data import DataLoader

from lookalike._core.draws import seeded
from lookalike._core.progress import progress_bar
from lookalike.data import DataBundle
from lookalike.demo.network import digit_network

_EPOCHS = 6
_BATCH = 100
_LEARNING_RATE = 5e-3


def train_digit_network(digits: DataBundle, seed: int, progress: bool | None = None) -> nn.Module:
    """Trains the small network on the digits, about ten seconds on two cores. The same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, _ = digit_network()
    inputs, labels = next(iter(DataLoader(digits.train, batch_size=len(digits.train))))  # type: ignore[arg-type]
    steps = _EPOCHS * -(-len(labels) // _BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=steps)
    generator = seeded(seed)
    network.train()
    with progress_bar("Training a small network", steps, progress) as advance:
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(labels), generator=generator).split(_BATCH):
                loss = nn.functional.cross_entropy(network(inputs[rows]), labels[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                advance()
    return network.eval()
