"""Which sections of the scorecard are measured: those that were asked for, as far as their inputs are there."""

from collections.abc import Sequence
from typing import Literal

from lookalike._core.errors import LookalikeError
from lookalike._core.wording import did_you_mean
from lookalike.metrics.sections import SECTIONS, Need, Section

_MISSING = {
    "train": "no training data were given",
    "activations": "no training data were given, and the model does not know how often they activate its prototypes",
    "images": "the test data are no images that can be read again",
    "attributes": "no attributes of the training data were given",
    "masks": "there are no masks of the objects in the test images (masks=)",
    "black box": "there is no black box with these classes to compare with",
    "no black box": "the model has a black box, which it is compared with",
    "whole images": "it is of whole images, and the model's prototypes are patches",
    "clusters": "it clusters again, and this model's prototypes were not clustered",
    "prototype images": "the model has no images of its prototypes",
    "three classes": "it merges classes in pairs, and the model has fewer than three",
    "two classes": "it needs two classes or more, and the model has one",
}


def select_sections(
    only: Sequence[str] | None, available: dict[str, bool], sanity: bool
) -> tuple[list[Section], list[str]]:
    """Returns the sections to measure, and a note for each section without its inputs."""
    if only is not None:
        if isinstance(only, str) or not isinstance(only, Sequence) or not only:
            raise LookalikeError(f"only takes names of sections: {', '.join(SECTIONS)}")
        requested = [SECTIONS[name] for name in dict.fromkeys([*only, *(["sanity"] if sanity else [])])]
        for section in requested:
            missing = _missing(section, available)
            if missing:
                raise LookalikeError(f"{section.name!r} cannot be measured: {_MISSING[missing[0]]}")
        return requested, []
    sections, notes = [], []
    for name in SECTIONS:
        if SECTIONS[name].optional and not (sanity and name == "sanity"):
            continue
        missing = _missing(SECTIONS[name], available)
        if not missing:
            sections.append(SECTIONS[name])
        elif not {"attributes", "masks", "no black box"} & set(missing):
            notes.append(f"section '{name}' was not measured: {_MISSING[missing[0]]}")
    return sections, notes


def select_standard(
    measures: Sequence[str] | Literal["all"] | None, available: dict[str, bool]
) -> tuple[list[Section], list[str]]:
    """Returns the sections of standard measures; for "all", also a note for each without its inputs.

    Raises:
        LookalikeError: If a name is not that of a standard measure, or the inputs of a named one are missing.
    """
    names = [name for name in SECTIONS if SECTIONS[name].optional and name != "sanity"]  # sanity has its own option
    if measures is None:
        return [], []
    if measures == "all":
        lacking = {name: _missing(SECTIONS[name], available) for name in names}
        notes = [f"section '{name}' was not measured: {_MISSING[needs[0]]}" for name, needs in lacking.items() if needs]
        return [SECTIONS[name] for name in names if not lacking[name]], notes
    if isinstance(measures, str) or not isinstance(measures, Sequence) or not measures:
        raise LookalikeError(f"measures takes 'all', or names of standard measures: {', '.join(names)}")
    for name in measures:
        if name not in names:
            hint = did_you_mean(str(name), names) or ";"
            raise LookalikeError(f"no standard measure is called {name!r}{hint} There are: {', '.join(names)}")
    return select_sections(measures, available, sanity=False)


def _missing(section: Section, available: dict[str, bool]) -> list[Need]:
    return [need for need in section.needs if not available[need]]


def uses_train(sections: list[Section]) -> bool:
    """Says whether a section needs or uses the training data's embeddings."""
    return any(need in ("train", "activations") for section in sections for need in (*section.needs, *section.uses))
