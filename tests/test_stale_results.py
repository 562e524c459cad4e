"""Nothing that a folder keeps is used for other options, other data, another network, or once it is damaged.

Each option of ``convert`` and ``embed`` is either changed here or listed as one that changes nothing that is kept: a
new option cannot be forgotten.
"""

import inspect
import multiprocessing
import os
import resource
import shutil
import signal
import threading
import warnings
from typing import get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose

from lookalike._core.errors import LookalikeError, LookalikeWarning
from lookalike._core.working_folder import alone, lock_beside, lock_in
from lookalike.conversion.convert import convert
from lookalike.conversion.options import ConversionOptions
from lookalike.data import Batches, ImageFiles, Preprocessing, load_data
from lookalike.embedding import EmbeddingOptions, EmbeddingStore, embed
from lookalike.encoder import Encoder
from lookalike.model import PrototypeModel
from tests.small import bright_images, small_network

BASE = {"n_prototypes": 2, "similarity": "mahalanobis", "similarity_options": {"shrinkage": 0.2}, "seed": 1}
CHANGED = {
    "n_prototypes": {"n_prototypes": {"a": 3, "b": 2, "c": 1}},
    "similarity": {"similarity": "cosine", "similarity_options": None},
    "similarity_options": {"similarity_options": {"shrinkage": 0.9}},
    "clusterer": {"clusterer": "kmedoids"},
    "n_init": {"n_init": 1},
    "nearest_from": {"nearest_from": "any"},
    "n_nearest": {"n_nearest": 3},
    "head": {"head": "4"},
    "class_order": {"class_order": ["c", "b", "a"]},
    "precision": {"precision": "bfloat16"},
    "memory_limit": {"memory_limit": 4 * 4 * 24 * 12},
    "seed": {"seed": 2, "n_init": 1},
    "batch_size": {"batch_size": 7},
    "on_error": {"on_error": "skip"},
    "num_workers": {"num_workers": 1},
    "probabilities": {"probabilities": "sum"},
}
NOT_KEPT = {
    "train": "its fingerprint is in the key: see test_other_images_are_noticed",
    "model": "its weights and layers are: see test_other_networks_are_told_apart",
    "output": "it says which output has the scores: in the key as 'outputs'",
    "n_images": "images are read anew",
    "devices": "the same prototypes on each: see test_replicas.py",
    "temperature": "fitted anew; prototypes do not depend on it",
    "progress": "changes nothing",
    "level": "patches keep nothing in a folder",
    "preprocessing": "of the images, whose transform is in the key; tensors have none",
    "advice": "is given anew",
    "layers": "of patches, which keep nothing in a folder",
    "decision": "of patches, which keep nothing in a folder",
    "shared": "of patches, which keep nothing in a folder",
    "max_patches": "of patches, which keep nothing in a folder",
    "backend": "a cluster has a key of its own: see conversion/test_distributed",
    "embeddings": "they are told by their bytes: see test_other_stored_embeddings_are_noticed",
    "class_names": "see test_other_class_names_and_their_order_are_noticed",
    "working_folder": "is the folder",
}


def state(model: PrototypeModel) -> dict[str, torch.Tensor]:
    return {**model.prototypes.state_dict(), **{f"s.{k}": v for k, v in model.similarity.state_dict().items()}}


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(torch.nan_to_num(first[name]), torch.nan_to_num(second[name])) for name in first
    )


def fit(options, folder=None, class_names=("a", "b", "c"), data=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert(
            small_network(),
            data or bright_images(90),
            progress=False,
            **{**BASE, **options},
            class_names=list(class_names),
            working_folder=folder,
        )


def test_every_option_of_convert_is_thought_of():
    names = set(inspect.signature(convert).parameters) - {"options"} | set(get_type_hints(ConversionOptions))
    assert names == CHANGED.keys() | NOT_KEPT.keys()


@pytest.fixture(scope="module")
def base():
    return state(fit({}))


@pytest.fixture
def work(tmp_path):
    fit({}, tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("option", CHANGED)
def test_a_changed_option_gives_its_own_result_or_is_refused(option, work):
    changed = CHANGED[option]
    if option in ("head", "class_order", "precision"):  # of which the embeddings depend: they are not thrown away
        with pytest.raises(LookalikeError, match="made with other"):
            fit(changed, work)
    else:
        assert same(state(fit(changed, work)), state(fit(changed)))


def test_an_option_that_matters_gives_another_result(base):
    for option in ("n_prototypes", "similarity_options", "clusterer", "memory_limit", "seed"):
        assert not same(state(fit(CHANGED[option])), base), option


def test_other_class_names_and_their_order_are_noticed(work):
    numbers = {"n_prototypes": {"a": 3, "b": 2, "c": 1}}
    fit(numbers, work)
    found = fit(numbers, work, class_names=("c", "b", "a"))
    assert torch.bincount(found.prototypes.labels).tolist() == [1, 2, 3]
    assert same(state(found), state(fit(numbers, class_names=("c", "b", "a"))))


def test_other_stored_embeddings_are_noticed(tmp_path):
    network = small_network()
    encoder = Encoder(network, bright_images(4)[0])
    stores = [embed(encoder, (bright_images(90)[0] * scale, bright_images(90)[1])) for scale in (1, 2)]
    for store in stores:
        bare = EmbeddingStore(store.embeddings, store.labels, store.indices)  # which does not say what it is of
        found = convert(encoder, bare, 2, progress=False, working_folder=tmp_path / "w")
        assert same(state(found), state(convert(encoder, bare, 2, progress=False)))


EMBED_CHANGED = {
    "precision": {"precision": "bfloat16"},
    "dtype": {"dtype": "float16"},
    "head": {"head": "4"},
    "data": {"data": (bright_images(90)[0] + 1, bright_images(90)[1])},
    "model": {"model": nn.Sequential(*small_network(), nn.Identity())},
}
EMBED_NOT_KEPT = {"batch_size", "devices", "num_workers", "folder", "resume", "overwrite", "on_error", "progress"}


def test_every_option_of_embed_is_thought_of():
    parameters = set(inspect.signature(embed).parameters) - {"options"} | set(get_type_hints(EmbeddingOptions))
    assert parameters == EMBED_CHANGED.keys() | EMBED_NOT_KEPT


@pytest.mark.parametrize("option", EMBED_CHANGED)
@pytest.mark.parametrize("finished", [True, False])
def test_embeddings_of_another_request_are_refused_with_its_name(option, finished, tmp_path):
    given = {"model": small_network(), "data": bright_images(90), "precision": "float32"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        embed(**given, folder=tmp_path / "z", batch_size=40)
        if not finished:
            unfinish(tmp_path / "z", given)
        with pytest.raises(LookalikeError, match="made with other") as told:
            embed(**{**given, **EMBED_CHANGED[option]}, folder=tmp_path / "z", resume=True)
    if option not in ("model", "head"):
        assert f" {option}" in str(told.value)


def unfinish(folder, given):
    """Leaves what a pass leaves that was stopped."""

    class Stops(TensorDataset):
        def __getitem__(self, index):
            if index == 60:
                raise KeyboardInterrupt
            return super().__getitem__(index)

        def fingerprint(self):
            raise AssertionError

    shutil.rmtree(folder)
    stops = Stops(*given["data"])
    batches = Batches(stops, 40)
    batches.fingerprint = Batches(given["data"]).fingerprint
    batches.transform_fingerprint = Batches(given["data"]).transform_fingerprint
    with pytest.raises(KeyboardInterrupt):
        embed(given["model"], batches, precision=given["precision"], folder=folder)


def test_what_auto_chose_and_the_same_asked_for_are_the_same(tmp_path):
    network, data = small_network(), bright_images(40)
    first = embed(network, data, folder=tmp_path / "z", precision="auto")
    again = embed(network, data, folder=tmp_path / "z", precision=first.info["precision"], resume=True)
    np.testing.assert_array_equal(first.embeddings, again.embeddings)


def test_other_networks_are_told_apart(tmp_path):
    """The same weights with another activation are another network."""
    data, network = bright_images(40), small_network()
    embed(network, data, folder=tmp_path / "z")
    position = next(i for i, layer in enumerate(network) if isinstance(layer, nn.ReLU))
    network[position] = nn.LeakyReLU(0.3)
    with pytest.raises(LookalikeError, match="made with other layers"):
        embed(network, data, folder=tmp_path / "z", resume=True)


class Brighter:
    def __init__(self, by):
        self.by = by

    def __call__(self, image):
        return torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1)[:, :8, :8] / 255 + self.by


def function(image):
    return Brighter(0.0)(image)


def colour_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def files_with(image_folder, transform):
    train = load_data(image_folder, Preprocessing.square(8)).train
    return ImageFiles(train.root, train.files, train.labels, train.classes, transform)


TRANSFORMS = {
    "function": lambda: function,
    "lambda": lambda: lambda image: function(image),
    "object": lambda: Brighter(0.0),
    "composed": lambda: Compose([lambda image: function(image)]),
}


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_a_transform_is_told_by_what_it_does(kind, image_folder):
    """Two processes make it at other places in memory."""
    one, other = (files_with(image_folder, TRANSFORMS[kind]()) for _ in range(2))
    junk = [bytearray(1000) for _ in range(100)]
    assert Batches(one).transform_fingerprint() == Batches(other).transform_fingerprint()
    assert len(junk) == 100
    changed = files_with(image_folder, Brighter(0.1))
    assert Batches(one).transform_fingerprint() != Batches(changed).transform_fingerprint()
    part = Subset(changed, range(5))
    assert Batches(Subset(one, range(5))).transform_fingerprint() != Batches(part).transform_fingerprint()


def test_with_a_lambda_a_pass_is_taken_up_in_a_new_process(image_folder, tmp_path):
    def work():
        embed(colour_network(), files_with(image_folder, lambda image: function(image)), folder=tmp_path / "z")

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    again = embed(colour_network(), files_with(image_folder, lambda x: function(x)), folder=tmp_path / "z", resume=True)
    assert len(again) == 24
    with pytest.raises(LookalikeError, match="made with other transform:"):
        embed(colour_network(), files_with(image_folder, Brighter(0.5)), folder=tmp_path / "z", resume=True)


def test_a_random_transform_is_noticed_and_goes_on_with_a_warning(image_folder, tmp_path):
    def noisy(image):
        return function(image) + torch.rand(1)

    embed(colour_network(), files_with(image_folder, function), folder=tmp_path / "z")
    with pytest.warns(LookalikeWarning, match="at random"), pytest.raises(LookalikeError, match="other transform"):
        embed(colour_network(), files_with(image_folder, noisy), folder=tmp_path / "z", resume=True)
    for _ in range(2):
        with pytest.warns(LookalikeWarning, match="at random"):
            embed(colour_network(), files_with(image_folder, noisy), folder=tmp_path / "noisy", resume=True)


def test_random_collation_and_random_mappings_are_noticed(blobs):
    def noisy(items):
        return torch.stack([x + torch.rand(1) for x, _ in items]), torch.tensor([int(y) for _, y in items])

    class Mapped(TensorDataset):
        def __getitem__(self, index):
            return {"pixel_values": torch.rand(1, 8, 8), "label": 0}

    assert Batches(DataLoader(TensorDataset(*blobs), collate_fn=noisy)).is_random()
    assert Batches(Mapped(torch.zeros(4))).is_random()
    assert not Batches(DataLoader(TensorDataset(*blobs))).is_random()


def test_a_file_that_changes_with_its_size_kept_is_noticed(image_folder, tmp_path):
    """By its bytes: neither its name, nor its size, nor its time need change."""
    path = image_folder / "train" / "bee" / "05.png"
    names = [path.with_suffix(".bmp"), image_folder / "train" / "ant" / "01.png"]
    Image.open(path).save(names[0])
    embed(colour_network(), files_with(image_folder, function), folder=tmp_path / "z")
    status, content = names[0].stat(), bytearray(names[0].read_bytes())
    content[-1] ^= 255
    names[0].write_bytes(content)
    os.utime(names[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(LookalikeError, match="made with other data:"):
        embed(colour_network(), files_with(image_folder, function), folder=tmp_path / "z", resume=True)


def test_a_file_that_changes_while_a_program_runs_is_read_again(image_folder):
    files = files_with(image_folder, function)
    before = files.fingerprint()
    assert files.fingerprint() == before
    path = files.files[7]
    Image.new("RGB", (12, 10), "white").save(path)
    assert files.fingerprint() != before


def test_every_value_of_a_tensor_data_set_and_of_torchvisions_folders_counts(blobs, image_folder):
    x, y = blobs
    other = x.clone()
    other[47, 0, 3, 3] += 1e-3  # none of the samples that are looked at
    assert Batches(TensorDataset(x, y)).fingerprint() != Batches(TensorDataset(other, y)).fingerprint()
    first = Batches(ImageFolder(image_folder / "train", function)).fingerprint()
    assert Batches(ImageFolder(image_folder / "train", function)).fingerprint() == first
    for path in sorted((image_folder / "train" / "ant").iterdir())[1:2]:
        Image.new("RGB", (12, 10), "white").save(path)
    assert Batches(ImageFolder(image_folder / "train", function)).fingerprint() != first


def test_a_stream_that_cannot_be_compared_is_warned_of(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(zip(*bright_images(30), strict=True))

    network = small_network()
    embed(network, Stream(), folder=tmp_path / "z")
    with pytest.warns(LookalikeWarning, match="are used without comparing the data: a stream's contents"):
        embed(network, Stream(), folder=tmp_path / "z", resume=True)


def test_left_out_images_are_not_taken_where_none_may_be(image_folder, tmp_path):
    (image_folder / "train" / "bee" / "03.png").write_text("no")
    files = files_with(image_folder, function)
    given = {"folder": tmp_path / "z", "batch_size": 8}
    embed(colour_network(), files, **given, on_error="skip")
    with pytest.raises(LookalikeError, match=r"made with on_error='skip' and leaves out 1 image .*03\.png"):
        embed(colour_network(), files, **given, resume=True)
    assert len(embed(colour_network(), files, **given, on_error="skip", resume=True)) == 23


# damage


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["embeddings.npy", "labels.npy", "indices.npy", "predictions.npy", "embeddings.json"])
def test_a_flipped_bit_in_finished_embeddings_never_gives_another_model(name, tmp_path):
    network, data = small_network(), bright_images(90)
    whole = embed(network, data, folder=tmp_path / "z")
    expected, path = np.array(whole.embeddings), tmp_path / "z" / name
    intact = path.read_bytes()
    for position in np.linspace(0, len(intact) - 1, 12).astype(int):
        path.write_bytes(intact)
        flip(path, int(position))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                store = embed(network, data, folder=tmp_path / "z", resume=True)
            except LookalikeError:
                assert name == "embeddings.json"
                continue
        np.testing.assert_array_equal(store.embeddings, expected)
        assert store.labels.tolist() == data[1].tolist()
        assert store.indices.tolist() == list(range(90))


def test_damaged_embeddings_that_are_given_are_refused(tmp_path):
    data = bright_images(90)
    encoder = Encoder(small_network(), data[0][:2])
    embed(encoder, data, folder=tmp_path / "z")
    flip(tmp_path / "z" / "embeddings.npy", -7)
    store = EmbeddingStore.open(tmp_path / "z")  # many gigabytes are not read to open them
    with pytest.raises(LookalikeError, match=r"'embeddings.npy' does not fit its checksum; embed the data again"):
        convert(encoder, store, 2, progress=False)
    with pytest.raises(LookalikeError, match="does not fit its checksum"):
        store.grouped_by_class(tmp_path / "by-class")
    flip(tmp_path / "z" / "labels.npy", -8)
    with pytest.raises(LookalikeError, match=r"'labels.npy' does not fit its checksum"):
        EmbeddingStore.open(tmp_path / "z")


def test_damaged_clusters_are_made_again(work, base):
    files = sorted((work / "clusters").iterdir())
    assert [file.name for file in files] == [*(f"class-{k:06d}.npy" for k in range(3)), "clusters.json"]
    for file in files:
        whole = file.read_bytes()
        for content in (b"", whole[:-2], whole[: len(whole) // 2], whole[:200] + b"\x55" + whole[201:]):
            file.write_bytes(content)
            with pytest.warns(LookalikeWarning, match=f"{file.name}' cannot be used"):
                found = convert(
                    small_network(),
                    bright_images(90),
                    progress=False,
                    **BASE,
                    class_names=["a", "b", "c"],
                    working_folder=work,
                )
            assert same(state(found), base)
            assert file.read_bytes() == whole


def test_a_full_disk_stops_the_clustering_in_one_line(tmp_path):
    x, y = bright_images(90)
    encoder = Encoder(small_network(), x[:2])
    store = embed(encoder, (x, y))

    def work(connection):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))  # bytes a file: enough for the key
        try:
            convert(encoder, store, 30, progress=False, working_folder=tmp_path / "w")
        except LookalikeError as error:
            connection.send(str(error))

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(sender,))
    process.start()
    assert receiver.poll(20)
    assert receiver.recv().endswith(
        "clusters': File too large; the embeddings and the classes clustered so far are safe: make room, and run the "
        "same command again"
    )
    process.join()
    again = convert(encoder, store, 30, progress=False, working_folder=tmp_path / "w")
    assert same(state(again), state(convert(encoder, store, 30, progress=False)))


# two at once


def test_a_second_conversion_in_the_folder_is_refused(work):
    with alone(lock_in(work)):
        refused = []

        def second():
            try:
                fit({}, work)
            except LookalikeError as error:
                refused.append(str(error))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert refused == [
        f"{str(work)!r} is in use by another thread of this process: wait until it ends, or choose another place"
    ]


def hold_and_report(lock, held, done):
    with alone(lock):
        held.set()
        done.wait(20)


@pytest.mark.parametrize("finished", [True, False])
def test_a_second_process_that_embeds_into_the_folder_is_refused(finished, tmp_path):
    network, data = small_network(), bright_images(30)
    if finished:
        embed(network, data, folder=tmp_path / "z")
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold_and_report, args=(lock_beside(tmp_path / "z"), held, done))
    other.start()
    held.wait(20)
    with pytest.raises(LookalikeError, match=rf"z' is in use by another process \(pid {other.pid} on "):
        embed(network, data, folder=tmp_path / "z", overwrite=True)
    done.set()
    other.join()
    embed(network, data, folder=tmp_path / "z", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["z"]
