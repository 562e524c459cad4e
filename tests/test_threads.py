"""Several threads share one network and one model: each answer is the one that a single thread gets."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import numpy as np
import pytest
import torch

from lookalike import convert, embed, evaluate, explain
from lookalike._core import untouched
from lookalike._core.network_state import state_of
from lookalike._core.untouched import keeps_random_states, with_forward_hooks, with_forward_pre_hook
from lookalike.metrics.sanity import deep_copy
from lookalike.relevance import lrp, prp
from tests.watch import differing, process_state

THREADS = 8


@pytest.fixture(autouse=True)
def _frequent_switches():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def calls_of(net, blobs):
    x, y = blobs[0][:24], blobs[1][:24]
    sem = convert(net, (x, y), n_prototypes=2, progress=False)
    sem.train()
    return {
        "explain": lambda: [near.heat_map for one in explain(sem, x[:2], relevance=True) for near in one.likenesses],
        "predict": lambda: sem.predict_proba(x[:4]),
        "embed": lambda: embed(net, (x, y), batch_size=8, progress=False).embeddings,
        "lrp": lambda: lrp(net, x[:2]).maps,
        "prp": lambda: prp(sem, x[:2]).maps,
        "evaluate": lambda: list(
            evaluate(sem, (x, y), train=(x, y), n_images=2, n_steps=2, n_draws=1, progress=False).runs.values()
        ),
    }


def test_every_answer_is_that_of_a_single_thread_and_nothing_is_changed(net, blobs, untouched):
    """The network is in train mode: a batch norm in the wrong mode gives other answers, and changes its statistics."""
    calls = calls_of(net, blobs)
    net.train()
    names = list(calls)
    expected = {name: call() for name, call in calls.items()}
    before, start = process_state(), Barrier(THREADS)

    def work(number):
        start.wait()
        wrong = []
        for turn in range(3):
            name = names[(number * 5 + turn) % len(names)]
            answer = calls[name]()
            if not all(np.array_equal(*pair) for pair in zip(answer, expected[name], strict=True)):
                wrong.append(name)
        return wrong

    with untouched(net), ThreadPoolExecutor(THREADS) as pool:
        assert [wrong for wrong in pool.map(work, range(THREADS)) if wrong] == []
    assert differing(before, process_state()) == []


def test_a_hook_runs_in_the_passes_of_its_own_thread_alone(net, blobs):
    seen = []
    with ThreadPoolExecutor(1) as pool:
        with_forward_hooks({net[6]: lambda *_: seen.append(1)}, lambda: pool.submit(net, blobs[0]).result())
        assert seen == []
    with_forward_hooks({net[6]: lambda *_: seen.append(1)}, lambda: net(blobs[0]))
    assert seen == [1]


def test_another_threads_hooks_come_and_go_while_a_network_is_looked_at(net):
    """What the hooks are set in, and the walk through it, take place at the same time."""
    looked_at = Event()

    def set_hooks():
        hooks = {module: lambda *_: None for module in net}
        while not looked_at.is_set():
            with_forward_hooks(hooks, lambda: None)
            with_forward_pre_hook(net[0], lambda *_: None, lambda: None)

    with ThreadPoolExecutor(2) as pool:
        threads = [pool.submit(set_hooks) for _ in range(2)]
        try:
            copied = [deep_copy(net) for _ in range(20)]
            states = {state_of(net) for _ in range(300)}
        finally:
            looked_at.set()
        for thread in threads:
            thread.result()
    assert states == {state_of(net)}
    assert not any(module._forward_hooks or module._forward_pre_hooks for one in copied for module in one.modules())


def test_a_copy_has_the_networks_own_hooks_and_no_others(net, blobs):
    seen = []
    net[0].register_forward_hook(lambda *_: seen.append("own"))
    copied = with_forward_hooks({net[0]: lambda *_: seen.append("ours")}, lambda: deep_copy(net))
    copied(blobs[0])
    assert seen == ["own"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_wait_for_a_lock_of_its_parents_other_thread(net):
    held, go_on = Event(), Event()

    def hold():
        with untouched._LOCK:
            held.set()
            go_on.wait()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold)
        held.wait()
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)  # ends a child that waits
            with_forward_hooks({net[0]: lambda *_: None}, lambda: None)
            os._exit(0)
        go_on.set()
    assert os.waitpid(pid, 0)[1] == 0


def test_random_states_survive_calls_that_overlap():
    """The second call begins when the first one has moved the states, and ends after it."""
    moved, begun, ended = Event(), Event(), Event()

    @keeps_random_states
    def first():
        torch.manual_seed(1)
        moved.set()
        begun.wait()

    @keeps_random_states
    def second():
        begun.set()
        ended.wait()

    torch.manual_seed(7)
    expected = torch.get_rng_state()
    with ThreadPoolExecutor(2) as pool:
        calls = pool.submit(lambda: (first(), ended.set())), pool.submit(lambda: (moved.wait(), second()))
        for call in calls:
            call.result()
    assert torch.equal(torch.get_rng_state(), expected)
