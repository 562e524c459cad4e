"""Convert a network of your own: `python examples/convert_own_model.py`.

It uses scikit-learn's small digits and a little network, so that it runs anywhere in seconds.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from lookalike import convert, explain
from lookalike.metrics import compare

digits = load_digits()
x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
y = torch.tensor(digits.target)
train, test = (x[:1400], y[:1400]), (x[1400:], y[1400:])

# a classifier that somebody has trained
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 64), nn.ReLU(), nn.Linear(64, 10))
optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
for _ in range(60):
    optimiser.zero_grad()
    nn.functional.cross_entropy(net(train[0]), train[1]).backward()
    optimiser.step()

# what you do with it
sem = convert(net, train, n_prototypes=4)
print(compare(sem, test))
print(explain(sem, test[0][:1])[0].sentence())
