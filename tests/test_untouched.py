"""The model is never touched: one test for each public function that is given one."""

import faulthandler
import gc
import weakref
from contextlib import suppress

import numpy as np
import pytest
import scipy.sparse
import scipy.special
import sklearn
import torch
import torch._dynamo
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from lookalike import LookalikeError, PrototypeClassifier, convert, embed, evaluate, explain, load
from lookalike._core.untouched import undoing
from lookalike.encoder import Encoder
from lookalike.metrics import compare, sanity_check
from lookalike.relevance import lrp, prp
from lookalike.report import write_report
from lookalike.testing import check_prototype_model
from tests.interruptions import Interruption, Tracer, interrupt
from tests.watch import differing, process_state

# These set environment variables and warning filters when they are first imported, which evaluations do.
IMPORTED = scipy.sparse, scipy.special, sklearn, torch._dynamo


def actions(net, blobs, folder):
    x, y = blobs
    sem = convert(net, blobs, n_prototypes=2)
    sem.save(folder)
    explained = explain(sem, x[:1])[0]
    broken = torch.full((2, 7), 1.0)
    return {
        "Encoder": lambda bad: Encoder(net, broken if bad else x[:2]),
        "embed": lambda bad: embed(net, (broken, y[:2]) if bad else blobs),
        "KMEx.fit": lambda bad: convert(net, (broken, y[:2]) if bad else blobs),
        "call": lambda bad: sem(broken if bad else x),
        "predict": lambda bad: sem.predict(broken if bad else x),
        "predict_proba": lambda bad: sem.predict_proba(broken if bad else x),
        "embed method": lambda bad: sem.embed(broken if bad else x),
        "similarities": lambda bad: sem.similarities(broken if bad else x),
        "explain": lambda bad: explain(sem, broken if bad else x),
        "compare": lambda bad: compare(sem, (broken, y[:2]) if bad else blobs),
        "save": lambda bad: sem.save(folder, overwrite=not bad),
        "load": lambda bad: load(folder / "nowhere" if bad else folder, model=net),
        "PrototypeClassifier": lambda bad: PrototypeClassifier().fit(
            sem.embed(broken if bad else x).numpy(), y.numpy()
        ),
        "evaluate": lambda bad: evaluate(
            sem, (broken, y[:2]) if bad else blobs, train=blobs, n_images=3, n_steps=2, n_draws=1, progress=False
        ),
        "write_report": lambda bad: write_report(
            sem,
            (broken, y[:2]) if bad else blobs,
            folder.with_suffix(".html"),
            train=blobs,
            overwrite=True,
            n_images=3,
            n_steps=2,
            n_draws=1,
            n_browse=5,
            progress=False,
        ),
        "sanity_check": lambda bad: sanity_check(sem, broken if bad else x[:3]),
        "lrp": lambda bad: lrp(net, broken if bad else x[:3]),
        "lrp of a prototype model": lambda bad: lrp(sem, broken if bad else x[:3], of="probability"),
        "prp": lambda bad: prp(sem, broken if bad else x[:3]),
        "check_prototype_model": lambda bad: check_prototype_model(sem, broken if bad else x[:3]),
        "plot_gallery": lambda bad: sem.plot_gallery("no axes" if bad else None),
        "Explanation.plot": lambda bad: explained.plot("no axes" if bad else None),
    }


NAMES = [
    "Encoder", "embed", "KMEx.fit", "call", "predict", "predict_proba", "embed method", "similarities", "explain",
    "compare", "save", "load", "PrototypeClassifier", "evaluate", "write_report", "sanity_check", "lrp",
    "lrp of a prototype model", "prp", "check_prototype_model", "plot_gallery", "Explanation.plot",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_model_or_the_process_changes_exceptions_included(net, blobs, tmp_path, untouched, name):
    action = actions(net, blobs, tmp_path / "saved")[name]
    before = process_state()
    with untouched(net):
        action(False)
    assert differing(before, process_state()) == []
    with untouched(net), pytest.raises(LookalikeError):
        action(True)
    assert differing(before, process_state()) == []


@pytest.mark.parametrize("name", ["embed", "compare", "predict", "explain", "lrp", "prp", "call", "Encoder"])
@pytest.mark.parametrize("instructions", [False, True])
def test_an_interruption_at_any_moment_changes_nothing(net, blobs, tmp_path, name, instructions):
    blobs = blobs[0][:12], blobs[1][:12]
    action = actions(net, blobs, tmp_path / "saved")[name]
    moments, interrupted, changed = interrupt(lambda: action(False), net, 4, instructions=instructions)
    assert changed == []
    assert moments > 100
    assert interrupted >= 3


def test_an_interrupted_restoration_is_finished():
    """Where a with statement or a try alone would not: the exception arrives while things are put back."""
    values, restored = {"mode": "train"}, []

    def restore():
        restored.append(1)
        if len(restored) == 1:
            raise KeyboardInterrupt
        values["mode"] = "train"

    with pytest.raises(KeyboardInterrupt):
        undoing(restore, lambda: values.update(mode="eval"))
    assert values == {"mode": "train"}


def test_workers_draw_no_number_from_the_global_generators(net, blobs):
    data = TensorDataset(*blobs)
    before = process_state()
    embed(net, DataLoader(data, batch_size=30), num_workers=1)
    embed(net, DataLoader(data, sampler=SubsetRandomSampler(range(20))))
    assert differing(before, process_state()) == []


def test_a_users_own_generator_is_left_alone(net, blobs):
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    embed(net, DataLoader(TensorDataset(*blobs), sampler=SubsetRandomSampler(range(20), generator=generator)))
    assert torch.equal(generator.get_state(), before)


def test_every_action_is_tested(net, blobs, tmp_path):
    assert set(actions(net, blobs, tmp_path / "saved")) == set(NAMES)


def test_random_numbers_are_left_alone(net, blobs):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the global state is what is watched
    expected = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    convert(net, blobs).predict(blobs[0])
    assert torch.rand(1) == expected[0]
    assert np.random.rand() == expected[1]  # noqa: NPY002


class AtModes(Tracer):
    """Counts the moments at which torch takes a function mode off its stack, or puts it back."""

    def __init__(self, at):
        super().__init__(at, instructions=False)

    def _count(self, frame):
        caller = frame.f_back
        if frame.f_globals.get("__name__") == "contextlib" and caller.f_globals.get("__name__") == "torch.overrides":
            super()._count(frame)


def test_an_interruption_while_torch_moves_a_mode_leaves_none(net, blobs):
    sem = convert(net, blobs, n_prototypes=1, progress=False)
    compare(sem, blobs)
    with AtModes(None) as counter:
        compare(sem, blobs)
    assert counter.events > 4, counter.events
    gc.collect()
    gc.freeze()  # what other tests have left need not be looked through each time
    try:
        for at in range(1, counter.events + 1, max(1, counter.events // 24)):
            before = process_state()
            with pytest.raises(Interruption) as held, AtModes(at):
                compare(sem, blobs)
            del held
            gc.collect()
            assert differing(before, process_state()) == []
    finally:
        gc.unfreeze()


def test_two_interruptions_of_what_restores_do_not_keep_it_from_finishing():
    calls = []

    def restore():
        calls.append(None)
        if len(calls) < 3:
            raise Interruption
        calls.append("restored")

    with pytest.raises(Interruption):
        undoing(restore, lambda: None)
    assert calls[-1] == "restored"


class AtReader(Tracer):
    """Counts the moments of the main thread at which it deals with the thread that reads."""

    def __init__(self, at):
        super().__init__(at, instructions=True)

    def _count(self, frame):
        if frame.f_globals.get("__name__") == "threading" or "ReadAhead" in frame.f_code.co_qualname:
            super()._count(frame)


@pytest.mark.slow
def test_an_interruption_while_threads_meet_leaves_no_lock(net, blobs):
    embed(net, blobs, batch_size=8)
    with AtReader(None) as counter:
        embed(net, blobs, batch_size=8)
    assert counter.events > 100
    faulthandler.dump_traceback_later(120, exit=True)  # where a lock is left, this waits for ever
    try:
        for at in range(1, counter.events + 1, max(1, counter.events // 20)):
            before = process_state()
            with suppress(Interruption), AtReader(at):
                embed(net, blobs, batch_size=8)
            assert differing(before, process_state()) == []
    finally:
        faulthandler.cancel_dump_traceback_later()


def test_an_error_holds_nothing_when_it_is_dealt_with(net, blobs):
    """Memory that did not suffice, and open files, are free again before the collector runs."""
    x, y = blobs
    gc.collect()
    gc.disable()
    try:
        error = None
        try:
            embed(net, (torch.full_like(x, torch.nan), y))
        except LookalikeError as raised:
            error = weakref.ref(raised)
        assert error is not None
        assert error() is None
    finally:
        gc.enable()
