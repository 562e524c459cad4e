"""The demonstration: real digits, a real network, and nothing that a user would not do."""

from lookalike.demo.run import DemoResult, run_demo, run_pretrained_demo

__all__ = ["DemoResult", "run_demo", "run_pretrained_demo"]
