"""The report: one HTML file that works offline."""

from lookalike.report.build import write_report

__all__ = ["write_report"]
