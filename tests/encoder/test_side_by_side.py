"""Parts of a batch pass through a network in threads, and the results are those of one after the other."""

import os
import queue
import random
import signal
import threading
import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lookalike import convert, embed, evaluate
from lookalike._core.acceleration import Accelerated
from lookalike._core.folding import Folded, find_pairs
from lookalike.embedding.rows import MemoryAwareEmbedder
from lookalike.encoder import Encoder
from lookalike.encoder.side_by_side import SideBySide
from tests.interruptions import interrupt

PARTS = torch.arange(12.0).reshape(12, 1, 1, 1, 1).expand(12, 2, 3, 4, 4).contiguous()  # 12 parts of 2 images


class Net(nn.Module):
    """A network that keeps what it is computing in itself for a while, and says in which threads it ran."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.threads = []
        self.last = None

    def forward(self, x):
        self.last = x
        time.sleep(0.01)
        THREADS.add(threading.get_ident())
        return self.head(self.last.mean((2, 3)))


THREADS = set()


@pytest.fixture(autouse=True)
def _two_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    THREADS.clear()
    yield
    torch.set_num_threads(before)


def encoder_of(net):
    return Encoder(net.eval(), torch.zeros(2, 3, 4, 4))


def run(encoder, compute=lambda net, rows: net(rows), parts=PARTS):
    THREADS.clear()
    with torch.no_grad():
        return SideBySide(encoder).run(compute, list(parts))


def in_threads():
    return bool(THREADS - {threading.get_ident()})


def means(results):
    return [result[0, 0].item() for result in results]


def test_parts_are_computed_in_threads_in_their_order_and_no_thread_meets_another_ones_state():
    net = Net()
    results = run(encoder_of(net))
    assert len(THREADS) == 2
    assert in_threads()
    assert means(results) == list(range(12))
    assert net.last.unique().tolist() == [0, 1]  # the zeros that the encoder was made with, beside another image


@pytest.mark.parametrize("case", ["hook", "gradients", "mode", "one core", "no encoder"])
def test_what_a_thread_could_not_have_is_computed_in_the_callers(case):
    net, seen = Net(), []
    encoder = encoder_of(net)
    if case == "hook":
        net.head.register_forward_hook(lambda *_: seen.append(threading.get_ident()))
        run(encoder, lambda net, rows: net.scores(rows))
        assert seen == [threading.get_ident()] * 12
    elif case == "gradients":
        THREADS.clear()
        SideBySide(encoder).run(lambda net, rows: net(rows), list(PARTS))
    elif case == "mode":
        with torch.device("cpu"):
            run(encoder)
    elif case == "one core":
        torch.set_num_threads(1)
        run(encoder)
    else:
        run(net)
    assert THREADS
    assert not in_threads()


def test_a_network_that_counts_in_a_buffer_sees_the_parts_one_after_the_other():
    class Counting(Net):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count += 1
            return super().forward(x)

    net = Counting()
    encoder = encoder_of(net)
    side_by_side, start = SideBySide(encoder), net.count.item()
    with torch.no_grad():
        results = side_by_side.run(lambda net, rows: net(rows), list(PARTS))
        assert means(results) == list(range(12))
        assert net.count == start + 24
        THREADS.clear()
        side_by_side.run(lambda net, rows: net(rows), list(PARTS))
    assert net.count == start + 36
    assert not in_threads()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
def test_compiled_modules_are_computed_in_the_callers_thread():
    class Scripted(Net):
        def __init__(self):
            super().__init__()
            self.inner = torch.jit.script(nn.Linear(3, 3))

    encoder = encoder_of(Scripted())
    assert means(run(encoder)) == list(range(12))
    assert not in_threads()


def test_new_weights_and_modules_reach_the_threads():
    net = Net()
    encoder = encoder_of(net)
    side_by_side = SideBySide(encoder)

    def scores():
        THREADS.clear()
        with torch.no_grad():
            results = side_by_side.run(lambda net, rows: net.scores(rows), list(PARTS))
        assert in_threads()
        return torch.cat(results)

    with torch.no_grad():
        for change in (lambda: None, lambda: net.head.weight.mul_(2), lambda: setattr(net, "head", nn.Linear(3, 2))):
            change()
            assert torch.allclose(scores(), net(PARTS.flatten(0, 1)))


def test_settings_of_the_calling_thread_hold_in_the_others():
    class Convolving(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 2)

        def forward(self, x):
            SETTINGS.append((torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()))
            return self.head(F.relu(self.norm(self.conv(x))).mean((2, 3)))

    SETTINGS = []
    torch.manual_seed(0)
    net = Convolving()
    net.norm.running_var.uniform_(0.5, 2)
    encoder, images = encoder_of(net), torch.randn(12, 2, 3, 4, 4)
    with torch.no_grad():
        pairs, _ = find_pairs(lambda: encoder(images[0]))
        folded = Folded(pairs)
        expected = torch.cat([encoder(part) for part in images])
    SETTINGS.clear()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), Accelerated():
        run(encoder, parts=images)
    assert set(SETTINGS) == {(True, True)}
    with Accelerated():
        results = run(encoder, lambda net, rows: folded.run(lambda: net(rows)), images)
    assert len(pairs) == 1
    assert torch.allclose(torch.cat(results), expected, atol=1e-6)
    assert list(folded._folded) == [id(net.conv.weight)]  # folded once, for all threads


def test_a_network_that_cannot_be_folded_for_some_images_is_computed_plainly():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2)

        def forward(self, x):
            z = self.conv(x)
            return self.head((self.norm(z) + (z if x.mean() > 5 else 0)).mean((2, 3)))

    torch.manual_seed(0)
    encoder = encoder_of(Branching())
    with torch.no_grad():
        folded = Folded(find_pairs(lambda: encoder(PARTS[0]))[0])
        expected = [encoder(part) for part in PARTS]
    results = run(encoder, lambda net, rows: folded.run(lambda: net(rows)))
    torch.testing.assert_close(results, expected)


def test_a_network_that_needs_its_own_layout_gets_it_in_each_thread():
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 3, 1), nn.Linear(48, 2)

        def forward(self, x):
            return self.head(torch.ops.aten.view(self.conv(x), [len(x), -1]))

    torch.manual_seed(0)
    encoder, images = encoder_of(Viewing()), torch.randn(12, 2, 3, 4, 4)
    with torch.no_grad():
        expected = [encoder(part) for part in images]
    with Accelerated():
        results = run(encoder, parts=images)
    torch.testing.assert_close(results, expected)


def test_an_error_ends_the_pass_and_the_numbers_of_threads_stay():
    def compute(net, rows):
        if rows.max() == 3:
            raise ValueError("of the user")
        done.append(net(rows))
        return done[-1]

    done = []
    with pytest.raises(ValueError, match="of the user"):
        run(encoder_of(Net()), compute)
    assert len(done) < 11  # the parts that waited are not computed any more
    n_done = len(done)
    time.sleep(0.05)
    assert len(done) == n_done
    assert torch.get_num_threads() == 2
    numbers = []
    thread = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert numbers == [2]


@pytest.mark.parametrize("error", [queue.Empty(), KeyError("a"), SystemExit(3)])
def test_any_error_of_the_network_arrives(error):
    def compute(net, rows):
        raise error

    with pytest.raises(type(error)):
        run(encoder_of(Net()), compute)


@pytest.fixture
def ctrl_c():
    """Interrupts the main thread as Ctrl-C does."""

    def interrupt(*_):
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, interrupt)
    yield lambda: os.kill(os.getpid(), signal.SIGALRM)
    signal.signal(signal.SIGALRM, handler)


def test_after_an_interruption_nothing_computes_on(ctrl_c):
    def compute(net, rows):
        started.append(rows)
        if len(started) == 3:
            ctrl_c()
        try:
            time.sleep(0.05)
            return net(rows)
        finally:
            ended.append(rows)

    started, ended = [], []
    with pytest.raises(KeyboardInterrupt):
        run(encoder_of(Net()), compute)
    assert 3 <= len(started) == len(ended) < 12


def test_a_long_pass_ends_at_its_next_operation(ctrl_c):
    def compute(net, rows):
        for _ in range(100):
            time.sleep(0.01)
            rows = rows + 1
            operations.append(1)
            if len(operations) == 5:
                ctrl_c()
        return net(rows)

    operations = []
    with pytest.raises(KeyboardInterrupt):
        run(encoder_of(Net()), compute)
    assert 5 <= len(operations) < 90  # two parts have 200


def test_memory_that_runs_out_in_a_thread_halves_the_rows():
    class Hungry(Net):
        def forward(self, x):
            if len(x) > 2:
                raise RuntimeError("can't allocate memory")
            return super().forward(x)

    encoder, images = encoder_of(Hungry()), torch.randn(40, 3, 4, 4)
    embedder = MemoryAwareEmbedder(encoder)
    embedder.max_rows = 8
    with torch.no_grad(), pytest.warns(UserWarning, match="not enough memory"):
        z, _ = embedder.embed(images)
    assert embedder.max_rows == 2
    assert in_threads()
    torch.testing.assert_close(z, images.mean((2, 3)))


def test_embedding_predicting_and_evaluating_use_all_cores():
    torch.manual_seed(0)
    net = Net()
    x, y = torch.randn(48, 3, 300, 300) * 0.1 + torch.arange(48).reshape(-1, 1, 1, 1) % 2, [0, 1] * 24
    threads = {}
    sem = convert(net, (x, y), n_prototypes=1, n_images=0, progress=False)
    for name, call in {
        "embed": lambda: embed(net, (x, y), progress=False).embeddings,
        "predict": lambda: sem.predict_proba(x),
        "evaluate": lambda: (
            evaluate(
                sem, (x, y), black_box=net, only=["robustness"], n_images=4, n_steps=3, n_draws=2, progress=False
            ).runs
        ),
    }.items():
        THREADS.clear()
        answer = call()
        threads[name] = in_threads()
        torch.set_num_threads(1)
        torch.testing.assert_close(call(), answer)
        torch.set_num_threads(2)
    assert all(threads.values()), threads


def test_patches_of_several_layers_are_those_of_one_thread():
    class Layered(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3, 8, 1), nn.Conv2d(4, 6, 3, 2, 1)
            self.head = nn.Linear(6, 2)

        def forward(self, x):
            THREADS.add(threading.get_ident())
            return self.head(F.relu(self.second(F.relu(self.first(x)))).mean((2, 3)))

    torch.manual_seed(0)
    x, y = torch.randn(24, 3, 224, 224), [0, 1] * 12
    options = {"level": "patch", "layers": ("first", "second"), "n_prototypes": 2, "n_images": 0, "progress": False}
    sem = convert(Layered().eval(), (x, y), **options)
    THREADS.clear()
    z = sem.embed(x)
    assert in_threads()
    torch.set_num_threads(1)
    torch.testing.assert_close(z, sem.embed(x))


@pytest.mark.parametrize("twice", [False, True])
def test_an_interruption_anywhere_leaves_no_thread_and_no_setting(twice):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(nn.Linear(4, 2))
    sem = convert(net, (torch.randn(24, 3, 224, 224), [0, 1] * 12), n_prototypes=1, n_images=0, progress=False)
    images, chance = torch.randn(24, 3, 224, 224), random.Random(0)
    tried, done, changed = interrupt(
        lambda: sem.predict(images), net, 8, instructions=False, chance=chance, twice=twice
    )
    assert (done, changed) == (8, []), tried
