"""Scripts of edits: YAML (or JSON, which is YAML too), read by people and replayed by ``lookalike edit``.

- drop: {prototypes: [3, 7]}
  note: rest on the watermark
- split: {prototype: 2, n: 3}
- add: {class_name: cat, image: photos/cat-17.jpg}
"""

import dataclasses
from pathlib import Path
from typing import Any

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.records import from_json, shown
from lookalike.editing.edits import EDITS, Edit, edit_from_dict
from lookalike.editing.history import Entry
from lookalike.editing.regions import erasure, restriction
from lookalike.editing.session import EditSession

_MOST_BYTES = 2**26


def read_script(path: str | Path) -> list[dict[str, Any]]:
    """Reads a script of edits. Nothing in it is executed.

    Returns:
        The steps: mappings of an edit's name to its arguments, with an optional ``note``.

    Raises:
        LookalikeError: If it is no list of edits; the message names the step.
    """
    import yaml

    path = checks.path("path", path)
    if not path.exists() or path.is_dir():
        raise LookalikeError(f"the script of edits {str(path)!r} does not exist")
    if path.stat().st_size > _MOST_BYTES:
        raise LookalikeError(f"{str(path)!r} is larger than {_MOST_BYTES // 2**20} MiB, which is no script of edits")
    try:
        steps = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise LookalikeError(f"{str(path)!r} is not YAML{where}: {getattr(error, 'problem', error)}") from error
    if not isinstance(steps, list):
        raise LookalikeError(f"{str(path)!r} must be a list of edits, each as '- drop: {{prototypes: [3]}}'")
    for number, step in enumerate(steps, 1):
        _parts_of(step, number)
    return steps


def run_step(session: EditSession, step: dict[str, Any], number: int, base: Path | None = None) -> Entry:
    """Makes one edit of a script.

    Args:
        session: The session.
        step: The step.
        number: Its number, from 1, for messages.
        base: Folder that the paths of images are relative to.

    Raises:
        LookalikeError: If it is not possible; the message names the step.
    """
    name, arguments, note = _parts_of(step, number)
    try:
        return session.do(resolve(session, name, arguments, base), note)
    except LookalikeError as error:
        raise LookalikeError(f"step {number} ({name}): {error}") from error


def resolve(session: EditSession, name: str, arguments: dict[str, Any], base: Path | None = None) -> Edit:
    """Returns an edit, with the vectors that it needs: of an image to add, or of parts of images."""
    if name in ("restrict", "erase"):
        _check_names(name, arguments)
    if name == "add" and "image" in arguments:
        if "vector" in arguments:
            raise LookalikeError("add takes an image or a vector, not both")
        image = arguments["image"]
        path = Path(image) if base is None or not isinstance(image, str) else base / image
        if not isinstance(image, str) or not path.is_file():
            raise LookalikeError(f"there is no image file {shown(image)}")
        vector = session.vector_of(path)
        arguments = {key: value for key, value in arguments.items() if key != "image"} | {"vector": list(vector)}
    if name == "restrict" and arguments.get("vector") is None:
        prototype = from_json(int, arguments.get("prototype"), "prototype")
        region = from_json(tuple[float, float, float, float], arguments.get("region"), "region")
        return restriction(session, prototype, region)
    if name == "erase" and arguments.get("vectors") is None:
        prototypes = from_json(tuple[int, ...], arguments.get("prototypes"), "prototypes")
        region = from_json(tuple[float, float, float, float], arguments.get("region"), "region")
        return erasure(session, prototypes, region, arguments.get("side", "inside"))
    return edit_from_dict({"edit": name, **arguments})


def _check_names(name: str, arguments: dict[str, Any]) -> None:
    """Checks the names of the arguments of an edit whose vectors are still to be found."""
    known = [field.name for field in dataclasses.fields(EDITS[name])]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise LookalikeError(f"{name} has no {unknown[0]!r}; it takes {', '.join(known)}")


def script_of(session: EditSession) -> str:
    """Returns the edits that led to the present state as a script."""
    import yaml

    steps = []
    for entry in session.history.path():
        edit = entry.edit or {}
        defaults = {field.name: field.default for field in dataclasses.fields(EDITS[str(edit["edit"])])}
        # None is an argument of its own where it is no default: it removes a name, or shows the nearest image again
        arguments = {
            key: value
            for key, value in edit.items()
            if key != "edit" and not (value is None and defaults.get(key) is None)
        }
        step: dict[str, Any] = {str((entry.edit or {})["edit"]): _plain(arguments)}
        if entry.note:
            step["note"] = entry.note
        steps.append(step)
    return str(yaml.safe_dump(steps, allow_unicode=True, sort_keys=False, width=120))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _parts_of(step: Any, number: int) -> tuple[str, dict[str, Any], str]:
    """Returns a step's edit, arguments and note."""
    names = [key for key in step if key != "note"] if isinstance(step, dict) else []
    if len(names) != 1 or not isinstance(step[names[0]], dict):
        raise LookalikeError(
            f"step {number} must name one edit with its arguments, as in '- drop: {{prototypes: [3]}}', "
            f"not {shown(step)}"
        )
    if names[0] not in EDITS:
        _ = EDITS[names[0]]  # raises, with the names that there are
    note = step.get("note", "")
    if not isinstance(note, str):
        raise LookalikeError(f"the note of step {number} must be text, not {shown(note)}")
    return names[0], step[names[0]], note
