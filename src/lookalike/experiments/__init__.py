"""The paper's tables and figures, each by one command."""

from lookalike.experiments import baselines
from lookalike.experiments.cells import Cells
from lookalike.experiments.experiment import EXPERIMENTS, Experiment, Findings, Plan, read_findings, write_findings
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
    "baselines",
    "read_findings",
    "write_findings",
]
