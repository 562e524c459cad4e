"""What a reader of a heat-map must know of all heat-maps of the model: which of their tests are not passed."""

from typing import Any

from lookalike.metrics.findings import Finding, Level
from lookalike.report.material import Material
from lookalike.report.summary import all_findings

_NOT_TESTED = {
    "pixels": "whether they point to pixels that the model needs",
    "attention": "whether they look where the original looks",
}
_SAYINGS: dict[str, dict[Level, str]] = {
    "pixels": {
        "bad": "they hardly point to pixels that the model needs",
        "caution": "whether they point to pixels that the model needs cannot be said from so few images",
        "hint": "that they point to pixels that the model needs was tested on few images only",
    },
    "attention": {
        "bad": "they do not look where the original looks",
        "caution": "it is not shown that they look where the original looks",
    },
    "sanity": {"bad": "they hardly change when the network is randomised"},
    "objects": {
        "bad": "they look at the background more than at the objects",
        "caution": "it is not shown that they look at the objects",
    },
}


def reservations(material: Material) -> dict[str, Any] | None:
    """Returns what the findings do not show of the heat-maps, and where they say it; None if all of them are good."""
    if not any(entry["near"][0]["map"] for entry in material.examples.entries):
        return None
    first: dict[str, Finding] = {}
    for finding in all_findings(material):
        first.setdefault(finding.topic, finding)  # the weightiest of a topic comes first
    doubted = [first[topic] for topic in _SAYINGS if topic in first and first[topic].level in _SAYINGS[topic]]
    said = [_SAYINGS[finding.topic][finding.level] for finding in doubted]
    asked = [topic for topic in _NOT_TESTED if topic == "pixels" or material.has_original]
    untested = [_NOT_TESTED[topic] for topic in asked if topic not in first]
    if untested:
        said.insert(0, f"{' and '.join(untested)} was not tested")
    if not said:
        return None
    anchor = f"finding-{doubted[0].topic}" if doubted else "summary"
    return {"text": f"Of all heat-maps of this model: {'; '.join(said)}.", "anchor": anchor}
