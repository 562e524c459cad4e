"""What the positions of a feature map see of the image: strides, receptive fields, and the part that they cover."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from lookalike import Encoder, LookalikeError, convert
from lookalike._core.extent import WHOLE, Extent
from lookalike.encoder.patches import PatchEncoder
from lookalike.parts import Contributions, contributions, difference, pair_regions


class Net(nn.Module):
    """Layers before an average and a linear head; what is done to the image before comes first."""

    def __init__(self, *layers, before=lambda x: x, channels=4):
        super().__init__()
        self.before, self.layers, self.head = before, nn.Sequential(*layers), nn.Linear(channels, 3)

    def forward(self, x):
        return self.head(self.layers(self.before(x)).mean((2, 3)))


def conv(kernel, **options):
    return nn.Conv2d(1, 4, kernel, **options)


def squeezed(*layers):
    """Gates channels by their averages, so that every position sees the whole image."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(*layers)

        def forward(self, x):
            x = self.layers(x)
            return x * x.mean((2, 3), keepdim=True).sigmoid()

    return Gated()


def encoder_of(net, x):
    return PatchEncoder(Encoder(net.eval(), x), x)


CASES = {
    "padded": (Net(conv(3, padding=1, stride=2)), (32, 48), (2, 2), (3, 3), WHOLE),
    "a convolution without padding": (Net(conv(9)), (20, 20), (1, 1), (9, 9), (0.2, 0.2, 0.8, 0.8)),
    "patches of a part of the image": (
        Net(conv(4, stride=4), before=lambda x: x[..., 8:24, 4:20]), (32, 32), (4, 4), (4, 4),
        (0.25, 0.125, 0.75, 0.625),
    ),
    "a border around the image": (
        Net(conv(4, stride=4), before=lambda x: nn.functional.pad(x, (0, 0, 8, 8))), (16, 32), (4, 4), (4, 4),
        (-0.5, 0.0, 1.5, 1.0),
    ),
    "an image made smaller": (
        Net(conv(4, stride=4), before=lambda x: nn.functional.adaptive_avg_pool2d(x, 16)), (64, 32), (16, 8), (16, 8),
        WHOLE,
    ),
    "positions that see all": (Net(squeezed(conv(4, stride=4))), (32, 48), (4, 4), (32, 48), WHOLE),
    "positions that see all of a part": (
        Net(squeezed(conv(4, stride=4)), before=lambda x: x[..., 8:24]), (32, 32), (4, 4), (32, 16),
        (0.0, 0.25, 1.0, 0.75),
    ),
    "rows that no stride reaches": (Net(conv(4, stride=4)), (35, 33), (4, 4), (4, 4), (0.0, 0.0, 32 / 35, 1.0)),
}  # fmt: skip


@pytest.mark.parametrize(("net", "size", "stride", "field", "extent"), CASES.values(), ids=CASES.keys())
def test_strides_fields_and_places_are_measured(net, size, stride, field, extent):
    x = torch.randn(3, 1, *size)
    encoder = encoder_of(net, x)
    (view,) = encoder.views()
    assert (view.stride, view.receptive_field) == (stride, field)
    assert view.extent == pytest.approx(extent)
    assert encoder.extent == pytest.approx(extent)


def test_the_cell_of_a_position_holds_the_middle_of_what_it_sees():
    x = torch.randn(2, 1, 40, 40)
    encoder = encoder_of(Net(conv(15, stride=3)), x)
    top, left, bottom, right = (40 * encoder.boxes(torch.arange(encoder.n_patches))).unbind(1)
    for position in (0, 4, encoder.n_patches - 1):
        image = torch.zeros(1, 1, 40, 40, requires_grad=True)
        encoder(image).view(encoder.n_patches, -1)[position].sum().backward()
        rows, columns = (where.float() + 0.5 for where in torch.nonzero(image.grad[0, 0]).unbind(1))
        assert float(rows.mean()) == pytest.approx(float(top[position] + bottom[position]) / 2, abs=0.01)
        assert float(columns.mean()) == pytest.approx(float(left[position] + right[position]) / 2, abs=0.01)


def test_networks_of_whole_numbers_and_those_that_refuse_nan_are_taken_to_see_the_whole_image():
    class Careful(Net):
        def forward(self, x):
            if x.isnan().any():
                raise ValueError("an image is damaged")
            return super().forward(x)

    encoder = encoder_of(Careful(conv(9)), torch.randn(2, 1, 20, 20))
    assert encoder.extent == WHOLE
    with pytest.raises(LookalikeError, match="an image is damaged"):
        encoder.views()
    numbers = encoder_of(Net(conv(9), before=lambda x: x.float()), torch.randint(0, 255, (2, 1, 20, 20)))
    assert numbers.extent == WHOLE
    with pytest.raises(LookalikeError, match="takes whole numbers"):
        numbers.views()


def test_a_network_that_keeps_numbers_of_its_passes_keeps_no_nan():
    class Keeping(Net):
        def __init__(self):
            super().__init__(conv(9))
            self.register_buffer("mean", torch.zeros(()))
            self.latest = None

        def forward(self, x):
            self.mean.mul_(0.9).add_(x.mean())
            self.latest = x.mean().item()
            return super().forward(x)

    net = Keeping()
    encoder = encoder_of(net, torch.randn(2, 1, 20, 20))
    before = net.mean.clone(), net.latest
    assert encoder.extent == pytest.approx((0.2, 0.2, 0.8, 0.8))
    assert encoder.views()[0].stride == (1, 1)
    assert (net.mean, net.latest) == before


@pytest.fixture(scope="module")
def cropped():
    """A network that sees the right half of images alone, and images that differ at the bottom of that half."""
    torch.manual_seed(0)
    net = Net(conv(4, stride=4), nn.ReLU(), before=lambda x: x[..., 16:])
    x, y = torch.rand(60, 1, 32, 32), torch.arange(60) % 3
    for image, label in zip(x, y, strict=True):
        image[:, 24:, 24:] = label / 2
    return net, (x, y)


@pytest.mark.parametrize("level", ["image", "patch"])
def test_parts_are_drawn_and_named_where_they_are(cropped, level):
    net, (x, y) = cropped
    model = convert(net, (x, y), n_prototypes=2, level=level, progress=False)
    explained = contributions(model, x[:4])
    pixels = explained.upsampled()
    assert pixels.shape == (4, 32, 32)
    assert not pixels[:, :, :16].any()
    torch.testing.assert_close(pixels.sum((1, 2)), explained.maps.sum((1, 2)), rtol=1e-4, atol=1e-5)
    of_class = [row for row in difference(model, x[:12]) if row.deciding.any() and not row.deciding.all()]
    assert of_class
    for row in of_class:
        assert row.extent == (0, 0.5, 1, 1)
        assert "on the left" not in row.sentence()
        drawn = [image.get_extent() for image in row.plot().images if image.get_array().shape[:2] == (8, 4)]
        assert drawn
        assert all(left == pytest.approx(0.5) and right == pytest.approx(1) for left, right, _, _ in drawn)
    assert pair_regions(model, x[:1])[0].extent == (0, 0.5, 1, 1)
    if level == "patch":
        concepts = model.segment(x[:2]).upsampled()
        assert bool((concepts[:, :, :16] == -1).all())
        assert bool((concepts[:, :, 16:] >= 0).all())
        boxes = model.patch_boxes()
        assert float(boxes[..., 1].min()) >= 0.5


@pytest.mark.parametrize("grid", [(3, 5), (7, 7), (40, 50)])
def test_a_map_of_any_size_is_shared_out_over_the_pixels(grid):
    maps = torch.rand(2, *grid)
    sums = maps.sum((1, 2))
    zero, extent = torch.zeros(2), Extent(0.0, 0.1, 1.0, 1.0)
    explained = Contributions(maps, sums, zero, zero.long(), None, False, "score", (28, 32), extent)
    pixels = explained.upsampled()
    torch.testing.assert_close(pixels.sum((1, 2)), sums)
    assert not pixels[:, :, :3].any()
    if grid == (7, 7):
        cell = pixels[0, :4, 3:7]
        np.testing.assert_allclose(cell, cell[0, 0])


def test_cells_lie_within_half_a_stride_of_what_positions_see():
    """For chains of convolutions with any padding, stride and dilation, by the arithmetic of receptive fields."""
    generator = random.Random(0)
    n_parts_of_images = 0
    for _ in range(25):
        layers, centre, step, channels = [], 0.5, 1, 1
        for _ in range(generator.randint(1, 3)):
            kernel, stride, dilation = (generator.choice(of) for of in ((1, 2, 3, 5, 7), (1, 1, 2, 3), (1, 1, 2)))
            padding = generator.choice([0, (kernel - 1) * dilation // 2, kernel // 2])
            layers.append(nn.Conv2d(channels, 4, kernel, stride, padding, dilation))
            centre += ((kernel - 1) * dilation / 2 - padding) * step
            step, channels = step * stride, 4
        size = generator.randint(30, 50), generator.randint(30, 50)
        encoder = encoder_of(Net(*layers), torch.randn(2, 1, *size))
        assert encoder.views()[0].stride == (step, step)
        n_parts_of_images += encoder.extent != WHOLE
        for axis, (start, end) in enumerate((encoder.extent.down, encoder.extent.across)):
            cell = (end - start) * size[axis] / encoder.grid[axis]
            for position in range(encoder.grid[axis]):
                drawn = start * size[axis] + (position + 0.5) * cell
                assert drawn == pytest.approx(centre + position * step, abs=step / 2 + 1)
    assert n_parts_of_images > 5
