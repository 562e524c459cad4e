import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from lookalike._core.errors import LookalikeError, LookalikeWarning
from lookalike.data import Preprocessing, load_data
from lookalike.embedding import EmbeddingStore, embed
from lookalike.embedding.checking import check_store
from lookalike.embedding.key import embedding_key, identify_weights, key_differences
from lookalike.embedding.neighbours import in_groups, look_around
from lookalike.encoder import Encoder


def test_rows_are_the_encoders_in_the_datas_order_whatever_the_batches(net, blobs, untouched):
    x, y = blobs
    encoder = Encoder(net, x[:2])
    with torch.no_grad():
        expected = encoder(x).numpy()
    with untouched(net):
        for batch_size in (1, 7, 90, 1000):
            store = embed(net, blobs, batch_size=batch_size)
            np.testing.assert_allclose(store.embeddings, expected, atol=1e-5)
            assert store.labels.tolist() == y.tolist()
            assert store.indices.tolist() == list(range(90))
            with torch.no_grad():
                assert store.predictions.tolist() == encoder.scores(x).argmax(1).tolist()


def test_no_more_rows_than_the_batch_size_pass_at_once(net, blobs):
    rows = []
    handle = net[0].register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    embed(net, blobs, batch_size=16)
    handle.remove()
    assert max(rows) == 16


def test_a_folder_holds_the_same_and_is_memory_mapped(net, blobs, tmp_path):
    memory = embed(net, blobs, batch_size=32)
    disk = embed(net, blobs, batch_size=32, folder=tmp_path / "z")
    again = EmbeddingStore.open(tmp_path / "z")
    for store in (disk, again):
        assert isinstance(store.embeddings, np.memmap)
        for name in ("embeddings", "labels", "indices", "predictions"):
            np.testing.assert_array_equal(getattr(store, name), getattr(memory, name))
        assert store.info == memory.info
    np.testing.assert_array_equal(np.load(tmp_path / "z" / "embeddings.npy"), memory.embeddings)
    with pytest.raises(LookalikeError, match="exists already"):
        embed(net, blobs, folder=tmp_path / "z")
    embed(net, blobs, folder=tmp_path / "z", overwrite=True)


def test_fingerprints_tell_weights_data_and_transform_apart(net, blobs, image_folder, network_file):
    x, y = blobs
    first = embed(net, blobs).info
    assert embed(net, blobs).info == first
    assert embed(net, (x + 1, y)).info["data"] != first["data"]
    with torch.no_grad():
        net[6].weight.add_(1)
    assert embed(net, blobs).info["weights"] != first["weights"]
    from lookalike.encoder import load_classifier

    model = load_classifier(f"{network_file}:make").model
    small, large = (embed(model, load_data(image_folder, Preprocessing.square(n))).info for n in (8, 9))
    assert small["transform"] != large["transform"]
    assert small["data"] == large["data"]


class Stops(TensorDataset):
    """Samples of which one raises something until it is mended; it tells the same data either way."""

    error: BaseException | None = None
    read: list[int]

    def __getitem__(self, index):
        self.read.append(index)
        if index == 40 and self.error is not None:
            raise self.error
        return super().__getitem__(index)

    def fingerprint(self):
        return "the same"


def stops(blobs, error):
    dataset = Stops(*blobs)
    dataset.error, dataset.read = error, []
    return dataset


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("no such disk"), RuntimeError("a worker died")])
def test_what_was_done_before_an_interruption_is_not_done_again(net, blobs, tmp_path, untouched, error):
    whole = embed(net, stops(blobs, None), batch_size=8, folder=tmp_path / "whole")
    with untouched(net), pytest.raises((type(error), LookalikeError)):
        embed(net, stops(blobs, error), batch_size=8, folder=tmp_path / "z")
    assert [path.name for path in tmp_path.iterdir() if path.name != "whole"] == ["z.part"]
    with pytest.raises(LookalikeError, match="holds no complete embeddings"):
        EmbeddingStore.open(tmp_path / "z")
    mended = stops(blobs, None)
    with pytest.raises(LookalikeError, match=r"holds unfinished embeddings: continue with them \(resume=True\)"):
        embed(net, mended, batch_size=8, folder=tmp_path / "z")
    mended.read.clear()
    store = embed(net, mended, batch_size=8, folder=tmp_path / "z", resume=True)
    assert min(index for index in mended.read if index > 7) == 40  # the first batch shows where to cut
    assert contents(tmp_path / "z") == contents(tmp_path / "whole")
    assert store.info == whole.info
    assert not (tmp_path / "z.part").exists()
    mended.read.clear()
    again = embed(net, mended, batch_size=8, folder=tmp_path / "z", resume=True)
    assert max(mended.read) < 8
    np.testing.assert_array_equal(again.embeddings, whole.embeddings)


def test_a_journal_or_a_file_that_ends_anywhere_is_taken_up(net, blobs, tmp_path):
    embed(net, stops(blobs, None), batch_size=8, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        embed(net, stops(blobs, KeyboardInterrupt()), batch_size=8, folder=tmp_path / "z")
    rng = np.random.default_rng(0)
    for name in ("journal.jsonl", "embeddings.npy", "labels.npy"):
        whole = (tmp_path / "z.part" / name).read_bytes()
        for length in [0, *rng.integers(1, len(whole), 5)]:
            shutil.rmtree(tmp_path / "cut.part", ignore_errors=True)
            shutil.copytree(tmp_path / "z.part", tmp_path / "cut.part")
            (tmp_path / "cut.part" / name).write_bytes(whole[:length])
            embed(net, stops(blobs, None), batch_size=8, folder=tmp_path / "cut", resume=True)
            assert contents(tmp_path / "cut") == contents(tmp_path / "whole"), (name, length)
            shutil.rmtree(tmp_path / "cut")


def test_damage_before_an_interruption_is_noticed_and_mended(net, blobs, tmp_path):
    embed(net, stops(blobs, None), batch_size=8, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        embed(net, stops(blobs, KeyboardInterrupt()), batch_size=8, folder=tmp_path / "z")
    path = tmp_path / "z.part" / "embeddings.npy"
    content = bytearray(path.read_bytes())
    content[-24 * 4 * 10] ^= 1  # a bit, ten rows before the end
    path.write_bytes(content)
    data = stops(blobs, None)
    embed(net, data, batch_size=8, folder=tmp_path / "z", resume=True)
    assert min(index for index in data.read if index > 7) == 24  # the third last of five batches
    assert contents(tmp_path / "z") == contents(tmp_path / "whole")


def test_other_weights_data_or_transform_are_not_mixed(net, blobs, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        embed(net, stops(blobs, KeyboardInterrupt()), batch_size=8, folder=tmp_path / "z")
    whole = embed(net, stops(blobs, None), batch_size=8, folder=tmp_path / "whole")
    other = stops(blobs, None)
    other.fingerprint = lambda: "other"
    for folder, error in (("z", "holds unfinished embeddings made with other data:"), ("whole", "with other data:")):
        with pytest.raises(LookalikeError, match=error):
            embed(net, other, folder=tmp_path / folder, resume=True)
    with torch.no_grad():
        net[6].weight.add_(1)
    with pytest.raises(LookalikeError, match="made with other weights:"):
        embed(net, stops(blobs, None), folder=tmp_path / "z", resume=True)
    with torch.no_grad():
        net[6].weight.sub_(1)
    embed(net, stops(blobs, None), batch_size=8, folder=tmp_path / "z", overwrite=True)
    np.testing.assert_allclose(EmbeddingStore.open(tmp_path / "z").embeddings, whole.embeddings)
    (tmp_path / "other.part").mkdir()
    (tmp_path / "other.part" / "letter.txt").write_text("mine")
    with pytest.raises(LookalikeError, match="in the way"):
        embed(net, blobs, folder=tmp_path / "other", overwrite=True)


def in_a_process(run):
    """Runs something in a forked process."""
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def test_killed_at_any_moment_it_ends_with_the_same_bytes(net, blobs, tmp_path):
    class Slow(Stops):
        reads_left = None

        def __getitem__(self, index):
            time.sleep(0.006)  # a pass takes several times as long as the time until a kill
            if self.reads_left is not None:
                self.reads_left -= 1
                if not self.reads_left:
                    time.sleep(600)  # until the kill, however late that is
            return super().__getitem__(index)

    data = Slow(*blobs)
    data.read = []
    embed(net, data, batch_size=4, folder=tmp_path / "whole")
    rng, kills = np.random.default_rng(0), 0
    while not (tmp_path / "z").exists():
        data.reads_left = int(rng.integers(2, 30)) if kills < 5 else None
        process = in_a_process(lambda: embed(net, data, batch_size=4, folder=tmp_path / "z", resume=True))
        process.join(float(rng.uniform(0.03, 0.2)) * (1 + kills / 20))  # longer on a busy machine, so that it ends
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
        assert kills < 500
    assert kills >= 5
    assert contents(tmp_path / "z") == contents(tmp_path / "whole")


def test_a_full_disk_loses_nothing(net, blobs, tmp_path):
    def limited(connection):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))  # bytes a file: a disk that is soon full
        try:
            embed(net, stops(blobs, None), batch_size=8, folder=tmp_path / "z")
        except LookalikeError as error:
            connection.send(str(error))

    embed(net, stops(blobs, None), batch_size=8, folder=tmp_path / "whole")
    receiver, sender = multiprocessing.Pipe(duplex=False)
    in_a_process(lambda: limited(sender)).join()
    message = receiver.recv()
    assert "z.part" in message
    assert "40 rows are safe: make room" in message
    data = stops(blobs, None)
    embed(net, data, batch_size=8, folder=tmp_path / "z", resume=True)
    assert min(index for index in data.read if index > 7) == 40
    assert contents(tmp_path / "z") == contents(tmp_path / "whole")


def test_a_full_file_system_loses_nothing(net, blobs, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by an administrator alone")
    try:
        filler = small / "filler"
        filler.write_bytes(bytes(40_000))  # leaves room for some rows
        with pytest.raises(LookalikeError, match=r"[1-9]\d* rows are safe: make room"):
            embed(net, blobs, batch_size=8, folder=small / "z")
        filler.unlink()
        embed(net, blobs, batch_size=8, folder=small / "z", resume=True)
        embed(net, blobs, batch_size=8, folder=tmp_path / "whole")
        assert contents(small / "z") == contents(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.slow
def test_one_broken_image_in_ten_thousand(image_folder, network_file, tmp_path):
    from lookalike.encoder import load_classifier

    model = load_classifier(f"{network_file}:make").model
    for folder in (image_folder / "train").iterdir():
        first = next(folder.iterdir())
        for copy in range(3_333 - len(list(folder.iterdir()))):
            os.link(first, folder / f"copy-{copy:04d}.png")
    (image_folder / "train" / "cat" / "zz.png").write_text("no")
    data = load_data(image_folder, Preprocessing.square(8))
    assert len(data.train) == 10_000
    with pytest.raises(LookalikeError, match=r"cat/zz\.png"):
        embed(model, data, batch_size=256, folder=tmp_path / "z")
    assert (tmp_path / "z.part" / "labels.npy").stat().st_size > 9_700 * 8
    store = embed(model, data, batch_size=256, folder=tmp_path / "z", resume=True, on_error="skip")
    assert len(store) == 9_999
    assert "zz.png" in store.skipped[0]


def test_a_broken_image_in_the_middle_is_left_out_later(image_folder, network_file, tmp_path):
    (image_folder / "train" / "bee" / "03.png").write_text("no")
    from lookalike.encoder import load_classifier

    model = load_classifier(f"{network_file}:make").model
    data = load_data(image_folder, Preprocessing.square(8))
    with pytest.raises(LookalikeError, match=r"03\.png"):
        embed(model, data, batch_size=2, folder=tmp_path / "z")
    store = embed(model, data, batch_size=2, folder=tmp_path / "z", resume=True, on_error="skip")
    whole = embed(model, data, batch_size=2, folder=tmp_path / "whole", on_error="skip")
    assert store.skipped == whole.skipped
    assert "03.png" in store.skipped[0]
    assert contents(tmp_path / "z") == contents(tmp_path / "whole")


def test_a_stream_is_taken_up(net, blobs, tmp_path):
    class Stream(IterableDataset):
        stop_at = 50

        def __iter__(self):
            for index, (x, y) in enumerate(zip(*blobs, strict=True)):
                if index == self.stop_at:
                    raise KeyboardInterrupt
                yield x, int(y)

    data = Stream()
    with pytest.raises(KeyboardInterrupt):
        embed(net, data, batch_size=8, folder=tmp_path / "z")
    data.stop_at = None
    embed(net, data, batch_size=8, folder=tmp_path / "z", resume=True)
    embed(net, data, batch_size=8, folder=tmp_path / "whole")
    assert contents(tmp_path / "z") == contents(tmp_path / "whole")


def test_fewer_rows_at_once_where_memory_is_short(net, blobs):
    expected, rows = embed(net, blobs), []

    def narrow(_module, inputs):
        rows.append(len(inputs[0]))
        if rows[-1] > 12:
            raise torch.OutOfMemoryError("out of memory")

    encoder = Encoder(net, blobs[0][:2])
    handle = net[0].register_forward_pre_hook(narrow)
    with pytest.warns(LookalikeWarning, match="not enough memory for 40 rows at once; going on with 20"):
        store = embed(encoder, blobs, batch_size=40)
    handle.remove()
    np.testing.assert_allclose(store.embeddings, expected.embeddings, atol=1e-5)
    assert rows[-9:] == [10, 10, 10, 10, 10, 10, 10, 10, 10]

    def broken(_module, _inputs):
        raise RuntimeError("something else")

    net[0].register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="something else"):
        embed(encoder, blobs)


def test_half_precision_is_noted_with_its_effect(net, blobs, tmp_path):
    full, half = embed(net, blobs), embed(net, blobs, precision="bfloat16", dtype="float16", folder=tmp_path / "z")
    assert full.info["precision"] == "float32"
    assert "precision_effect" not in full.info
    assert half.info["precision"] == "bfloat16"
    assert half.info["precision_effect"]["rows"] == 1  # of a short pass
    assert 0 < half.info["precision_effect"]["deviation"] < 0.02
    assert half.info["precision_effect"]["same_predictions"] in (0, 1)
    assert half.embeddings.dtype == np.float16
    np.testing.assert_allclose(half.embeddings, full.embeddings, rtol=0.05, atol=0.05)
    with pytest.raises(LookalikeError, match="precision must be 'auto', 'fastest', 'float32'"):
        embed(net, blobs, precision="double")
    for _ in range(2):  # a pass that never began leaves nothing to go on with
        with pytest.raises(LookalikeError, match="float16 is for GPUs"):
            embed(net, blobs, precision="float16", folder=tmp_path / "never")
    with pytest.raises(LookalikeError, match="dtype must be"):
        embed(net, blobs, dtype="int8")


def test_embeddings_too_large_for_half_precision_are_named(net, blobs):
    x, y = blobs
    x = x.clone()
    x[7] *= 1e7
    with pytest.raises(LookalikeError, match="1 embeddings have NaN or infinite values: sample 7"):
        embed(net, (x, y), dtype="float16")


def test_a_store_by_class_holds_the_same_rows(net, blobs, tmp_path):
    store = embed(net, blobs, batch_size=32, folder=tmp_path / "z")
    grouped = store.grouped_by_class(tmp_path / "by-class")
    assert grouped.labels.tolist() == sorted(store.labels.tolist())
    for k in range(3):
        rows = grouped.rows_of_class(k)
        assert rows.tolist() == list(range(rows[0], rows[0] + 30))
        np.testing.assert_array_equal(grouped.of_class(k), store.of_class(k))
        np.testing.assert_array_equal(store.of_class(k), np.asarray(store.embeddings)[store.labels == k])
        assert grouped.indices[rows].tolist() == np.flatnonzero(store.labels == k).tolist()
    np.testing.assert_array_equal(grouped.predictions, store.predictions[grouped.indices])
    assert EmbeddingStore.open(tmp_path / "by-class").info["grouped_by_class"]


def test_damaged_folders_are_told(net, blobs, tmp_path):
    with pytest.raises(LookalikeError, match="holds no complete embeddings"):
        EmbeddingStore.open(tmp_path)
    embed(net, blobs, folder=tmp_path / "z")
    np.save(tmp_path / "z" / "labels.npy", np.zeros(3, dtype=np.int64))
    with pytest.raises(LookalikeError, match="are damaged"):
        EmbeddingStore.open(tmp_path / "z")
    meta = tmp_path / "z" / "embeddings.json"
    meta.write_text(json.dumps({"arrays": ["nothing"]}))
    with pytest.raises(LookalikeError, match="holds no complete embeddings"):
        EmbeddingStore.open(tmp_path / "z")


def test_samples_with_nan_embeddings_are_named(net, blobs, image_folder, network_file):
    x, y = blobs
    x[[3, 50]] = torch.nan
    with pytest.raises(LookalikeError, match="2 embeddings have NaN or infinite values: sample 3, sample 50"):
        embed(net, (x, y), batch_size=20)
    from lookalike.encoder import load_classifier

    model = load_classifier(f"{network_file}:make").model
    with torch.no_grad():
        model[0].bias.fill_(torch.inf)
    with pytest.raises(LookalikeError, match=r"ant/00\.png', |ant/00\.png, .* and 19 more"):
        embed(model, load_data(image_folder, Preprocessing.square(8)))


def test_skipped_images_are_listed_in_the_store(image_folder, network_file):
    (image_folder / "train" / "bee" / "03.png").write_text("no")
    from lookalike.encoder import load_classifier

    model = load_classifier(f"{network_file}:make").model
    store = embed(model, load_data(image_folder, Preprocessing.square(8)), on_error="skip")
    assert len(store) == 23
    assert 11 not in store.indices
    assert "03.png" in store.skipped[0]
    for path in (image_folder / "train").rglob("*.png"):
        path.write_text("no")
    with pytest.raises(LookalikeError, match="no samples to embed: none of 24 could be read"):
        embed(model, load_data(image_folder, Preprocessing.square(8)), on_error="skip")


def test_augmentation_is_warned_of(net):
    class Noisy(TensorDataset):
        def __getitem__(self, index):
            return torch.rand(1, 8, 8), 0

    with pytest.warns(LookalikeWarning, match="augmented at random"):
        embed(net, Noisy(torch.zeros(4)))


def test_no_samples_are_told(net):
    with pytest.raises(LookalikeError, match="no samples to embed"):
        embed(net, (torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64)))


def test_no_embeddings_are_named_as_unfinished_ones(net, blobs, tmp_path):
    with pytest.raises(LookalikeError, match="ends as unfinished embeddings do"):
        embed(net, blobs, folder=tmp_path / "e.part", progress=False)
    with pytest.raises(LookalikeError, match="at least one device"):
        embed(net, blobs, devices=[], progress=False)


def test_neighbours_are_found_block_by_block(monkeypatch):
    rng = np.random.default_rng(0)
    points = np.concatenate([np.repeat(rng.normal(size=(3, 20)), 8, axis=0), rng.normal(size=(40, 20))]).astype(
        np.float32
    )
    whole = look_around(points), in_groups(points)
    monkeypatch.setattr("lookalike.embedding.neighbours._CELLS", 150)
    parts = look_around(points), in_groups(points)
    assert parts[0].pairs == whole[0].pairs
    assert len(whole[0].pairs) == 3 * 28
    assert (parts[1] == whole[1]).all()
    with pytest.raises(LookalikeError, match="a single sample"):
        look_around(points[:1])


class WithMean(nn.Module):
    """A network whose mean is no part of its state."""

    def __init__(self, mean):
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 2)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("edges", torch.eye(4).to_sparse())

    def forward(self, x):
        return self.head(self.body((x - self.mean) @ self.edges.to_dense()).relu())


def test_stored_embeddings_depend_on_what_a_network_does_not_save(tmp_path):
    x, y = torch.randn(20, 4), torch.arange(20) % 2
    net = WithMean(0.0)
    embed(Encoder(net, x[:2]), (x, y), folder=tmp_path / "store", progress=False)
    embed(Encoder(net, x[:2]), (x, y), folder=tmp_path / "store", resume=True, progress=False)
    net.mean += 0.5
    with pytest.raises(LookalikeError, match="made with other unsaved_weights"):
        embed(Encoder(net, x[:2]), (x, y), folder=tmp_path / "store", resume=True, progress=False)


class WithGain(nn.Module):
    """A network that multiplies by attributes that are no tensors, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 2)
        self.gain, self.offset, self.norm, self.path = 1.0, np.zeros(4, np.float32), "l2", "/a/b"
        self.scale = torch.full((4,), 2.0)
        self.n_calls, self.last = 0, None

    def forward(self, x):
        self.n_calls += 1
        self.last = self.body(self.gain * self.scale * x + torch.from_numpy(self.offset.copy())).relu()
        return self.head(self.last)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda net: setattr(net, "gain", 2.0), "python_attributes"),
        (lambda net: setattr(net, "gain", 1), "python_attributes"),
        (lambda net: setattr(net, "norm", "l1"), "python_attributes"),
        (lambda net: setattr(net, "offset", np.ones(4, np.float32)), "python_attributes"),
        (lambda net: net.offset.fill(1), "python_attributes"),
        (lambda net: setattr(net, "scale", torch.ones(4)), "unsaved_weights"),
    ],
)
def test_stored_embeddings_depend_on_attributes_of_a_network(tmp_path, change, named):
    x, y = torch.randn(20, 4), torch.arange(20) % 2
    net = WithGain()
    embed(Encoder(net, x[:2]), (x, y), folder=tmp_path / "store", progress=False)
    net.path, net.offset = "/c/d", np.zeros(8, np.float32)[::-2]  # the same numbers in other memory
    store = embed(Encoder(net, x[:2]), (x, y), folder=tmp_path / "store", resume=True, progress=False)
    change(net)
    with pytest.raises(LookalikeError, match=f"made with other {named}"):
        embed(Encoder(net, x[:2]), (x, y), folder=tmp_path / "store", resume=True, progress=False)
    with pytest.raises(LookalikeError, match=f"made with other {named}"):
        check_store(store, Encoder(net, x[:2]), None)


def test_what_a_pass_writes_into_an_attribute_is_no_constant():
    net, x = WithGain(), torch.randn(4, 4)
    encoder = Encoder(net, x)
    assert {"gain", "offset", "norm"} <= encoder.constants
    assert not {"n_calls", "last", "path"} & encoder.constants
    before = identify_weights(encoder)
    net(x)
    assert identify_weights(Encoder(net, x)) == before


def test_stored_embeddings_of_an_earlier_version_say_nothing_of_what_is_not_saved():
    net, x = WithMean(0.0), torch.randn(4, 4)
    key = embedding_key(Encoder(net, x), "data", "transform", precision="float32", dtype="float32")
    assert key_differences({name: value for name, value in key.items() if name != "unsaved_weights"}, key) == ""
    net.mean += 1
    other = embedding_key(Encoder(net, x), "data", "transform", precision="float32", dtype="float32")
    assert "unsaved_weights" in key_differences(key, other)


def test_what_a_pass_writes_into_a_buffer_is_no_weight():
    class Counting(WithMean):
        def __init__(self):
            super().__init__(0.0)
            self.register_buffer("n_calls", torch.zeros(()), persistent=False)
            self.register_buffer("memory", torch.zeros(8, 5), persistent=False)

        def forward(self, x):
            self.n_calls += 1
            z = self.memory[: len(x)]
            z.copy_(self.body(x - self.mean))
            return self.head(z.relu())

    net, x = Counting(), torch.randn(4, 4)
    encoder = Encoder(net, x)
    assert encoder.constants == {"mean"}
    before = identify_weights(encoder)
    net(x)
    assert identify_weights(Encoder(net, x)) == before
