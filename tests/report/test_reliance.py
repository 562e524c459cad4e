"""The report's section on a calibrated model."""

import pytest
import torch
from torch import nn

from lookalike import convert
from lookalike._core.wording import UNFAMILIAR_BY_DISTANCE
from lookalike.data import Preprocessing
from lookalike.plots import plot_rejection, plot_reliability
from lookalike.report import write_report
from tests.model.test_doubt import images


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 3))
    plain = Preprocessing(None, None, mean=(0.0,), std=(1.0,))
    return convert(net, images(300, 2), n_prototypes=2, preprocessing=plain, progress=False)


def test_a_calibrated_model_says_when_it_may_be_relied_on(model, tmp_path):
    options = {"n_images": 4, "n_steps": 2, "n_draws": 1, "n_browse": 4, "progress": False}
    options["only"] = ("faithfulness", "calibration")
    for name, shown in (("plain", model), ("calibrated", model.calibrate(images(600, 3)))):
        write_report(shown, images(60, 4), tmp_path / f"{name}.html", **options)
    plain, calibrated = ((tmp_path / f"{name}.html").read_text() for name in ("plain", "calibrated"))
    assert "When may I rely on it?" not in plain
    assert "is a hint that this is so, not a guarantee" in plain
    assert "When may I rely on it?" in calibrated
    novel = "its novelty score is higher than that of nearly all validation images. The"
    farther = f"{UNFAMILIAR_BY_DISTANCE}. The"
    assert (novel in calibrated, novel in plain) == (True, False)
    assert (farther in calibrated, farther in plain) == (False, True)
    assert "For 95% of new images the true class is among them" in calibrated
    assert "this model, test images" in calibrated
    assert "temperature</a>, test images" in calibrated
    assert "The first rows are measured on the 60 test images, the others on 400 of the calibration" in calibrated
    assert "coverage" in calibrated.split('id="data"')[-1]
    assert calibrated.count("<svg") >= plain.count("<svg") + 2


def test_figures_show_every_bin_and_the_whole_curve():
    ax = plot_reliability([None, 0.4, 0.9], [None, 0.5, 0.95], [0, 10, 90])
    assert len(ax.collections[0].get_offsets()) == 2
    assert ax.collections[0].get_offsets()[1].tolist() == [0.9, 0.95]
    ax = plot_rejection([0.5, 1.0], [1.0, 0.9], 0.5)
    assert ax.lines[0].get_ydata().tolist() == [100.0, 90.0]
