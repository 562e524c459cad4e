"""What in the data deserves a second look: wrong labels, duplicates, outliers, faulty prototypes."""

from lookalike.audit.labels import LabelCheck, check_labels
from lookalike.audit.shortcuts import Shortcut, find_shortcuts
from lookalike.audit.suspects import Audit, Suspect, audit, audit_sources

__all__ = ["Audit", "LabelCheck", "Shortcut", "Suspect", "audit", "audit_sources", "check_labels", "find_shortcuts"]
