"""Maps that are recorded on a GPU and replayed; here a stand-in records on the CPU, and on a GPU the real one."""

import threading

import pytest
import torch
from torch import nn

from lookalike import LookalikeWarning, convert
from lookalike._core import recording
from lookalike._core.network_state import state_of
from lookalike._core.recording import Recordings, record_on_cuda
from lookalike.relevance import derived, lrp, propagation, prp

N_PLAIN = 2  # calls before a computation is recorded
ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")


class Recorder:
    """Records by keeping the computation, or, on a GPU, as the package does; counts what it was asked for."""

    def __init__(self, change=lambda results: results):
        self.n_recorded = self.n_replayed = 0
        self.change = change

    def __call__(self, compute, inputs):
        self.n_recorded += 1
        replay = record_on_cuda(compute, inputs) if ON_GPU else (lambda given: compute(*given))

        def counted(given):
            self.n_replayed += 1
            return self.change(replay(given))

        return counted


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)
        self.doubles, self.options = False, {"shift": 0.0}

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        x = (self.second(x) + x).relu().mean((2, 3))
        return self.head(2 * x if self.doubles else x + self.options["shift"])


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network().eval().to(DEVICE)


@pytest.fixture
def recorder(monkeypatch):
    return use(monkeypatch, Recorder())


def use(monkeypatch, recorder):
    monkeypatch.setattr(propagation, "RECORDINGS", Recordings(recorder))
    monkeypatch.setattr(propagation, "can_record", lambda device: True)
    monkeypatch.setattr(derived, "_is_in_one_piece", lambda tensor: False)  # on a GPU nothing derived is kept
    return recorder


def images(n=4, seed=0):
    return torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def plain(monkeypatch, compute):
    """Runs a computation without recording anything."""
    with monkeypatch.context() as patch:
        patch.setattr(propagation, "can_record", lambda device: False)
        return compute()


def assert_same(found, expected):
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.residual, expected.residual, rtol=1e-3, atol=1e-5)
    assert found.rules == expected.rules


@pytest.mark.parametrize("target", [None, 2, [[0, 1]] * 4])
@pytest.mark.parametrize("of", ["score", "probability"])
def test_a_map_is_recorded_at_the_third_call_and_then_replayed(monkeypatch, network, recorder, target, of):
    for call in range(5):
        x = images(seed=call)
        found = lrp(network, x, target, of=of)
        assert_same(found, plain(monkeypatch, lambda x=x: lrp(network, x, target, of=of)))
        assert recorder.n_recorded == (call >= N_PLAIN)
    assert recorder.n_replayed == 1 + 2  # once to be checked


def test_targets_of_each_image_are_those_of_the_call(monkeypatch, network, recorder):
    for call in range(5):
        targets = [(call + row) % 4 for row in range(4)]
        found = lrp(network, images(), targets)
        assert_same(found, plain(monkeypatch, lambda targets=targets: lrp(network, images(), targets)))
    assert recorder.n_replayed == 3


@pytest.mark.parametrize("prototypes", ["nearest", "predicted", [0, 3]])
def test_similarities(monkeypatch, network, recorder, prototypes):
    model = convert(network, (images(40), torch.arange(40) % 4), n_prototypes=2, progress=False)
    for call in range(4):
        found = prp(model, images(seed=call), prototypes)
        assert_same(found, plain(monkeypatch, lambda call=call: prp(model, images(seed=call), prototypes)))
    assert recorder.n_replayed == (0 if prototypes == "predicted" else 2)  # their numbers are the caller's own
    given = [[1], [0], [6], [7]]
    assert_same(prp(model, images(), given), plain(monkeypatch, lambda: prp(model, images(), given)))


def test_batches_of_one_call_and_a_shorter_one_at_the_end(monkeypatch, network, recorder):
    x = images(18)
    found = lrp(network, x, batch_size=4)
    assert_same(found, plain(monkeypatch, lambda: lrp(network, x, batch_size=4)))
    assert (recorder.n_recorded, recorder.n_replayed) == (1, 2)


def change_weights(network):
    with torch.no_grad():
        network.second.weight.mul_(1.5)


def new_weights(network):
    network.second.weight = nn.Parameter(2 * network.second.weight.detach())


def other_option(network):
    network.options["shift"] = 1.0


def other_path(network):
    network.doubles = True


def other_layer(network):
    network.norm = nn.Identity()


@pytest.mark.parametrize("change", [change_weights, new_weights, other_option, other_path, other_layer])
def test_a_network_that_changed_has_its_new_maps(monkeypatch, network, recorder, change):
    for _ in range(4):
        lrp(network, images(), 1)
    change(network)
    found = lrp(network, images(), 1)
    assert_same(found, plain(monkeypatch, lambda: lrp(network, images(), 1)))


def test_what_the_state_does_not_show_is_noticed_by_the_outputs(monkeypatch, network, recorder):
    """A recording is fixed: here the network looks at a variable outside it, as a recording on a GPU would not."""
    for _ in range(4):
        lrp(network, images(), 1)
    monkeypatch.setattr(Network, "forward", lambda self, x: self.head(self.first(x).relu().mean((2, 3))))
    monkeypatch.setattr(propagation, "state_of", lambda network: ("the same",))
    before = recorder.n_replayed
    for _ in range(2):  # the first finds the state changed, the second that of the first
        found = lrp(network, images(), 1)
    assert_same(found, plain(monkeypatch, lambda: lrp(network, images(), 1)))
    assert recorder.n_replayed == before


def test_a_recording_with_other_outputs_than_the_network_is_dropped(monkeypatch, network):
    wrong = [False]
    recorder = use(monkeypatch, Recorder(lambda r: [r[0] + 1, *r[1:]] if wrong[0] else r))
    for _ in range(4):
        lrp(network, images(), 1)
    wrong[0] = True
    assert_same(lrp(network, images(), 1), plain(monkeypatch, lambda: lrp(network, images(), 1)))
    replayed = recorder.n_replayed
    lrp(network, images(), 1)
    assert recorder.n_replayed == replayed


def test_a_recording_with_other_maps_than_the_plain_computation_is_never_used(monkeypatch, network):
    recorder = use(monkeypatch, Recorder(lambda r: [r[0], 1.01 * r[1], *r[2:]]))
    for _ in range(5):
        assert_same(lrp(network, images(), 1), plain(monkeypatch, lambda: lrp(network, images(), 1)))
    assert (recorder.n_recorded, recorder.n_replayed) == (1, 1)


class Reading(Network):
    def forward(self, x):
        scores = super().forward(x)
        return scores if scores.isfinite().all() else scores.nan_to_num()


CONSTANT = {}


class Closed(Network):
    """Uses a tensor that is no part of it."""

    def forward(self, x):
        return super().forward(x) * CONSTANT.setdefault(x.device, torch.tensor([1.0, 2.0, 3.0, 4.0], device=x.device))


class Counting(Network):
    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x)


@pytest.mark.parametrize("kind", [Reading, Closed, Counting])
def test_networks_that_python_decides_in_are_not_recorded(monkeypatch, recorder, kind):
    torch.manual_seed(0)
    network = kind().eval().to(DEVICE)
    for _ in range(5):
        assert_same(lrp(network, images(), 1), plain(monkeypatch, lambda: lrp(network, images(), 1)))
    assert recorder.n_replayed == 0 or kind is Counting
    if kind is Counting:  # each call changes the state, so that no recording is of the present one
        assert recorder.n_replayed <= recorder.n_recorded


def test_hooks_see_every_call(network, recorder):
    seen = []
    network.first.register_forward_hook(lambda *_: seen.append(1))
    for _ in range(4):
        before = len(seen)
        lrp(network, images(), 1)
        assert len(seen) > before
    assert recorder.n_recorded == 0


def test_recordings_go_with_their_network(recorder):
    network = Network().eval().to(DEVICE)
    for _ in range(4):
        lrp(network, images(), 1)
    recordings = propagation.RECORDINGS
    assert len(recordings._entries) == 1
    del network
    import gc

    gc.collect()
    assert len(recordings._entries) == 0 or not ON_GPU  # the stand-in holds the computation, and with it the network


def test_a_call_beside_a_replay_records_nothing_again(network, recorder):
    for _ in range(4):
        lrp(network, images(), 1)
    [entries] = propagation.RECORDINGS._entries.values()
    [(key, entry)] = entries.items()
    n_recorded = recorder.n_recorded
    x = [images()]
    propagation.RECORDINGS.ran(network, key, entry.state, lambda given: [given], x, x)  # as after a lock that was held
    assert recorder.n_recorded == n_recorded
    entry.replay, entry.lock = None, threading.Lock()
    assert propagation.RECORDINGS.replay(network, key, entry.state, x) is None


def test_a_network_keeps_two_recordings(network, recorder):
    for n in (1, 2, 3):
        for _ in range(3):
            lrp(network, images(n), 1)
    [entries] = propagation.RECORDINGS._entries.values()
    assert [entry.replay is not None for entry in entries.values()] == [False, True, True]


def test_the_state_is_of_all_but_values(network):
    before = state_of(network)
    change_weights(network)
    assert state_of(network) == before
    network.train()
    assert state_of(network) == before
    for change in (other_option, other_path, other_layer, new_weights):
        change(network)
        after = state_of(network)
        assert after != before
        before = after
    assert state_of(network.double()) != before


def test_a_network_with_too_much_to_compare_is_not_recorded(network, recorder):
    network.table = list(range(30_000))
    assert state_of(network) is None
    for _ in range(4):
        lrp(network, images(), 1)
    assert recorder.n_recorded == 0


@pytest.mark.parametrize(
    "operation", [lambda x: x.sum().item(), lambda x: x[x > 0].sum(), lambda x: x.nonzero().sum(), torch.unique]
)
def test_what_reads_values_is_seen(operation):
    x = torch.rand(3)
    with recording.OperationCheck([x]) as check:
        operation(x)
    assert check.reads


def test_memory_that_may_be_freed_is_seen(network):
    """As a tensor that the caller makes for this call: a replay would read what lies there later."""
    x, other = torch.rand(2, 3, 12, 12, device=DEVICE), torch.rand(4, device=DEVICE)
    with recording.OperationCheck([*recording.tensors_of(network), x]) as check:
        scores = network(x)
        made = torch.zeros_like(scores) + torch.arange(4, device=DEVICE)
        (scores * 2 + made)[:, 1:].sum()
    assert not check.strange
    with recording.OperationCheck([*recording.tensors_of(network), x]) as check:
        network(x) * other
    assert check.strange == {"mul": 1}


class Small(Network):
    """Has memory for two images at once."""

    def forward(self, x):
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


def test_where_memory_runs_out_fewer_images_pass_at_once_and_recordings_are_dropped(monkeypatch, recorder):
    torch.manual_seed(0)
    network = Small().eval().to(DEVICE)
    for _ in range(3):
        lrp(network, images(2), 1)
    assert recorder.n_recorded == 1
    x = images(5)
    with pytest.warns(LookalikeWarning, match="not enough memory for the maps of 5 images at once; going on with 2"):
        found = lrp(network, x, 1)
    [entries] = propagation.RECORDINGS._entries.values()
    assert all(entry.replay is None for entry in entries.values())
    assert_same(found, plain(monkeypatch, lambda: lrp(network, x, 1, batch_size=2)))


def test_memory_for_no_image_at_all_is_an_error(monkeypatch, recorder):
    class Full(Network):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        lrp(Full().eval().to(DEVICE), images(1), 1)
