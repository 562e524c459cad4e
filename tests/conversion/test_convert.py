import multiprocessing
import time
import warnings
from typing import get_type_hints

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lookalike
from lookalike._core.errors import LookalikeError, LookalikeWarning
from lookalike.conversion.clustering import CLUSTERERS
from lookalike.conversion.convert import convert
from lookalike.conversion.options import ConversionOptions, Cut, Gallery, Patches, Probabilities, Reading, Settings
from lookalike.conversion.per_class import Clustering
from lookalike.data import load_data
from lookalike.embedding import embed
from lookalike.encoder import Encoder, load_classifier
from lookalike.model.similarity import SIMILARITIES, make_similarity


def test_is_what_the_paper_says(net, blobs):
    """Per class k-means on the embeddings; then the nearest prototype."""
    x, y = blobs
    sem = convert(net, blobs, n_prototypes=2)
    z = sem.embed(x).numpy()
    assert sem.prototypes.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for k in range(3):
        members = z[y == k]
        ours = sem.prototypes.vectors[sem.prototypes.labels == k].numpy()
        inertia = (np.linalg.norm(members[:, None] - ours, axis=2).min(1) ** 2).sum()
        assert inertia <= KMeans(2, n_init=10, random_state=0).fit(members).inertia_ * 1.001
    distances = np.linalg.norm(z[:, None] - sem.prototypes.vectors.numpy(), axis=2)
    np.testing.assert_array_equal(sem.predict(x), sem.prototypes.labels[distances.argmin(1)])
    assert float((sem.predict(x) == y).float().mean()) > 0.9
    assert sem.prototypes.counts.sum() == 90
    assert sem.prototypes.counts.min() > 0


def test_kinds_of_training_data_give_the_same_model(net, blobs):
    x, y = blobs
    encoder = Encoder(net, x[:2])
    kinds = [
        blobs,
        (x.numpy(), y.numpy()),
        TensorDataset(x, y),
        DataLoader(TensorDataset(x, y), batch_size=256, shuffle=True),
    ]
    models = [convert(net, data) for data in kinds]
    models.append(convert(encoder, embed(encoder, blobs)))
    models.append(convert(encoder, blobs, embeddings=embed(encoder, blobs)))
    for model in models[1:]:
        assert torch.equal(model.prototypes.vectors, models[0].prototypes.vectors)
        assert torch.equal(model.prototypes.nearest, models[0].prototypes.nearest)
    assert models[4].images is None
    assert torch.equal(models[5].images, models[0].images)


def test_same_seed_same_bits(net, blobs):
    first, second = (convert(net, blobs, seed=4) for _ in range(2))
    assert first.prototypes.vectors.numpy().tobytes() == second.prototypes.vectors.numpy().tobytes()


@pytest.mark.parametrize("similarity", list(SIMILARITIES))
def test_every_similarity_converts(net, blobs, similarity, tmp_path):
    from lookalike.model import load

    x, _ = blobs
    sem = convert(net, blobs, n_prototypes=2, similarity=similarity)
    sem.save(tmp_path / "saved")
    assert torch.equal(load(tmp_path / "saved", model=net)(x), sem(x))
    assert sem.provenance["similarity"] == similarity


@pytest.mark.parametrize("clusterer", list(CLUSTERERS))
def test_every_clusterer_converts(net, blobs, clusterer):
    sem = convert(net, blobs, n_prototypes=3, clusterer=clusterer)
    assert len(sem.prototypes) == 9


def test_an_own_similarity_is_copied_not_fitted_in_place(net, blobs):
    mine = make_similarity("mahalanobis")
    convert(net, blobs, similarity=mine)
    assert mine.transform is None


def test_of_another_prototype_model_it_uses_the_embedding(net, blobs):
    first = convert(net, blobs, n_prototypes=1)
    second = convert(first, blobs, n_prototypes=4)
    assert second.encoder is first.encoder
    assert len(second.prototypes) == 12


def test_numbers_per_class_and_auto(net, blobs):
    assert len(convert(net, blobs, n_prototypes={0: 1, 1: 2, 2: 3}).prototypes) == 6
    auto = convert(net, blobs, n_prototypes="auto")
    assert 3 <= len(auto.prototypes) <= 30


def test_an_embedding_network_without_a_head(blobs):
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh())
    sem = convert(body, blobs, head="output", n_prototypes=1)
    assert sem.embed(blobs[0]).shape == (90, 5)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["ant", "Ant", "bee"], "'ant' and 'Ant'"),
        (["ant", "bee", "ant "], "'ant' and 'ant '"),
        (["red  ant", "red ant", "RED ANT"], "'red  ant' and 'red ant' and 'RED ANT'"),
        (["1", "1 ", "2"], "'1' and '1 '"),
        (["a", "A", "b"], None),
        (["ant", "ants", "bee"], None),
    ],
)
def test_class_names_that_differ_only_in_spelling_are_told(net, blobs, names, told):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert convert(net, blobs, 2, class_names=names, progress=False).class_names == names
    found = [str(warning.message) for warning in caught if "capitals" in str(warning.message)]
    assert [told is not None and f"spaces: {told};" in message for message in found] == [True] * (told is not None)


def test_class_names_come_with_the_data_or_the_call(net, blobs, image_folder, network_file):
    assert convert(net, blobs).class_names == ["0", "1", "2"]
    assert convert(net, blobs, class_names=["a", "b", "c"]).class_names == ["a", "b", "c"]
    x, y = blobs
    assert convert(net, (x, np.array(["u", "v", "w"])[y])).class_names == ["u", "v", "w"]
    loaded = load_classifier(f"{network_file}:make")
    sem = convert(loaded, load_data(image_folder, loaded.preprocessing), n_prototypes=2)
    assert sem.class_names == ["ant", "bee", "cat"]
    assert sem.preprocessing == loaded.preprocessing
    torch.testing.assert_close(sem.value_range, torch.tensor([[-1.0] * 3, [1.0] * 3]))


def test_memory_of_images_is_optional(net, blobs):
    assert convert(net, blobs, n_images=0).images is None
    assert convert(net, blobs, n_images=2, n_nearest=4).images.shape == (15, 2, 8, 8, 1)


def test_skipped_images_are_counted(image_folder, network_file):
    (image_folder / "train" / "bee" / "03.png").write_text("no")
    loaded = load_classifier(f"{network_file}:make")
    sem = convert(loaded, load_data(image_folder, loaded.preprocessing), n_prototypes=1, on_error="skip")
    assert sem.provenance["skipped"] == 1
    assert sem.provenance["n_samples"] == 23
    assert 11 not in sem.prototypes.nearest


def test_wrong_requests_are_told(net, blobs):
    x, y = blobs
    with pytest.raises(LookalikeError, match=r"torch\.nn\.Module or the spec of one is converted, not a int"):
        convert(42, blobs)
    with pytest.raises(LookalikeError, match="class '1', '3' has no training samples"):
        convert(net, (x, y * 2))
    with pytest.raises(LookalikeError, match="give the Encoder that made them"):
        convert(net, embed(net, blobs))
    with pytest.raises(LookalikeError, match="did you mean 'cosine'"):
        convert(net, blobs, similarity="cosin")
    with pytest.raises(LookalikeError, match="did you mean 'kmeans'"):
        convert(net, blobs, clusterer="kmean")
    store = embed(net, blobs)
    store.embeddings[[3, 8]] = np.nan
    with pytest.raises(LookalikeError, match="2 embeddings have NaN or infinite values: sample 3, sample 8"):
        convert(Encoder(net, x[:1]), store)
    store.embeddings[[3, 8]] = 0
    other = Encoder(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), x[:1])
    with pytest.raises(LookalikeError, match="have 24 dimensions, the encoder's 64"):
        convert(other, store)
    with pytest.warns(LookalikeWarning, match="class '0' has 1 distinct embeddings"):
        convert(net, (x[:3].repeat(2, 1, 1, 1), y[:3].repeat(2)), n_prototypes=2)


def test_arguments_are_checked_before_any_work(net, blobs):
    for options, message in (
        ({"n_init": 0}, "n_init must be a whole number of at least 1"),
        ({"seed": None}, "seed must be"),
        ({"nearest_from": "clas"}, "'class' or 'any'"),
        ({"similarity": "l9"}, "no similarity"),
        ({"clusterer": "l9"}, "no clusterer"),
    ):
        with pytest.raises(LookalikeError, match=message):
            convert(net, blobs, **options)
    x, y = blobs
    with pytest.raises(LookalikeError, match="there is a label 20000000 and there are 90 samples"):
        convert(net, (x, torch.where(y == 2, 20_000_000, y)))
    with pytest.raises(LookalikeError, match="same name"):
        convert(net, blobs, class_names=["a", "b", "a"])
    with pytest.raises(LookalikeError, match="batch_size must be a whole number of at least 1"):
        convert(net, blobs, batch_size=0)
    assert len(convert(net, blobs, 1, batch_size=7, num_workers=0, progress=False).prototypes) == 3


def test_stored_embeddings_must_be_of_this_network_and_these_data(net, blobs):
    x, y = blobs
    store = embed(net, blobs)
    with pytest.raises(LookalikeError, match="made with other data"):
        convert(net, (x + 1, y), embeddings=store)
    with torch.no_grad():
        net[6].weight.add_(1)
    with pytest.raises(LookalikeError, match="made with other weights"):
        convert(Encoder(net, x[:1]), store)


def test_converted_under_inference_mode_it_can_be_differentiated(net, blobs):
    with torch.inference_mode():
        sem = convert(net, blobs)
    x = blobs[0].clone().requires_grad_()
    sem(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_the_public_name_is_the_function():
    assert lookalike.convert is convert


def test_an_unknown_option_is_refused_as_python_does(net, blobs):
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'clustrer'; did you mean 'clusterer'\?"):
        convert(net, blobs, clustrer="kmeans")


def test_every_option_has_a_field_of_its_type_in_one_group():
    groups = (Clustering, Probabilities, Gallery, Cut, Reading, Patches, Settings)
    hints = {name: hint for group in groups for name, hint in get_type_hints(group).items()}
    grouped = {"clustering", "gallery", "cut", "reading", "patches", "given"}
    options = get_type_hints(ConversionOptions)
    assert {name: hints[name] for name in options if name != "probabilities"} == {
        name: hint for name, hint in options.items() if name != "probabilities"
    }
    assert hints.keys() - grouped == options.keys() | {"n_prototypes", "seed"}


def test_options_of_another_level_are_refused(net, blobs):
    with pytest.raises(LookalikeError, match="max_patches is an option of patches"):
        convert(net, blobs, max_patches=3)
    with pytest.raises(LookalikeError, match="nearest_from is an option of whole images"):
        convert(net, blobs, level="patch", nearest_from="any")
    with pytest.raises(LookalikeError, match="clusterer is an option of clustered prototypes"):
        convert(net, blobs, level="head", clusterer="gmm")


@pytest.mark.slow
def test_killed_at_twenty_moments_it_ends_with_the_same_model(net, blobs, tmp_path):
    """Embedding and clustering, killed again and again, each time by the same call."""
    slow = Slow(*blobs)

    def run(folder):
        encoder = Encoder(net, blobs[0][:2])
        model = convert(encoder, slow, n_prototypes=4, n_init=200, batch_size=4, working_folder=folder)
        torch.save(model.prototypes.state_dict(), tmp_path / f"{folder.name}.aside")
        (tmp_path / f"{folder.name}.aside").replace(tmp_path / f"{folder.name}.pt")

    def files(folder):
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}

    run(tmp_path / "whole")
    whole = torch.load(tmp_path / "whole.pt")
    rng, kills, finished = np.random.default_rng(0), {"embedding": 0, "clustering": 0}, 0
    while sum(kills.values()) < 20 or not all(kills.values()) or not finished:
        work = tmp_path / f"work{finished}"
        process = multiprocessing.get_context("fork").Process(target=run, args=(work,))
        process.start()
        process.join(float(rng.uniform(0.05, 0.9)))
        if process.is_alive():
            process.kill()
            kills["clustering" if (work / "clusters").exists() else "embedding"] += 1
        process.join()
        if (tmp_path / f"{work.name}.pt").exists():
            found = torch.load(tmp_path / f"{work.name}.pt")
            for name in whole:
                assert torch.equal(torch.nan_to_num(whole[name]), torch.nan_to_num(found[name])), name
            assert files(work) == files(tmp_path / "whole")
            finished += 1


class Slow(TensorDataset):
    def __getitem__(self, index):
        time.sleep(0.004)
        return super().__getitem__(index)


def test_a_working_folder_is_used_again_for_other_options(net, blobs, tmp_path):
    encoder, rows = Encoder(net, blobs[0][:2]), []
    first = convert(encoder, blobs, n_prototypes=2, working_folder=tmp_path / "w")
    handle = net[0].register_forward_hook(lambda _m, inputs, _o: rows.append(len(inputs[0])))
    again = convert(encoder, blobs, n_prototypes=2, working_folder=tmp_path / "w")
    other = convert(encoder, blobs, n_prototypes=3, working_folder=tmp_path / "w")
    handle.remove()
    assert rows == []
    assert torch.equal(first.prototypes.vectors, again.prototypes.vectors)
    assert torch.equal(other.prototypes.vectors, convert(encoder, blobs, n_prototypes=3).prototypes.vectors)
    with pytest.raises(LookalikeError, match="with other data"):
        convert(encoder, (blobs[0] + 1, blobs[1]), n_prototypes=2, working_folder=tmp_path / "w")
    with torch.no_grad():
        net[0].weight.add_(1)
    with pytest.raises(LookalikeError, match="with other weights"):
        convert(encoder, blobs, n_prototypes=2, working_folder=tmp_path / "w")


def test_clusters_made_within_another_limit_are_not_taken(net, blobs, tmp_path):
    encoder, limit = Encoder(net, blobs[0][:2]), 4 * 4 * 24 * 12
    convert(encoder, blobs, n_prototypes=4, working_folder=tmp_path / "w")
    parts = convert(encoder, blobs, n_prototypes=4, memory_limit=limit, working_folder=tmp_path / "w")
    alone = convert(encoder, blobs, n_prototypes=4, memory_limit=limit)
    whole = convert(encoder, blobs, n_prototypes=4)
    assert torch.equal(parts.prototypes.vectors, alone.prototypes.vectors)
    assert not torch.equal(parts.prototypes.vectors, whole.prototypes.vectors)


@pytest.mark.parametrize("option", [{"seed": 1}, {"n_init": 12}, {"clusterer": "kmedoids"}])
def test_options_of_the_clustering_reach_it(net, blobs, option):
    given = {"n_prototypes": 12, "n_init": 1, "seed": 0, "progress": False}
    found = [convert(net, blobs, **given | changed).prototypes.vectors for changed in ({}, {}, option)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_embeddings_of_other_data_are_refused(net, blobs):
    store = embed(net, blobs)
    encoder = Encoder(net, blobs[0][:1])
    with pytest.raises(LookalikeError, match="train is an EmbeddingStore already"):
        convert(encoder, store, embeddings=store)
    bare = type(store)(store.embeddings, store.labels, store.indices)
    with pytest.raises(LookalikeError, match=r"of more samples than the data have \(40\)"):
        convert(encoder, (blobs[0][:40], blobs[1][:40]), embeddings=bare)


def test_numbers_per_class_are_recorded_by_name_and_never_twice(net, blobs):
    sem = convert(net, blobs, {0: 3, 1: 1, "a": 2}, class_names=["1", "0", "a"], progress=False)
    assert sem.provenance["n_prototypes"] == {"1": 3, "0": 1, "a": 2}
    with pytest.raises(LookalikeError, match="two numbers for class 'a': one by its name, one by 2"):
        convert(net, blobs, {0: 3, 1: 1, 2: 2, "a": 2}, class_names=["x", "y", "a"])
