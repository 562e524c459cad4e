"""Samples that threads and worker processes read: the same, in the same order, whatever happens to one of them."""

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike._core.errors import LookalikeError
from lookalike.data import Batches, ImageFiles, Preprocessing, batches, parallel
from lookalike.data.fitted import stack_bytes
from lookalike.data.parallel import in_processes, in_threads, n_processes_for

needs_fork = pytest.mark.skipif(n_processes_for(10**9, None) == 0 and os.name == "nt", reason="no process can fork")
CHUNKS = [np.arange(0, 40), np.arange(40, 80), np.arange(80, 99)]


def image_of(number):
    return torch.full((3, 4, 5), number, dtype=torch.uint8)


def read(number):
    """Reads images of two shapes, and fails for some."""
    if number % 17 == 3:
        return number, None, LookalikeError(f"no image {number}")
    image = torch.full((1, 2, 2), number, dtype=torch.uint8) if number % 7 == 5 else image_of(number)
    return number, (image, number % 3), None


def described(items):
    return [
        (index, None if sample is None else (sample[0].tolist(), sample[1]), None if error is None else str(error))
        for index, sample, error in items
    ]


@needs_fork
@pytest.mark.parametrize("n_processes", [1, 3])
def test_processes_return_what_one_thread_does(n_processes):
    expected = [described(items) for items in in_threads(read, CHUNKS, 1)]
    assert [described(items) for items in in_processes(read, CHUNKS, n_processes)] == expected
    assert [described(items) for items in in_threads(read, CHUNKS, 4)] == expected


@needs_fork
def test_memory_is_used_again_without_mixing_images(monkeypatch):
    monkeypatch.setattr(parallel, "_IN_PART", 2)
    chunks = [np.arange(start, start + 6) for start in range(0, 240, 6)]  # 120 parts in 8 slots
    copies = [stack_bytes([sample for _, sample, _ in items])[0] for items in in_processes(ok, chunks, 2)]
    assert torch.equal(torch.cat(copies)[:, 0, 0, 0], torch.arange(240, dtype=torch.uint8))


@needs_fork
def test_large_images_take_no_more_memory_than_their_batches(monkeypatch):
    """Sixteen photographs as they are, in each of 45 places, would be gigabytes."""
    sizes, places = [], parallel._Slots.__init__

    def spy(slots, like, n_slots, in_part):
        sizes.append(n_slots * in_part * like.nbytes)
        places(slots, like, n_slots, in_part)

    monkeypatch.setattr(parallel._Slots, "__init__", spy)
    monkeypatch.setattr(parallel, "_MOST_BYTES_IN_PART", image_of(0).nbytes + 1)
    chunks = [np.arange(0, 20), np.arange(20, 33)]
    found = [described(items) for items in in_processes(ok, chunks, 2)]
    assert found == [described(items) for items in in_threads(ok, chunks, 1)]
    assert sizes == [(20 + 2 * 2 + 1) * image_of(0).nbytes]


def ok(number):
    return number, (image_of(number), 0), None


def test_a_part_in_the_wrong_memory_is_noticed():
    slots = parallel._Slots(image_of(0), 2, 16)
    items = [ok(number) for number in range(3)]
    left = slots.put(5, items)
    assert left[0] == (0, (None, 0), None)
    assert [int(sample[0][0, 0, 0]) for _, sample, _ in slots.taken(5, left)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="part 5 was read into the memory of part 3"):
        slots.taken(3, left)


@needs_fork
def test_if_the_first_image_cannot_be_read_the_others_are():
    chunks = [np.arange(3, 60)]
    assert [described(items) for items in in_processes(read, chunks, 2)] == [
        described(items) for items in in_threads(read, chunks, 1)
    ]


@needs_fork
def test_a_process_that_is_killed_is_told_in_one_line():
    def read_or_die(number):
        if number == 50 and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return ok(number)

    with pytest.raises(LookalikeError, match=r"a process that read images has ended.*--workers 1"):
        list(in_processes(read_or_die, CHUNKS, 2))


@needs_fork
def test_no_process_is_left_when_the_reader_stops_early():
    others = set(multiprocessing.active_children())  # of loaders of earlier tests that nothing has collected yet
    reader = in_processes(ok, CHUNKS, 2)
    next(reader)
    own = set(multiprocessing.active_children()) - others
    assert own
    reader.close()
    for process in own:  # told to end, but a busy machine may not have let it yet
        process.join(30)
        assert not process.is_alive()


def test_processes_are_started_where_they_are_worth_it(monkeypatch):
    monkeypatch.setattr(parallel, "n_cores", lambda: 16)
    monkeypatch.setattr(parallel.sys, "platform", "linux")
    assert n_processes_for(100_000, None) == 14  # two cores are left for the GPU's process
    assert n_processes_for(100_000, 6) == 6
    assert n_processes_for(100_000, 64) == 16  # more than cores gain nothing
    assert 4 <= n_processes_for(1_024, None) < 14  # each takes a moment to start
    assert n_processes_for(1_000, None) == 0
    assert n_processes_for(100_000, 1) == 0
    monkeypatch.setattr(parallel, "n_cores", lambda: 4)
    assert n_processes_for(100_000, None) == 0
    monkeypatch.setattr(parallel, "n_cores", lambda: 16)
    monkeypatch.setattr(parallel.sys, "platform", "darwin")
    assert n_processes_for(100_000, None) == 0


@pytest.fixture
def folder(tmp_path):
    """Ten photographs, of which the seventh is cut off; enough for processes, if they start for ten."""
    generator = np.random.default_rng(0)
    files = [tmp_path / f"{number}.jpg" for number in range(10)]
    for file in files:
        Image.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(file)
    files[6].write_bytes(files[6].read_bytes()[:300])
    return ImageFiles(tmp_path, files, np.arange(10) % 2, ["even", "odd"], Preprocessing.square(32))


@needs_fork
def test_batches_for_a_gpu_are_those_for_a_cpu(folder, monkeypatch):
    started = []
    monkeypatch.setattr(parallel, "_FEWEST_FILES", 1)
    monkeypatch.setattr(parallel, "_FEWEST_PROCESSES", 2)
    monkeypatch.setattr(parallel, "n_cores", lambda: 2)
    monkeypatch.setattr(batches, "in_processes", lambda *args: started.append(args[-1]) or in_processes(*args))
    monkeypatch.setattr(batches, "stack_bytes", lambda items, pinned: stack_bytes(items))  # without a GPU
    for_gpu, for_cpu = (Batches(folder, 4, 2, on_error="skip") for _ in range(2))
    for found, expected in zip(for_gpu.unfinished_from(2, for_gpu=True), for_cpu.unfinished_from(2), strict=True):
        assert torch.equal(found.inputs, expected.inputs)
        assert found.indices.tolist() == expected.indices.tolist()
        assert found.labels.tolist() == expected.labels.tolist()
        assert found.read == expected.read
    assert for_gpu.skipped == for_cpu.skipped
    assert list(for_gpu.skipped) == [6]
    assert started == [2]
    with pytest.raises(LookalikeError, match=r"6\.jpg"):
        list(Batches(folder, 4, 2).unfinished_from(0, for_gpu=True))


def test_files_are_not_read_to_find_out_whether_they_are_augmented(folder, monkeypatch):
    monkeypatch.setattr(ImageFiles, "__getitem__", lambda *_: pytest.fail("it was read"))
    assert not Batches(folder).is_random()
    assert Batches(folder).may_be_read_in_threads


@pytest.mark.parametrize("crop", [None, (20, 20)])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_keeps_its_pixels_when_the_next_one_is_read(folder, crop, channels):
    """Pictures are decoded into the same memory, one after the other."""
    files = folder.files[:2]
    for file in files if channels == 1 else []:
        Image.open(file).convert("L").save(file)
    preprocessing = Preprocessing(None, crop, mean=(0.5,) * channels, std=(0.5,) * channels)
    first = preprocessing.fit_file(files[0])
    kept = first.clone()
    second = preprocessing.fit_file(files[1])
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)
