"""New data join a fitted model."""

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lookalike import convert, load
from lookalike._core.errors import LookalikeError, LookalikeWarning
from lookalike.data import ImageArray, Preprocessing, load_data, load_digits, load_folder
from lookalike.demo import network
from lookalike.embedding import embed
from lookalike.encoder import Encoder
from lookalike.networks import NETWORKS


def part(blobs, *classes):
    x, y = blobs
    rows = torch.isin(y, torch.tensor(classes))
    return x[rows], y[rows]


def test_a_new_class_leaves_the_others_as_they_are_to_the_bit(net, blobs, untouched):
    old = convert(net, part(blobs, 0, 1), n_prototypes=3)
    before = {name: value.clone() for name, value in old.state_dict().items() if isinstance(value, torch.Tensor)}
    with untouched(net):
        new = old.update(part(blobs, 2), n_prototypes=3)
    assert new.class_names == ["0", "1", "2"]
    assert new.prototypes.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for name in ("vectors", "counts", "purity", "nearest", "distances", "percentiles", "quantiles"):
        assert torch.equal(getattr(new.prototypes, name)[:6], getattr(old.prototypes, name)), name
    for name, value in before.items():
        assert torch.equal(old.state_dict()[name], value)
    whole = convert(net, blobs, n_prototypes=3)
    assert torch.equal(new.prototypes.vectors[6:], whole.prototypes.vectors[6:])  # as if all were clustered at once
    assert new.provenance["joined"][0]["new_classes"] == ["2"]
    assert int(new.prototypes.nearest[6:].min()) >= 60  # numbered on


def test_new_samples_move_their_class_to_the_mean_of_all_it_stands_for(net, blobs):
    x, y = blobs
    first, second = (x[:60], y[:60]), (x[60:][y[60:] == 1], y[60:][y[60:] == 1])
    old = convert(net, first, n_prototypes=1)
    new = old.update(second)
    z = old.embed(x)
    torch.testing.assert_close(new.prototypes.vectors[1], z[y == 1].mean(0), rtol=1e-5, atol=1e-5)
    for k in (0, 2):
        assert torch.equal(new.prototypes.vectors[k], old.prototypes.vectors[k])
    assert new.prototypes.counts.tolist() == [20, 30, 20]
    assert new.provenance["joined"][0]["statistics"] == "put together"


def test_with_the_embeddings_of_before_the_statistics_are_those_of_all(net, blobs):
    x, y = blobs
    old = convert(net, (x[:60], y[:60]), n_prototypes=2)
    new = old.update((x[60:], y[60:]), previous=embed(old, (x[:60], y[:60])))
    from lookalike.conversion.survey import survey
    from lookalike.model.prototypes import Prototypes

    plain = Prototypes(new.prototypes.vectors, new.prototypes.labels, new.prototypes.class_names)
    expected = survey(plain, new.similarity, old.embed(x).numpy(), y.numpy())
    assert torch.equal(expected.nearest, new.prototypes.nearest)
    assert torch.equal(expected.counts, new.prototypes.counts)
    torch.testing.assert_close(expected.quantiles, new.prototypes.quantiles, rtol=1e-4, atol=1e-4)
    assert new.provenance["joined"][0]["statistics"] == "exact"


def test_statistics_put_together_are_near_to_exact(net, blobs):
    x, y = blobs
    old = convert(net, (x[:60], y[:60]), n_prototypes=2)
    store = embed(old, (x[:60], y[:60]))
    near, exact = (old.update((x[60:], y[60:]), previous=one).prototypes for one in (None, store))
    assert int(near.counts.sum()) == int(exact.counts.sum()) == 90
    spread = exact.quantiles[:, -1:] - exact.quantiles[:, :1]
    assert float(((near.quantiles - exact.quantiles) / spread).abs().mean()) < 0.15
    # prototypes have moved since the old distances were taken, so that the order may differ; the samples hardly do
    same = [len(set(a) & set(b)) for a, b in zip(near.nearest.tolist(), exact.nearest.tolist(), strict=True)]
    assert np.mean(same) > 7


def test_classes_are_matched_by_name_and_it_is_saved(net, blobs, tmp_path):
    x, y = blobs

    def named(rows, names):
        images = ((x[rows] - x.min()) / (x.max() - x.min()) * 255).byte().permute(0, 2, 3, 1).numpy()
        labels = torch.tensor([names.index("abc"[k]) for k in y[rows]])
        return ImageArray(images, labels.numpy(), names, lambda image: torch.from_numpy(image).permute(2, 0, 1) / 255)

    old = convert(net, named(y < 2, ["a", "b"]), n_prototypes=2)
    new = old.update(named(y > 0, ["c", "b"]), n_prototypes={"c": 4})
    assert new.class_names == ["a", "b", "c"]
    assert new.prototypes.labels.tolist() == [0, 0, 1, 1, 2, 2, 2, 2]
    assert new.images.shape[:2] == (8, 3)
    new.save(tmp_path / "model")
    again = load(tmp_path / "model", model=net)
    assert again.provenance["joined"] == new.provenance["joined"]
    third = again.update(named(y == 0, ["a"]), n_prototypes=1)
    assert len(third.provenance["joined"]) == 2
    torch.testing.assert_close(third.prototypes.vectors[2:], again.prototypes.vectors[2:], rtol=0, atol=0)


def test_mistakes_and_few_samples(net, blobs):
    old = convert(net, part(blobs, 0, 1), n_prototypes=3)
    x = blobs[0]
    with pytest.warns(LookalikeWarning, match="class '2' has 2 distinct embeddings; 3 prototypes asked: using 2"):
        new = old.update((x[[2, 5]], torch.tensor([2, 2])))
    assert len(new.prototypes) == 8
    with pytest.raises(LookalikeError, match="NaN or infinite"):
        old.update((x[:2] * torch.nan, torch.tensor([2, 2])))


@pytest.mark.slow
def test_a_new_digit_is_known_as_well_as_after_a_whole_fit():
    bundle = load_digits(network.PREPROCESSING)
    encoder = Encoder(nn.Flatten(), bundle.train[0][0][None], head="output")

    def digits(keep):
        data = bundle.train
        return type(data)(data.images[keep], data.labels[keep], data.classes, data.transform)

    labels = np.asarray(bundle.train.labels)
    old = convert(encoder, digits(labels < 9), progress=False, class_names=[str(k) for k in range(9)])
    joined = old.update(digits(labels == 9), progress=False)
    whole = convert(encoder, bundle.train, progress=False)
    test, truth = torch.stack([image for image, _ in bundle.test]), torch.as_tensor(bundle.test.labels)
    nine = truth == 9
    accuracies = [float((model.predict(test[nine]) == 9).float().mean()) for model in (joined, whole)]
    assert abs(accuracies[0] - accuracies[1]) <= 0.01
    assert accuracies[0] > 0.6
    assert torch.equal(joined.prototypes.vectors[:45], old.prototypes.vectors)


def test_previous_embeddings_are_matched_by_name_and_checked(net, blobs):
    x, y = blobs

    def store_of(names, rows, network=None):
        labels = torch.tensor([names.index("acb"[k]) for k in y[rows]])
        store = embed(network or old, (x[rows], labels))
        return replace(store, class_names=names)

    old = convert(net, (x[y < 2], y[y < 2]), n_prototypes=2, class_names=["a", "c"])
    new_data = store_of(["b"], y == 2)
    of_all = store_of(["a", "b", "c"], y < 2)  # as a folder numbers them in which "b" is new
    new = old.update(new_data, previous=of_all)
    assert new.class_names == ["a", "c", "b"]
    assert new.prototypes.counts.sum() == 90
    assert (new.prototypes.purity[:4] == old.prototypes.purity[:4]).all()
    with pytest.raises(LookalikeError, match=r"previous data have a class 'z', which is none of the model's"):
        old.update(new_data, previous=replace(of_all, class_names=["a", "b", "z"]))
    other = copy.deepcopy(net)
    torch.nn.init.normal_(other[0].weight)
    other_store = embed(Encoder(other.eval(), x[:2]), (x[y < 2], y[y < 2]))
    with pytest.raises(LookalikeError, match="were made with other weights"):
        old.update(new_data, previous=other_store)


def test_prototypes_that_are_no_means_are_not_moved(net, blobs):
    with pytest.raises(LookalikeError, match=r"decides by 'linear' is not updated"):
        convert(net, blobs, level="head").update(blobs)


def test_medoids_that_become_means_are_told(net, blobs):
    old = convert(net, blobs, n_prototypes=2, clusterer="kmedoids")
    with pytest.warns(LookalikeWarning, match="embeddings of training images no more"):
        old.update(part(blobs, 1))


def test_names_without_samples_make_no_class_and_gaps_are_refused(net, blobs):
    x, y = blobs
    old = convert(net, part(blobs, 0, 1), n_prototypes=2, class_names=["a", "b"])
    store = replace(embed(old, part(blobs, 2)), class_names=["d", "b", "c"])
    assert old.update(store).class_names == ["a", "b", "c"]
    with pytest.raises(LookalikeError, match=r"samples of class 4 and none of class 2.*from 2 without gaps"):
        old.update((x[y == 2], y[y == 2] + 2))


def test_images_are_kept_as_asked_for_and_their_loss_is_told(net, blobs):
    old = convert(net, part(blobs, 0, 1), n_prototypes=2)
    assert old.update(part(blobs, 2), n_images=0).images is None
    assert old.update(part(blobs, 2), n_images=2).images.shape[1] == 2
    with pytest.warns(LookalikeWarning, match="keeps no images of its prototypes: the new data are no images"):
        assert old.update(embed(old, part(blobs, 2))).images is None
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    old = convert(convolution.eval(), part(blobs, 0, 1), n_prototypes=2)
    with pytest.warns(LookalikeWarning, match="the new images have another size"):
        assert old.update((torch.rand(8, 1, 12, 12), torch.full((8,), 2))).images is None


def test_the_preparation_of_images_stays_the_models_own(image_folder):
    data = load_data(image_folder, Preprocessing.square(16))
    old = convert(NETWORKS["small-cnn"](n_classes=3), data, n_prototypes=2, progress=False)
    assert old.update(data.test, progress=False).preprocessing == old.preprocessing == data.preprocessing
    old.preprocessing = None
    assert old.update(data.test, progress=False).preprocessing == data.preprocessing


def test_new_samples_are_numbered_after_the_last_that_is_known(net, blobs):
    """Models of earlier versions do not say how many samples they were made from."""
    x, y = blobs
    old = convert(net, (x[:60], y[:60]), n_prototypes=2, progress=False)
    assert old.update((x[60:], y[60:]), progress=False).provenance["joined"][0]["first_sample"] == 60
    last = int(old.prototypes.nearest.max())
    del old.provenance["n_samples"]
    assert old.update((x[60:], y[60:]), progress=False).provenance["joined"][0]["first_sample"] == last + 1


def folder_of(path, classes, n, broken=()):
    """A folder of grey pictures 12×12, brighter in each further class; some files are broken."""
    rng = np.random.default_rng(len(classes) * n)
    for k, name in enumerate(classes):
        (path / "train" / name).mkdir(parents=True)
        for i in range(n):
            file = path / "train" / name / f"{i:03}.png"
            pixels = rng.integers(0, 60, (12, 12), dtype=np.uint8) + 60 * k
            Image.fromarray(pixels.astype(np.uint8)).save(file)
            if (name, i) in broken:
                file.write_text(f"no image {name} {i}")
    return load_folder(path, Preprocessing.square(12, mean=(0.5,), std=(0.5,))).train


def flat_net(n_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, n_classes))


def test_new_samples_have_numbers_that_no_previous_one_has(tmp_path):
    """Not even one that could not be read; and the record counts the samples that were read."""
    broken = [("a", 0), ("a", 3), ("b", 9)]
    first = folder_of(tmp_path / "first", ["a", "b"], 10, broken)
    more = folder_of(tmp_path / "more", ["a", "b"], 4, [("b", 3)])
    options = {"n_prototypes": 1, "n_nearest": 20, "on_error": "skip", "progress": False}
    old = convert(flat_net(2), first, **options)
    new = old.update(more, on_error="skip", progress=False)
    newest = new.update(folder_of(tmp_path / "newest", ["a", "b"], 3), progress=False)
    assert (old.provenance["n_samples"], old.provenance["skipped"], old.provenance["next_sample"]) == (17, 3, 20)
    assert (new.provenance["n_samples"], new.provenance["skipped"], new.provenance["next_sample"]) == (24, 4, 28)
    assert newest.provenance["joined"][1]["first_sample"] == 28
    names = {index: "/".join(first.files[index].parts[-2:]) for index in range(20)}
    names |= {20 + index: "/".join(more.files[index].parts[-2:]) for index in range(8)}
    known = new.training_names
    assert len(known) == 24
    assert all(name.endswith(names[index]) for index, name in known.items())


def test_new_samples_may_be_far_from_all_prototypes(net, blobs):
    """So that none is among the nearest, and no image of theirs is read."""
    x, y = blobs
    old = convert(net, (x, y), n_prototypes=1, n_nearest=6, n_images=5, progress=False)
    new = old.update((10 * x[:3], y[:3]), progress=False)
    assert int(new.prototypes.nearest.max()) < 90
    assert torch.equal(new.images, old.images)  # all five


def test_an_update_searches_where_the_conversion_did(net, blobs):
    x = blobs[0]
    y = torch.arange(len(x)) // 30  # labels that have nothing to do with the images: the nearest are of all classes
    old = convert(net, (x, y), n_prototypes=2, n_nearest=6, n_images=0, nearest_from="any", progress=False)
    more = x[:6] + 0.1 * torch.randn(6, 1, 1, 1)
    new = old.update((more, y[:6]), previous=embed(old, (x, y), progress=False), progress=False)
    embeddings = torch.cat([old.embed(x), old.embed(more)])
    nearest = torch.cdist(new.prototypes.vectors, embeddings).argsort(dim=1, stable=True)[:, :6]
    assert torch.equal(new.prototypes.nearest, nearest)
    assert not bool((torch.cat([y, y[:6]])[nearest] == new.prototypes.labels[:, None]).all())


def test_the_farthest_image_of_before_stays_the_farthest(net, blobs):
    """The greatest distance of all is no mean of two: training images would be called unfamiliar."""
    x, y = blobs
    old = convert(net, (x, y), n_prototypes=1, progress=False)
    near = x + 0.01 * torch.randn(x.shape)
    new = old.update((near, y), progress=False)
    for k in range(3):
        least, most = new.prototypes.quantiles[k, 0], new.prototypes.quantiles[k, -1]
        assert most >= old.prototypes.quantiles[k, -1]
        assert least <= old.prototypes.quantiles[k, 0]
    assert (new.prototypes.quantiles.diff(dim=1) >= 0).all()


def test_previous_data_may_have_more_numbers_than_the_model_knows(net, blobs):
    x, y = blobs
    old = convert(net, (x[:60], y[:60]), n_prototypes=2, n_images=0, progress=False)
    more = old.update((x[80:], y[80:]), previous=embed(old, (x[:80], y[:80]), progress=False), progress=False)
    assert more.provenance["joined"][0]["first_sample"] == 80


def test_images_that_join_twice_are_told(net, blobs, image_folder):
    x, y = blobs
    model = convert(net, (x[:30], y[:30]), n_prototypes=1, progress=False)
    with pytest.warns(LookalikeWarning, match="the 30 new images are training images of the model already"):
        model.update((x[:30], y[:30]), progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        once = model.update((x[30:], y[30:]), progress=False)
    with pytest.warns(LookalikeWarning, match=f"the {len(x) - 30} new images are training images"):
        once.update((x[30:], y[30:]), progress=False)
    files = load_data(image_folder, Preprocessing.square(8))
    of_files = convert(NETWORKS["small-cnn"](n_classes=3), files, n_prototypes=1, progress=False)
    n = len(files.train)
    with pytest.warns(LookalikeWarning, match=f"{n} of the {n} new images are training images"):
        of_files.update(files, progress=False)
