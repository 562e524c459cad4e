"""The sections of a report, in order.

To add one: write a function that takes the ``Material`` and returns the values of a template, or None to leave the
section out; put the template into ``templates/sections/NAME.html``; and add a line to ``SECTIONS``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from lookalike.report.about import about
from lookalike.report.charts import charts
from lookalike.report.classes import classes, mistakes
from lookalike.report.duplicates import duplicates
from lookalike.report.key import TERMS
from lookalike.report.material import Material
from lookalike.report.next_steps import next_steps
from lookalike.report.page import RenderedSection
from lookalike.report.parts import parts
from lookalike.report.prototypes import prototypes_by_class
from lookalike.report.reliance import reliance
from lookalike.report.summary import summary
from lookalike.report.weakness import weakest
from lookalike.report.words import unfamiliar_means


class Section(NamedTuple):
    """A section: its id, which is also its template's name; its heading; and what returns its template's values."""

    name: str
    title: str
    values: Callable[[Material], dict[str, Any] | None]


def _prototypes(material: Material) -> dict[str, Any]:
    gallery = prototypes_by_class(
        material.explainer,
        material.card,
        material.decisions,
        material.train,
        material.train_store,
        with_maps=material.extras.prototype_maps,
    )
    is_unused = [prototype["ghost"] for each in gallery for prototype in each["prototypes"]]
    return {
        "classes": gallery,
        "has_unused": any(is_unused),
        "of_patches": material.model.has_patches,
        "why_no_training": "" if material.train is not None else material.why_no_training,
        "why_not_taken": _why_not_taken(material),
    }


def _why_not_taken(material: Material) -> str:
    """Returns why the images of other classes that a prototype takes are not shown."""
    if material.model.has_patches:
        return "this model compares parts of images"
    return material.why_no_training or "they cannot be read again, or there are too many prototypes"


def _what_is_a_prototype(material: Material) -> dict[str, Any]:
    return {
        "converted": material.model.classifier.name == "nearest-prototype",
        "has_original": material.has_original,
        "unfamiliar": unfamiliar_means(material.model),
        "of_patches": material.model.has_patches,
    }


def _key(material: Material) -> dict[str, Any]:
    return {"terms": TERMS, "of_patches": material.model.has_patches}


def _browse(material: Material) -> dict[str, Any]:
    return {
        "n_shown": len(material.examples.entries),
        "n_test": len(material.decisions.labels),
        "has_original": material.has_original,
        "has_copies": any(entry["is_copy"] for entry in material.examples.entries),
        "class_names": material.model.class_names,
        "rule": material.explainer.rule,
        "unfamiliar": unfamiliar_means(material.model),
    }


SECTIONS = (
    Section("summary", "At a glance", summary),
    Section("next", "What to do next", next_steps),
    Section("reliance", "When may I rely on it?", reliance),
    Section("mistakes", "What it got wrong", mistakes),
    Section("weakest", "Why is the weakest class weak?", weakest),
    Section("duplicates", "Near duplicates", duplicates),
    Section("classes", "Class by class", classes),
    Section("reading", "What is a prototype?", _what_is_a_prototype),
    Section("prototypes", "The prototypes", _prototypes),
    Section("parts", "Which part decides?", parts),
    Section("browse", "Test images", _browse),
    Section("charts", "Figures and charts", charts),
    Section("key", "Words and symbols", _key),
    Section("about", "About this report", about),
)


def render_sections(material: Material) -> list[RenderedSection]:
    """Returns the sections that have something to show."""
    found = ((section, section.values(material)) for section in SECTIONS)
    return [RenderedSection(section.name, section.title, values) for section, values in found if values is not None]
