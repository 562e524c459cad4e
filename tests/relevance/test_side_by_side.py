"""Maps of large images are computed in threads, and are those of one pass after the other."""

import random
import threading

import pytest
import torch
from torch import nn

from lookalike import convert
from lookalike._core.errors import LookalikeWarning, RelevanceError
from lookalike.relevance import lrp, prp
from lookalike.relevance.attribution import lrp_of_heads
from lookalike.relevance.division import Division
from lookalike.relevance.explained import maps_on_inputs
from tests.interruptions import interrupt

IMAGES = torch.rand(64, 3, 112, 112, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _two_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Watched(nn.Module):
    """Notes the images and the thread of each forward pass; ``after`` is called in it."""

    def __init__(self, after=lambda x: x):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 5, stride=4)
        self.head = nn.Linear(4, 3)
        self.after = after
        self.last = None

    def forward(self, x):
        CALLS.append((threading.get_ident(), len(x)))
        self.last = x.detach()
        return self.head(self.after(self.convolution(x).relu()).mean((2, 3)))


CALLS = []


def model_of(net):
    options = {"n_prototypes": 1, "n_images": 0, "progress": False}
    return one_after_the_other(lambda: convert(net.eval(), (IMAGES, [0, 1, 2, 0] * 16), **options))


def one_after_the_other(compute):
    torch.set_num_threads(1)
    result = compute()
    torch.set_num_threads(2)
    CALLS.clear()
    return result


def in_threads():
    return {thread for thread, _ in CALLS} - {threading.get_ident()}


@pytest.mark.parametrize("prototypes", ["nearest", [0, 2]])
def test_maps_in_threads_are_those_of_one_after_the_other(prototypes):
    model = model_of(Watched())

    def compute():
        return prp(model, IMAGES, prototypes, "epsilon")

    expected = one_after_the_other(compute)
    computed = compute()
    assert len(in_threads()) > 1
    torch.testing.assert_close(computed.maps, expected.maps)
    torch.testing.assert_close(computed.residual, expected.residual)
    assert [(use.where, use.rule) for use in computed.rules] == [(use.where, use.rule) for use in expected.rules]
    assert model.encoder.model.last is not None
    assert not model.encoder.model.training


def test_maps_of_probabilities_of_scores_and_of_one_pass_are_computed_in_threads():
    model = model_of(Watched())
    numbers = torch.zeros(len(IMAGES), 1, dtype=torch.int64)
    for compute in (
        lambda: lrp(model, IMAGES, composite="epsilon").maps,
        lambda: lrp_of_heads(model.encoder, IMAGES, [lambda z, rows: model.log_probabilities_of(z)], "epsilon").maps,
        lambda: maps_on_inputs(model, IMAGES, numbers, "epsilon", "gradient").likenesses,
    ):
        expected = one_after_the_other(compute)
        torch.testing.assert_close(compute(), expected)
        assert len(in_threads()) > 1


def test_what_a_check_finds_is_computed_one_after_the_other():
    model = model_of(Watched(after=lambda x: x * float(x.detach().numpy().max() > -1)))

    def compute():
        return prp(model, IMAGES, "nearest", "epsilon").maps

    expected = one_after_the_other(compute)
    torch.testing.assert_close(compute(), expected)
    assert not in_threads()


def test_small_images_and_hooks_stay_in_one_thread():
    model = model_of(Watched())
    prp(model, IMAGES[:, :, :32, :32], "nearest", "epsilon", batch_size=8)
    assert not in_threads()
    seen = []
    model.encoder.model.convolution.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    prp(model, IMAGES, "nearest", "epsilon")
    assert not in_threads()
    assert sum(seen) >= len(IMAGES)


def test_an_error_in_a_thread_is_told_as_ever():
    def refuse(x):
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("no such kernel")
        return x

    model = model_of(Watched(after=refuse))
    with pytest.raises((RelevanceError, RuntimeError), match="no such kernel"):
        prp(model, IMAGES, "nearest", "epsilon")


def test_memory_that_runs_out_beside_another_pass_is_asked_for_in_smaller_pieces():
    def need_memory(x):
        if threading.current_thread() is not threading.main_thread():
            raise torch.OutOfMemoryError("not enough memory")
        return x

    model = model_of(Watched(after=need_memory))
    expected = one_after_the_other(lambda: prp(model, IMAGES, "nearest", "epsilon").maps)
    with pytest.warns(LookalikeWarning, match="not enough memory for the maps of 40 images at once; going on with 20"):
        torch.testing.assert_close(prp(model, IMAGES, "nearest", "epsilon").maps, expected)


@pytest.mark.parametrize("twice", [False, True])
def test_an_interruption_anywhere_leaves_no_thread_and_no_setting(twice):
    net = Watched()
    model = model_of(net)
    tried, done, changed = interrupt(
        lambda: prp(model, IMAGES, "nearest", "epsilon"),
        net,
        8,
        instructions=False,
        chance=random.Random(0),
        twice=twice,
    )
    assert (done, changed) == (8, []), tried


@pytest.mark.parametrize(
    ("n", "sizes"), [(1, [1]), (6, [6]), (12, [6, 6]), (13, [6, 3, 4]), (16, [6, 5, 5]), (40, [6, 5, 6, 5, 6, 6, 6])]
)
def test_parts_side_by_side_are_of_equal_size(n, sizes):
    images = torch.zeros(n, 3, 224, 224)
    division, computed = Division(images, 32, can_divide=True), []
    while division.n_left:
        parts = division.next_parts()
        computed += [part.stop - part.start for part in parts]
        division.finish(parts, can_divide=True)
    assert computed == sizes


def test_passes_that_cannot_be_divided_have_all_images_at_once_that_fit():
    division = Division(torch.zeros(16, 3, 224, 224), 32, can_divide=False)
    sizes = []
    while division.n_left:
        parts = division.next_parts()
        sizes += [part.stop - part.start for part in parts]
        division.finish(parts, can_divide=False)
    assert sizes == [6, 6, 4]
