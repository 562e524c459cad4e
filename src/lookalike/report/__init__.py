"""The report: one HTML file that works offline."""

from lookalike.report.build import write_report
from lookalike.report.commands import Commands

__all__ = ["Commands", "write_report"]
