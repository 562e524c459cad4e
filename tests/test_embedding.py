import json

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from lookalike.data import Preprocessing, load_data
from lookalike.embedding import EmbeddingStore, embed
from lookalike.encoder import Encoder
from lookalike.errors import LookalikeError, LookalikeWarning


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


def test_interrupted_or_failed_passes_leave_nothing(net, blobs, tmp_path, untouched):
    class Interrupted(TensorDataset):
        def __getitem__(self, index):
            if index == 40:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with untouched(net), pytest.raises(KeyboardInterrupt):
        embed(net, Interrupted(*blobs), batch_size=8, folder=tmp_path / "z")
    assert list(tmp_path.iterdir()) == []


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
