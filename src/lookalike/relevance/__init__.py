"""Relevance: which pixels make this look like that?"""

from lookalike.relevance.attribution import Head, lrp, lrp_of_heads, prp, stream_lrp, stream_prp
from lookalike.relevance.composites import COMPOSITES, CP_LRP, Composite
from lookalike.relevance.result import Relevance, RuleUse
from lookalike.relevance.rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, ZPlus
from lookalike.relevance.similarity_layer import DEFAULT_RULE, PRP_RULES, PrpRule, prp_rule
from lookalike.relevance.stability import prp_stability

__all__ = [
    "COMPOSITES",
    "CP_LRP",
    "DEFAULT_RULE",
    "PRP_RULES",
    "AlphaBeta",
    "Composite",
    "Epsilon",
    "Flat",
    "Gamma",
    "Head",
    "PrpRule",
    "Relevance",
    "Rule",
    "RuleUse",
    "ZPlus",
    "lrp",
    "lrp_of_heads",
    "prp",
    "prp_rule",
    "prp_stability",
    "stream_lrp",
    "stream_prp",
]
