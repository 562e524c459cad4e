import numpy as np
import pytest
import torch

from lookalike import LookalikeError
from lookalike.data import DataBundle, load_training_data
from lookalike.experiments import Subject, Workbench, imbalance
from lookalike.experiments.experiment import Findings
from lookalike.experiments.imbalance import _by_class, draw_imbalance, proportional_numbers, thin_classes
from tests.baselines.test_training import make_bundle


def test_classes_are_thinned_geometrically_and_the_test_images_stay():
    data = make_bundle(300)
    found = thin_classes(data, 100, seed=0)
    assert np.bincount(found.train.labels).tolist() == [100, 10, 1]
    assert found.test is data.test
    assert np.bincount(thin_classes(data, 1, seed=0).train.labels).tolist() == [100, 100, 100]
    assert not np.array_equal(thin_classes(data, 10, seed=0).train.images, thin_classes(data, 10, seed=1).train.images)
    listed = DataBundle("x", [(torch.zeros(1), 0)], [], ["a"], data.preprocessing)
    with pytest.raises(LookalikeError, match="cannot leave out samples of a list"):
        thin_classes(listed, 10, seed=0)


def test_prototypes_in_proportion_are_about_as_many_in_all_and_one_at_least():
    assert proportional_numbers([100, 10, 1], ["a", "b", "c"]) == {"a": 14, "b": 1, "c": 1}
    assert proportional_numbers([7, 7], ["a", "b"], per_class=3) == {"a": 3, "b": 3}


def test_thirds_go_by_the_number_of_images():
    found = _by_class([0.1, 0.9, 0.5], [5, 100, 50])
    assert (found["common"], found["rare"]) == (0.9, 0.1)
    assert found["classes"] == [0.1, 0.9, 0.5]


def test_images_in_files_are_thinned_too(image_folder):
    data = load_training_data(image_folder, 16)
    found = thin_classes(data, 10, seed=0)
    assert 1 <= np.bincount(found.train.labels)[-1] < np.bincount(data.train.labels)[-1]
    assert set(found.train.files) < set(data.train.files)
    for file, label in zip(found.train.files, found.train.labels, strict=True):
        assert file.parent.name == data.class_names[label]


def test_thinned_data_are_trained_on_as_all_experiments_train(image_folder, tmp_path, monkeypatch):
    folder = image_folder.rename(tmp_path / "digits")  # a folder, not the data set of that name
    bench = Workbench(tmp_path / "models", quick=True)
    subject = Subject(str(folder), "lookalike:small-cnn", "kmex", 0)
    given = {}

    def trained(*_, **options):
        given.update(options)
        raise LookalikeError("enough")

    monkeypatch.setattr(imbalance, "train", trained)
    with pytest.raises(LookalikeError, match="enough"):
        imbalance._black_box(bench, subject, bench.data(subject), 10)
    assert given["options"] == bench.options(subject)
    assert given["options"]["learning_rate"] == 0.001


def test_the_figure_has_a_panel_for_each_imbalance_that_could_be_measured():
    panel = {"class_names": ["a", "b"], "images": [8, 4], "accuracy": {"black box": [1, 0.5], "KMEx": [0.75, 0.25]}}
    figure = draw_imbalance(
        Findings((), (), [], {"per class": {"x": {"1:1": panel, "1:2": panel}, "y": {"1:2": panel}}})
    )
    drawn = [[ax.get_title() if ax.axison else "" for ax in figure.axes[i : i + 2]] for i in (0, 2)]
    assert drawn == [["x, 1:1", ""], ["x, 1:2", "y, 1:2"]]
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[100, 50], [75, 25]]
    assert [label.get_text() for label in figure.axes[3].get_xticklabels()] == ["a\n8", "b\n4"]


def test_no_accuracy_lies_outside_its_panel():
    one = {"class_names": ["a", "b"], "images": [8, 4], "accuracy": {"black box": [1, 0.95]}}
    other = {"class_names": ["a", "b"], "images": [8, 4], "accuracy": {"black box": [0.0, 1.0]}}
    for panels in ({"x": {"1:1": one}, "y": {"1:1": other}}, {"y": {"1:1": other}, "x": {"1:1": one}}):
        for ax in draw_imbalance(Findings((), (), [], {"per class": panels})).axes:
            low, high = ax.get_ylim()
            assert low < 0
            assert high > 100
    assert draw_imbalance(Findings((), (), [], {"per class": {"x": {"1:1": one}}})).axes[0].get_ylim()[0] == 90
