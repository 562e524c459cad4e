"""Relevance: which pixels make this look like that."""

from lookalike.relevance.attribution import lrp, prp, stream_lrp, stream_prp
from lookalike.relevance.composites import COMPOSITES, CP_LRP, Composite
from lookalike.relevance.heads import Head, lrp_of_heads
from lookalike.relevance.result import Relevance, RuleUse
from lookalike.relevance.rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, ZPlus

__all__ = [
    "COMPOSITES",
    "CP_LRP",
    "AlphaBeta",
    "Composite",
    "Epsilon",
    "Flat",
    "Gamma",
    "Head",
    "Relevance",
    "Rule",
    "RuleUse",
    "ZPlus",
    "lrp",
    "lrp_of_heads",
    "prp",
    "stream_lrp",
    "stream_prp",
]
