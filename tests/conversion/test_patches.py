"""KMEx on patches."""

import pytest
import torch
from torch import nn
from torchvision.models import convnext_tiny, densenet121, efficientnet_b0, resnet18, swin_t, vgg11

from lookalike import Encoder, LookalikeError, LookalikeWarning, convert
from lookalike.conversion.patches import PatchEncoder


def make_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


@pytest.fixture
def model(blobs):
    return convert(make_net(), blobs, n_prototypes=4, n_images=1, level="patch")


def test_a_patch_is_a_position_of_the_map_before_the_average(blobs, untouched):
    net, (x, _) = make_net(), blobs
    net.train()
    with untouched(net):
        encoder = PatchEncoder(Encoder(net, x[:2]), x[:2])
        maps = encoder.maps(x[:5])
    assert encoder.grid == (4, 4)
    torch.testing.assert_close(maps, net[:3](x[:5]))
    assert torch.equal(encoder(x[:5])[16 + 5], maps[1, :, 1, 1])  # image by image, row by row
    torch.testing.assert_close(maps.mean((2, 3)), encoder.encoder(x[:5]))


@pytest.mark.parametrize("build", [resnet18, densenet121, efficientnet_b0, convnext_tiny, swin_t])
def test_the_map_of_known_architectures(build):
    net = build(weights=None).eval()
    x = torch.randn(2, 3, 64, 64)
    encoder = PatchEncoder(Encoder(net, x), x)
    assert encoder.grid == (2, 2)
    assert encoder.embedding_dim == Encoder(net, x).embedding_dim
    if build is resnet18:
        seen = []
        with torch.no_grad(), net.layer4.register_forward_hook(lambda *call: seen.append(call[2])):
            net(x)
        assert torch.equal(encoder.maps(x), seen[0])


def test_networks_without_a_map_are_refused():
    small = torch.randn(2, 3, 32, 32)
    with pytest.raises(LookalikeError, match="no feature map larger than 1×1"):
        convert(resnet18(weights=None), (small, [0, 1]), level="patch")
    with pytest.raises(LookalikeError, match="no feature map larger than 1×1"):
        PatchEncoder(Encoder(vgg11(weights=None), small), small)
    with pytest.raises(LookalikeError, match="are needed"):
        convert(
            nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (torch.randn(6, 4), [0, 1] * 3), level="patch"
        )
    with pytest.raises(LookalikeError, match="at least 1"):
        convert(resnet18(weights=None), (small, [0, 1]), level="patch", max_patches=0)


def test_the_image_is_of_the_class_of_most_patches(model, blobs):
    x, _ = blobs
    patches = model.predict_patches(x)
    assert patches.shape == (90, 4, 4)
    counts = nn.functional.one_hot(patches.flatten(1), 3).sum(1)
    shares, predicted = model(x), model.predict(x, batch_size=7)
    torch.testing.assert_close(shares, counts / 16)
    assert bool((counts.gather(1, predicted[:, None])[:, 0] == counts.max(1).values).all())
    z = model.encoder(x[:1])
    distances = torch.cdist(z, model.prototypes.vectors)
    assert torch.equal(patches[0].flatten(), model.prototypes.labels[distances.argmin(1)])


@pytest.mark.parametrize(("near", "far", "winner"), [(1.0, 9.5, 1), (0.5, 9.0, 0)])
def test_of_equal_votes_the_likest_class_wins(near, far, winner, model, blobs):
    class Fixed(nn.Module):
        grid = (4, 4)

        def forward(self, inputs):
            return torch.tensor([near] * 8 + [far] * 8)[:, None]

    model.encoder = Fixed()
    model.prototypes.vectors = torch.tensor([[0.0], [10.0], [99.0]])
    model.prototypes.labels = torch.tensor([0, 1, 2])
    x, _ = blobs
    assert model(x[:1]).tolist() == [[0.5, 0.5, 0.0]]
    assert model.predict(x[:1]).tolist() == [winner]


def test_prototypes_are_means_of_patches_and_are_shown_by_the_nearest(model, blobs):
    x, y = blobs
    p = model.prototypes
    maps = model.encoder.maps(x)
    for j in (0, 5, 11):
        k = int(p.labels[j])
        own = maps[y == k].flatten(2).transpose(1, 2).flatten(0, 1)
        nearest = torch.cdist(own, p.vectors[p.labels == k]).argmin(1)
        mine = own[nearest == j - 4 * k]
        torch.testing.assert_close(p.vectors[j], mine.mean(0), atol=1e-4, rtol=1e-4)
        sample, row, column = model.places[j, 0].tolist()
        assert int(y[sample]) == k
        distance = (maps[sample, :, row, column] - p.vectors[j]).norm()
        torch.testing.assert_close(distance, torch.cdist(own, p.vectors[j : j + 1]).min(), atol=1e-4, rtol=1e-4)
    assert model.images.shape == (12, 1, 8, 8, 1)
    top, left, bottom, right = model.boxes()[3, 0]
    assert (bottom - top, right - left) == (0.25, 0.25)
    assert (top, left) == (int(model.places[3, 0, 1]) / 4, int(model.places[3, 0, 2]) / 4)


def test_a_share_of_the_patches_is_drawn_alike(blobs):
    found = [convert(make_net(), blobs, 3, max_patches=100, seed=2, level="patch") for _ in range(2)]
    assert found[0].provenance["n_patches"] == 300
    assert torch.equal(found[0].prototypes.vectors, found[1].prototypes.vectors)
    assert len({tuple(place) for place in found[0].places[:, 0].tolist()}) > 3
    other = convert(make_net(), blobs, 3, max_patches=100, seed=3, level="patch")
    assert not torch.equal(found[0].prototypes.vectors, other.prototypes.vectors)


def test_augmented_images_are_warned_of(blobs):
    x, y = blobs

    class Augmented(torch.utils.data.Dataset):
        def __len__(self):
            return len(y)

        def __getitem__(self, row):
            return x[row] + torch.rand(()), int(y[row])

    with pytest.warns(LookalikeWarning, match="augmented at random"):
        convert(make_net(), Augmented(), 2, level="patch")


def test_the_gallery_frames_each_patch(model):
    ax = model.plot_gallery()
    assert len(ax.patches) == 12
    frame = ax.patches[0]
    assert frame.get_width() == pytest.approx(0.24)
    model.images = None
    with pytest.raises(LookalikeError, match="holds no prototype images"):
        model.plot_gallery()
