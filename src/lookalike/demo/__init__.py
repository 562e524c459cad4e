"""The demonstration: converts a network trained on real digits, by the same calls as a user's own code."""

from lookalike.demo.run import DemoResult, run_demo, run_pretrained_demo

__all__ = ["DemoResult", "run_demo", "run_pretrained_demo"]
