"""The paper's tables and figures, each by one command."""

from lookalike.experiments import (
    calibration,
    controls,
    embedding_map,
    how_many,
    imbalance,
    large,
    parts,
    pictures,
    prp_rules,
    side_by_side,
    trained_attributes,
    variants,
)
from lookalike.experiments.cells import Cells
from lookalike.experiments.experiment import (
    EXPERIMENTS,
    Experiment,
    Findings,
    Plan,
    describe,
    draw_findings,
    read_findings,
    with_data,
    write_findings,
)
from lookalike.experiments.workbench import MODELS, Subject, Workbench

__all__ = [
    "EXPERIMENTS",
    "MODELS",
    "Cells",
    "Experiment",
    "Findings",
    "Plan",
    "Subject",
    "Workbench",
    "calibration",
    "controls",
    "describe",
    "draw_findings",
    "embedding_map",
    "how_many",
    "imbalance",
    "large",
    "parts",
    "pictures",
    "prp_rules",
    "read_findings",
    "side_by_side",
    "trained_attributes",
    "variants",
    "with_data",
    "write_findings",
]
