"""The names of a classifier's outputs: where they are written, how they are compared, how a user gives them."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from lookalike._core.errors import LookalikeError, listing, warn_of
from lookalike.encoder.outputs import Outputs

NATURAL = "natural"  # the order in which timm numbers folders
ClassOrder = Sequence[str] | str | Path | None

_ATTRIBUTES = (  # of models; the most explicit first
    "class_to_idx", "label_to_idx", "label2id", "label2idx", "cat2idx",
    "idx_to_class", "idx_to_label", "id2label", "idx2label", "idx2class", "id2class",
    "class_names", "classnames", "classes",
)  # fmt: skip
_ENTRIES = (*_ATTRIBUTES, "label_names", "labels", "categories", "names")  # of checkpoints
_NESTED = (
    "meta", "dataset_meta", "hyper_parameters", "hparams", "config", "cfg", "args", "extra", "info", "metadata", "data",
    "data_cfg", "model_args", "pretrained_cfg", "model", "ema", "net", "network", "module",
)  # fmt: skip
_DEFAULT_LABEL = re.compile(r"LABEL_\d+")
_WORDNET = re.compile(r"(n\d{8})(?:[\s_,:;-]+(.*))?", re.DOTALL)
_LARGEST_FILE = 16 * 2**20


@dataclass(frozen=True)
class NameMatch:
    """Which names of one list are which of another.

    Attributes:
        positions: For each name that was looked for, its position in the other list; −1 if it has none.
        missing: Names that are not there.
        ambiguous: Names that several could be.
    """

    positions: list[int]
    missing: list[str]
    ambiguous: list[str]

    @property
    def complete(self) -> bool:
        """Whether every name has its own position."""
        return not self.missing and not self.ambiguous


def match_names(names: Sequence[str], others: Sequence[str]) -> NameMatch:
    """Finds names in another list: written alike, or with other case and separators, or by a synonym.

    ``"tench, Tinca tinca"`` has two synonyms, ``"n01440764 tench"`` a WordNet id and a name; ``"007"`` is ``"7"``.

    Example:
        >>> match_names(["Great_White-Shark", "tench"], ["tench, Tinca tinca", "great white shark"]).positions
        [1, 0]
    """
    if list(names) == list(others):
        return NameMatch(list(range(len(names))), [], [])  # names that occur twice stay in their order
    positions, ambiguous = [-1] * len(names), set()
    left = range(len(names))
    for keys in _LEVELS:
        index: dict[str, set[int]] = {}
        for position, other in enumerate(others):
            for key in keys(other):
                index.setdefault(key, set()).add(position)
        for row in left:
            near = set().union(*(index.get(key, set()) for key in keys(names[row])))
            if len(near) == 1:
                positions[row] = near.pop()
            elif near:
                ambiguous.add(row)
        left = [row for row in left if positions[row] < 0 and row not in ambiguous]  # type: ignore[assignment]
    times = Counter(positions)
    ambiguous |= {row for row, position in enumerate(positions) if position >= 0 and times[position] > 1}
    return NameMatch(
        [-1 if row in ambiguous else position for row, position in enumerate(positions)],
        [names[row] for row in left],
        [names[row] for row in sorted(ambiguous)],
    )


def natural_order(names: Iterable[str]) -> list[str]:
    """Returns names in the order in which timm numbers folders: 1, 2, 10; ant, Bee, cat.

    Example:
        >>> natural_order(["cat", "Bee", "10", "2", "ant"])
        ['2', '10', 'ant', 'Bee', 'cat']
    """
    return sorted(names, key=lambda name: [_digits(part) for part in re.split(r"(\d+)", name.lower())])


def are_numbers(names: Sequence[str]) -> bool:
    """Says whether names are those of classes without names: the numbers from 0 on."""
    return list(names) == [str(k) for k in range(len(names))]


def read_class_order(given: ClassOrder, class_names: Sequence[str] | None = None) -> list[str] | None:
    """Reads the names of a network's outputs, in their order.

    Args:
        given: Names; or a text: names with commas between, a JSON list or mapping, ``"natural"`` for the data's names
            as timm orders them, or the name of a text file with a line per output, or of a JSON file.
        class_names: The data's names, for ``"natural"``.

    Returns:
        A name for each output; None if nothing was given.

    Raises:
        LookalikeError: If a file cannot be read, or there are no names in it.
    """
    if given is None:
        return None
    if isinstance(given, Path) or (isinstance(given, str) and _is_file(given)):
        return _read_file(Path(given))
    if not isinstance(given, str):
        return _checked(given, "class_order")
    text = given.strip()
    if text == NATURAL:
        if class_names is None:
            raise LookalikeError("the class order 'natural' needs data whose classes have names")
        return natural_order(class_names)
    if text[:1] in ("[", "{"):
        return _from_json(text, "the class order")
    if "," not in text:
        raise LookalikeError(
            f"the class order {given!r} is neither a file nor a list of names with commas between, in the order of "
            "the network's outputs; 'natural' is timm's order"
        )
    return _checked([name.strip() for name in text.split(",")], "the class order")


def check_class_order(outputs: Outputs, names: Sequence[str]) -> Outputs:
    """Returns outputs with the names that a user gave them.

    Raises:
        LookalikeError: If there are not as many names as classes.
    """
    names = _checked(names, "class_order")
    if len(names) != outputs.n_classes:
        raise LookalikeError(
            f"the class order has {len(names)} names and the network {outputs.n_classes} classes: "
            "give one name for each output, in their order"
        )
    return replace(outputs, names=tuple(names))


def name_outputs(outputs: Outputs, names: Sequence[str] | None) -> Outputs:
    """Returns outputs with the names that came with a model; names of another number of classes are left out."""
    if names is None or is_default(names):
        return outputs
    if len(names) != outputs.n_classes:
        warn_of(
            f"the model comes with the names of {len(names)} classes and has {outputs.n_classes}: "
            "they are not used; name its outputs with --class-order (class_order=)"
        )
        return outputs
    return replace(outputs, names=tuple(map(str, names)))


def is_default(names: Sequence[str]) -> bool:
    """Says whether names are placeholders such as LABEL_0, or none."""
    return not names or all(_DEFAULT_LABEL.fullmatch(str(name)) for name in names)


def names_of_model(model: nn.Module, head: str | None = None) -> list[str] | None:
    """Returns the class names that a model has with it: in a Hugging Face or timm configuration, or an attribute.

    Args:
        model: A classifier, or a module around one.
        head: The name of its head: configurations of modules that do not hold it say nothing.
    """
    for name in _ATTRIBUTES:
        value = getattr(model, name, None)
        names = None if isinstance(value, nn.Module) else _names_in(value)
        if names is not None:
            return names
    for prefix, module in model.named_modules():
        if prefix and not (head or "").startswith(prefix + "."):
            continue
        config = getattr(module, "config", None)
        names = _names_in(getattr(config, "id2label", None))
        if names is None:
            described = getattr(module, "pretrained_cfg", None)
            names = _names_in(described.get("label_names")) if isinstance(described, Mapping) else None
        if names is not None:
            return None if is_default(names) else names
    return None


def names_of_checkpoint(content: Any) -> list[str] | None:
    """Returns the class names in what a checkpoint file holds, beside its weights; None without any.

    ``class_to_idx``, ``idx_to_class``, ``id2label``, ``classes`` and the like are read, at the top or in ``meta``,
    ``hyper_parameters``, ``args`` and such.
    """
    if not isinstance(content, Mapping):
        return None
    entries = {str(key).lower(): value for key, value in content.items()}
    for key in _ENTRIES:
        names = _names_in(entries.get(key))
        if names is not None and not is_default(names):
            return names
    for key in _NESTED:
        names = names_of_checkpoint(entries.get(key))
        if names is not None:
            return names
    return None


def names_of_metadata(metadata: Mapping[str, str] | None) -> list[str] | None:
    """Returns the class names in the metadata of a safetensors file, whose values are texts."""
    values: dict[str, Any] = {}
    for key, text in (metadata or {}).items():
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = [name.strip() for name in text.split(",")] if "," in text else None
    return names_of_checkpoint(values)


def names_of_timm(model: Any) -> list[str] | None:
    """Returns the names of a published timm model's outputs: its own, or those of the ImageNet set of that size."""
    described = getattr(model, "pretrained_cfg", None) or {}
    names = _names_in(described.get("label_names"))
    if names is not None:
        return names
    try:
        from timm.data import ImageNetInfo, infer_imagenet_subset

        subset = infer_imagenet_subset(model)
        if not subset:
            return None
        info = ImageNetInfo(subset)
        return [f"{info.index_to_label_name(k)} {info.index_to_description(k)}" for k in range(info.num_classes())]
    except (ImportError, AssertionError, KeyError, OSError):  # an older timm, or a set that it does not describe
        return None


def some_names(names: Sequence[str], most: int = 4) -> str:
    """Returns the first names, quoted, and how many more there are."""
    return listing([repr(name) for name in names], most)


def _names_in(value: Any) -> list[str] | None:
    """Returns names by number, of a list of names or a mapping from name to number or from number to name."""
    if isinstance(value, str | bytes) or value is None:
        return None
    if isinstance(value, Mapping):
        pairs = _numbered(value)
        if pairs is None or set(pairs) != set(range(len(value))):
            return None
        return [pairs[k] for k in range(len(pairs))]
    if isinstance(value, Sequence) and len(value) > 1 and all(isinstance(name, str) for name in value):
        return list(value)
    return None


def _numbered(value: Mapping[Any, Any]) -> dict[int, str] | None:
    if all(isinstance(number, int) and not isinstance(number, bool) for number in value.values()):
        return {int(number): str(name) for name, number in value.items()} if value else None
    if not all(isinstance(name, str) for name in value.values()):
        return None
    try:
        return {int(number): str(name) for number, name in value.items()}
    except (TypeError, ValueError):
        return None


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a long list of names is no file's name
        return False


def _read_file(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise LookalikeError(f"{str(path)!r} is too large for a list of class names")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LookalikeError(f"cannot read the class order in {str(path)!r}: {error}") from error
    if text.strip()[:1] in ("[", "{"):
        return _from_json(text, f"the class order in {str(path)!r}")
    return _checked([line.strip() for line in text.rstrip().splitlines()], f"the class order in {str(path)!r}")


def _from_json(text: str, what: str) -> list[str]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise LookalikeError(f"{what} is no JSON: {error}") from error
    names = _names_in(value) or names_of_checkpoint(value)
    if names is None:
        raise LookalikeError(
            f"{what} must be a JSON list of names, or a mapping from names to the numbers 0, 1, 2, … or back"
        )
    return _checked(names, what)


def _checked(names: Any, what: str) -> list[str]:
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise LookalikeError(f"{what} must be names in the order of the network's outputs, not {names!r:.80}")
    if not names:
        raise LookalikeError(f"{what} holds no names")
    empty = [k for k, name in enumerate(names) if not name.strip()]
    if empty:
        raise LookalikeError(f"{what} has no name for output {empty[0]}: give a name for each output")
    return list(names)


def _exact(name: str) -> set[str]:
    return {name}


def _plain(name: str) -> str:
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    return " ".join(re.split(r"[\s_\-]+", folded)).strip()


def _alike(name: str) -> set[str]:
    return {_plain(name)} - {""}


def _synonyms(name: str) -> set[str]:
    """Returns all that a name may be called: its parts between commas, its WordNet id, its number."""
    name = name.strip()
    found = {_plain(name)}
    wordnet = _WORDNET.fullmatch(name)
    if wordnet:
        found.add(wordnet.group(1))
        name = wordnet.group(2) or ""
        found.add(_plain(name))
    found |= {_plain(part) for part in name.split(",")}
    return {str(int(key)) if re.fullmatch(r"[0-9]+", key) else key for key in found if key}


def _joined(name: str) -> set[str]:
    return {key.replace(" ", "") for key in _synonyms(name)}


_LEVELS: tuple[Callable[[str], set[str]], ...] = (_exact, _alike, _synonyms, _joined)


def _digits(part: str) -> tuple[int, int, str]:
    return (0, int(part), "") if part.isdecimal() else (1, 0, part)
