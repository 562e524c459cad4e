"""The demonstration: converts a network trained on real digits, by the same calls as a user's own code."""

from lookalike.demo.photos import run_photo_demo
from lookalike.demo.result import DemoResult
from lookalike.demo.run import run_demo, run_pretrained_demo

__all__ = ["DemoResult", "run_demo", "run_photo_demo", "run_pretrained_demo"]
