"""Gathers what there is to show of a model, and renders it into one page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack, get_type_hints

from torch import nn

from lookalike._core import checks
from lookalike._core.files import PAGE_BEGINS, check_writable, write_whole
from lookalike._core.names import visible
from lookalike._core.untouched import keeps_random_states
from lookalike._core.wording import counted
from lookalike.encoder import LoadedClassifier
from lookalike.metrics import EvaluationOptions, Scorecard
from lookalike.model import PrototypeModel
from lookalike.report.commands import Commands
from lookalike.report.gathering import Gathering
from lookalike.report.material import Material
from lookalike.report.page import render
from lookalike.report.prototypes import prototype_entries
from lookalike.report.reservations import reservations
from lookalike.report.sections import render_sections
from lookalike.report.words import unfamiliar_means


class ReportOptions(EvaluationOptions, total=False):
    """The keyword options of ``write_report``: its own, and those of ``evaluate``."""

    title: str
    n_browse: int
    n_maps: int
    n_nearest: int
    intended_use: str | None
    command: str | None
    commands: Commands
    only: Sequence[str] | None
    seed: int
    resume: str | Path | None


@keeps_random_states
def write_report(
    model: PrototypeModel,
    test: Any,
    path: str | Path,
    *,
    train: Any = None,
    black_box: nn.Module | LoadedClassifier | None = None,
    card: Scorecard | None = None,
    overwrite: bool = False,
    **options: Unpack[ReportOptions],
) -> Scorecard:
    """Writes one HTML file that shows a model's prototypes, its decisions and its scores. The file works offline.

    Args:
        model: Prototype model.
        test: Test images with labels: as for ``evaluate``. A folder or a ``DataBundle`` also
            provides the training data.
        path: File to write. It appears only when it is complete.
        train: Training data, for ghosting and the nearest training images.
        black_box: Classifier to compare with; None takes the one that was converted.
        card: Scorecard of the same model and data, if ``evaluate`` has been called already.
        overwrite: Replace the file if it exists.
        **options: By name: ``title`` of the page; ``n_browse``, the largest number of test images to show, and
            ``n_maps``, the number of these with heat-maps, of which wrong and disagreeing ones come first;
            ``n_nearest``, the number of prototypes to show for each; ``intended_use`` and ``command``, texts for the
            reader; ``commands``, the model's folder and the data's for the commands that the page names; and the
            options of ``evaluate``, of which ``n_images`` is 30 and ``n_draws`` 1 by default. With ``rule="share"`` the
            report also shows how stable its heat-maps are.

    Returns:
        The scorecard shown in the report.

    Raises:
        LookalikeError: If the file exists, the test data are not images, or the scorecard is of another model or of
            other test data, or options ask for figures beside it.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    path = checks.path("path", path)
    check_writable(path, checks.flag("overwrite", overwrite), begins=PAGE_BEGINS)
    checks.optional(checks.instance, "card", card, Scorecard, "a Scorecard")
    checks.option_names("write_report", options, get_type_hints(ReportOptions))
    material = Gathering(model, test, train, black_box, card, options).material()
    write_whole(path, _page_of(material), replace=overwrite)
    return material.card


def _page_of(material: Material) -> str:
    """Renders the whole page."""
    model = material.model
    subtitle = (
        f"{counted(len(model.prototypes), 'prototype')} of {counted(model.n_classes, 'class', 'classes')} · "
        f"{counted(len(material.decisions.labels), 'test image')}"
    )
    data = {
        "classes": [visible(name) for name in model.class_names],
        "prototypes": prototype_entries(model, material.decisions),
        "samples": material.examples.entries,
        "unfamiliar": unfamiliar_means(model),
        "reservations": reservations(material),
    }
    return render(material.page.title, subtitle, render_sections(material), data)
