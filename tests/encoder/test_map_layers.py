"""The feature maps of networks: found by running them, in whatever form they average, and however they are laid out."""

import pytest
import torch
from torch import nn

from lookalike import Encoder, LookalikeError, convert
from lookalike.encoder.patches import PatchEncoder
from lookalike.parts import contributions

AVERAGES = {
    "adaptive": lambda x: nn.functional.adaptive_avg_pool2d(x, 1).flatten(1),
    "flattened": lambda x: x.flatten(2).mean(-1),
    "one axis at a time": lambda x: x.mean(3).mean(2),
    "view": lambda x: x.view(x.size(0), x.size(1), -1).mean(2),
    "sum": lambda x: x.sum((2, 3)) / (x.shape[2] * x.shape[3]),
    "keyword": lambda x: torch.mean(input=x, dim=(2, 3)),
    "einsum": lambda x: torch.einsum("nchw->nc", x) / x[0, 0].numel(),
    "tokens": lambda x: x.flatten(2).transpose(1, 2).mean(1),
    "in double precision": lambda x: x.flatten(2).double().mean(2).to(x.dtype),
    "by a mean in double precision": lambda x: x.mean((2, 3), dtype=torch.float64).to(x.dtype),
    "channels last": lambda x: x.permute(0, 2, 3, 1).mean((1, 2)),
}


class Net(nn.Module):
    """Two convolutions with functional activations, an average in some form, and a head of some kind."""

    def __init__(self, average, head="linear", stride=(2, 2)):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 16, 3, stride=stride, padding=1)
        self.average = average
        self.head = nn.Linear(16, 5) if head == "linear" else nn.Conv2d(16, 5, 1)

    def forward(self, x):
        x = self.average(self.second(self.first(x).relu()).relu())
        return self.head(x) if isinstance(self.head, nn.Linear) else self.head(x[:, :, None, None]).flatten(1)


@pytest.mark.parametrize("head", ["linear", "convolution"])
@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES.keys())
def test_an_average_is_recognised_in_any_form(average, head):
    net, x = Net(average, head).eval(), torch.randn(4, 3, 32, 32)
    encoder = PatchEncoder(Encoder(net, x), x)
    assert (encoder.grid, encoder.patch_dim) == ((8, 8), 16)
    assert encoder.is_pooled
    torch.testing.assert_close(encoder.head(encoder(x)), net(x))
    torch.testing.assert_close(encoder.maps(x).mean((2, 3)), encoder.image_encoder(x))


@pytest.mark.parametrize("head", ["linear", "convolution"])
def test_another_pooling_is_not_taken_for_an_average(head):
    net, x = Net(lambda x: x.amax((2, 3)), head).eval(), torch.randn(4, 3, 32, 32)
    with pytest.raises(LookalikeError, match=r"name a layer that returns a map \(layers=\)"):
        PatchEncoder(Encoder(net, x), x)
    assert not PatchEncoder(Encoder(net, x), x, "second").is_pooled
    model = convert(net, (x, [0, 1, 2, 3]), n_prototypes=1)
    with pytest.raises(LookalikeError, match=r"level='patch' and name a layer that returns a map"):
        contributions(model, x)


def test_a_convolution_classifies_embeddings_as_a_linear_head_does():
    net, x = Net(AVERAGES["adaptive"], "convolution").eval(), torch.randn(4, 3, 32, 32)
    encoder = Encoder(net, x)
    torch.testing.assert_close(encoder.head(encoder(x)), net(x))


@pytest.mark.parametrize("layers", ["last", "b4", "b234", "second"])
def test_strides_may_differ_down_and_across(layers):
    net, x = Net(AVERAGES["flattened"], stride=(4, 1)).eval(), torch.randn(4, 3, 64, 64)
    encoder = PatchEncoder(Encoder(net, x), x, layers)
    assert encoder.grid == ((32, 32) if layers == "b234" else (8, 32))
    if layers == "b234":  # the first convolution's map, and the last
        assert encoder.patch_dim == 8 + 16


class Cropped(Net):
    """Cuts off the sides of wide images before the first layer."""

    def forward(self, x):
        return super().forward(x[..., 24:56])


def test_the_map_of_a_part_of_the_image_is_found():
    net, x = Cropped(AVERAGES["adaptive"]).eval(), torch.randn(4, 3, 32, 80)
    assert PatchEncoder(Encoder(net, x), x).grid == (8, 8)


class Enlarged(Net):
    """Enlarges small images before the first layer."""

    def forward(self, x):
        return super().forward(nn.functional.interpolate(x, scale_factor=8))


def test_a_map_may_be_larger_than_the_image():
    net, x = Enlarged(AVERAGES["adaptive"]).eval(), torch.randn(4, 3, 12, 12)
    assert PatchEncoder(Encoder(net, x), x).grid == (24, 24)
    assert PatchEncoder(Encoder(net, x), x, "first").grid == (48, 48)


class ChannelsLast(nn.Module):
    """Works on maps [N, H, W, D] of nearly as many channels as columns."""

    def __init__(self):
        super().__init__()
        self.patches, self.mix, self.head = nn.Conv2d(3, 18, 4, 4), nn.Linear(18, 18), nn.Linear(18, 5)

    def forward(self, x):
        return self.head(self.mix(self.patches(x).permute(0, 2, 3, 1)).mean((1, 2)))


@pytest.mark.parametrize("layers", ["last", "mix"])
def test_channels_last_are_told_from_columns(layers):
    net, x = ChannelsLast().eval(), torch.randn(4, 3, 64, 64)
    encoder = PatchEncoder(Encoder(net, x), x, layers)
    assert (encoder.grid, encoder.patch_dim, encoder.is_pooled) == ((16, 16), 18, True)


POOLED = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


@pytest.mark.parametrize(
    ("net", "layer", "message"),
    [
        (Net(AVERAGES["adaptive"]), "head", "'head' gives no feature map for these inputs"),
        (POOLED, "1", "no feature map larger than 1×1"),
        (POOLED, "2", r"an output of shape \(4,\), which is no feature map"),
        (nn.Sequential(nn.Flatten(2), nn.Linear(1024, 6), nn.Flatten(), nn.Linear(18, 5)), "1", "gives 3 tokens"),
    ],
)
def test_layers_without_a_map_are_refused_with_the_reason(net, layer, message):
    x = torch.randn(4, 3, 32, 32)
    with pytest.raises(LookalikeError, match=message):
        PatchEncoder(Encoder(net.eval(), x), x, layer)


class Written(nn.Module):
    """Activates in place what its normalisations return; the second block adds its input in place."""

    def __init__(self, inplace):
        super().__init__()
        torch.manual_seed(0)
        self.inplace = inplace
        self.first, self.first_norm = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)
        self.second, self.second_norm = nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.third, self.third_norm = nn.Conv2d(6, 6, 3, 1, 1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = nn.functional.relu(self.first_norm(self.first(x)), inplace=self.inplace)
        x = nn.functional.relu(self.second_norm(self.second(x)), inplace=self.inplace)
        x += self.third_norm(self.third(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("layers", ["b234", ["first_norm", "second_norm"]])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_activation_in_place_belongs_to_the_layer(layers, mode):
    x = torch.randn(4, 3, 32, 32)
    with mode():
        net = Written(inplace=True).eval()
        encoder = PatchEncoder(Encoder(net, x), x, layers)
        maps = encoder.maps(x)
        first = net.first_norm(net.first(x)).relu()
        second = net.second_norm(net.second(first)).relu()
    torch.testing.assert_close(maps[:, :4], encoder.scales[0] * first)
    if layers != "b234":  # what the next block adds is none of it
        resized = nn.functional.interpolate(encoder.scales[1] * second, encoder.grid, mode="bilinear")
        torch.testing.assert_close(maps[:, 4:], resized)


class Rows(torch.utils.data.Dataset):
    """Images whose brightness grows with their class, in the order of the classes."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, row):
        return self.x[row], int(self.y[row])


@pytest.mark.parametrize("kind", ["arrays", "rows", "stream"])
def test_scales_do_not_depend_on_the_size_of_a_batch(kind):
    y = torch.arange(300) // 100
    x = (1 + y)[:, None, None, None] * torch.rand(300, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    net = Net(AVERAGES["adaptive"]).eval()

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return zip(x, y.tolist(), strict=True)

    data = {"arrays": (x, y), "rows": Rows(x, y), "stream": Stream()}[kind]
    layers = ["first", "second"]
    scales = [
        convert(
            net, data, n_prototypes=1, level="patch", layers=layers, batch_size=size, max_patches=50, progress=False
        ).encoder.scales
        for size in (7, 64, 300)
    ]
    assert scales[0] == scales[1] == scales[2]
    with torch.no_grad():
        of_all = net.first(x).square().sum(1).mean() ** -0.5
    if kind == "stream":  # its first images are dark
        assert scales[0][0] > 1.05 * float(of_all)
    else:
        assert scales[0][0] == pytest.approx(float(of_all), rel=0.01)


class Windowed(nn.Module):
    """Has layers that return no map of each image: a table of positions, and the windows of all images."""

    def __init__(self):
        super().__init__()
        self.first, self.table = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(2, 8)
        self.in_windows, self.second = nn.Linear(8, 8), nn.Conv2d(8, 16, 3, 2, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.first(x).relu()  # [N, 8, 16, 16]
        places = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij"), -1)[None]
        x = x + self.table(places).permute(0, 3, 1, 2)
        windows = x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).flatten(0, 2)  # [4 N, 8, 8, 8]
        windows = self.in_windows(windows).unflatten(0, (-1, 2, 2)).permute(0, 5, 1, 3, 2, 4)
        return self.head(self.second(windows.flatten(4, 5).flatten(2, 3)).relu().mean((2, 3)))


def test_tables_and_windows_are_no_maps_of_images():
    net, x = Windowed().eval(), torch.randn(4, 3, 32, 32)
    assert PatchEncoder(Encoder(net, x), x, "b234").layers == ("first", "last")
    for layer, rows in (("table", 1), ("in_windows", 8)):
        with pytest.raises(LookalikeError, match=f"'{layer}' gives {rows} rows for 2 images, and so no map of each"):
            PatchEncoder(Encoder(net, x), x, layer)
