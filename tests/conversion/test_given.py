"""What a conversion takes over from the network and the data that it is given, and what it refuses."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lookalike import convert, explain
from lookalike._core.errors import LookalikeError
from lookalike.model.similarity import make_similarity


@pytest.mark.parametrize("level", ["image", "patch", "head"])
def test_a_networks_own_attribute_is_no_preprocessing(blobs, level):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.preprocessing = nn.BatchNorm2d(1)
            self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.features(self.preprocessing(x)).mean((2, 3)))

    model = convert(Net().eval(), blobs, level=level, progress=False)
    assert model.preprocessing is None
    assert model.images is not None


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_black_and_white_are_those_of_all_prototype_images(net, blobs, batch_size):
    x, y = blobs
    scale = torch.linspace(0.5, 3, len(x))[:, None, None, None]
    data = DataLoader(TensorDataset(x * scale, y), batch_size=batch_size)
    model = convert(net, data, n_prototypes=2, n_images=2, progress=False)
    nearest = model.prototypes.nearest[:, :2].flatten().unique()
    shown = (x * scale)[nearest]
    assert model.value_range.flatten().tolist() == pytest.approx([float(shown.min()), float(shown.max())])
    for prototype, images in enumerate(model.images):
        expected = (x * scale)[model.prototypes.nearest[prototype, :2]]
        low, high = model.value_range.flatten()
        pixels = ((expected - low) / (high - low) * 255).round().byte().permute(0, 2, 3, 1)
        np.testing.assert_allclose(images.numpy().astype(int), pixels.numpy().astype(int), atol=1)


def test_a_prototype_without_images_shows_none_of_another_class(net, blobs):
    x, y = blobs
    model = convert(net, (x[y < 2], y[y < 2]), level="head", class_names=["a", "b", "c"], progress=False)
    assert model.prototypes.nearest[2].max() < 0
    assert (model.images[2] == 255).all()
    assert (model.images[:2] != 255).any()
    [explained] = explain(model, x[:1], n_nearest=3, relevance=True)
    by_class = {near.class_name: near for near in explained.likenesses}
    assert by_class["a"].prototype_heat_map is not None
    assert by_class["c"].prototype_heat_map is None
    assert by_class["c"].heat_map is not None
    explained.plot()


@pytest.mark.parametrize(
    "given", [{"similarity_options": {}}, {"similarity": make_similarity("l1")}], ids=["options", "own"]
)
def test_advice_that_cannot_be_given_is_refused(net, blobs, given):
    with pytest.raises(LookalikeError, match="leave advice out"):
        convert(net, blobs, advice=True, progress=False, **given)
