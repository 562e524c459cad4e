"""Names of a classifier's outputs: reads them from models, checkpoints and users, and compares them."""

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

NATURAL = "natural"  # timm's order of class folders
ClassOrder = Sequence[str] | str | Path | None

_ATTRIBUTES = (  # of models; the most explicit first
    "class_to_idx", "label_to_idx", "label2id", "label2idx", "cat2idx",
    "idx_to_class", "idx_to_label", "id2label", "idx2label", "idx2class", "id2class",
    "class_names", "classnames", "classes",
)  # fmt: skip
_NUMBER_FIRST = ("idx_to", "idx2", "id_to", "id2", "index_to", "int_to")
_ENTRIES = (*_ATTRIBUTES, "label_names", "labels", "categories", "names")  # of checkpoints
_NESTED = (
    "meta", "dataset_meta", "hyper_parameters", "hparams", "config", "cfg", "args", "extra", "info", "metadata", "data",
    "data_cfg", "model_args", "pretrained_cfg", "model", "ema", "net", "network", "module",
)  # fmt: skip
_DEFAULT_LABEL = re.compile(r"LABEL_\d+")
_WORDNET = re.compile(r"(n\d{8})(?:[\s_,:;-]+(.*))?", re.DOTALL)
_MAX_FILE_SIZE = 16 * 2**20  # bytes; a list of class names is much smaller


@dataclass(frozen=True)
class NameMatch:
    """The positions of names in another list.

    Attributes:
        positions: For each name, its position in the other list; −1 if it has none.
        missing: Names that are not in the other list.
        ambiguous: Names that match several entries, or share an entry with another name.
    """

    positions: list[int]
    missing: list[str]
    ambiguous: list[str]

    @property
    def complete(self) -> bool:
        """Whether every name has a position that no other name has."""
        return not self.missing and not self.ambiguous


def match_names(names: Sequence[str], candidates: Sequence[str]) -> NameMatch:
    """Finds names in another list: exact, with different case or separators, or by a synonym.

    ``"tench, Tinca tinca"`` has two synonyms, ``"n01440764 tench"`` a WordNet id and a name; ``"007"`` is ``"7"``.

    Example:
        >>> match_names(["Great_White-Shark", "tench"], ["tench, Tinca tinca", "great white shark"]).positions
        [1, 0]
    """
    if list(names) == list(candidates):
        return NameMatch(list(range(len(names))), [], [])  # names that occur twice stay in their order
    positions, ambiguous = [-1] * len(names), set()
    unmatched = list(range(len(names)))
    # from strict to loose: a name that a strict comparison has matched is not compared again
    for keys in _KEYS_BY_STRICTNESS:
        index: dict[str, set[int]] = {}
        for position, candidate in enumerate(candidates):
            for key in keys(candidate):
                index.setdefault(key, set()).add(position)
        for row in unmatched:
            matches = set().union(*(index.get(key, set()) for key in keys(names[row])))
            if len(matches) == 1:
                positions[row] = matches.pop()
            elif matches:
                ambiguous.add(row)
        unmatched = [row for row in unmatched if positions[row] < 0 and row not in ambiguous]
    n_uses = Counter(positions)
    ambiguous |= {row for row, position in enumerate(positions) if position >= 0 and n_uses[position] > 1}
    return NameMatch(
        [-1 if row in ambiguous else position for row, position in enumerate(positions)],
        [names[row] for row in unmatched],
        [names[row] for row in sorted(ambiguous)],
    )


def natural_order(names: Iterable[str]) -> list[str]:
    """Returns names in timm's order of class folders: 1, 2, 10; ant, Bee, cat.

    Example:
        >>> natural_order(["cat", "Bee", "10", "2", "ant"])
        ['2', '10', 'ant', 'Bee', 'cat']
    """
    return sorted(names, key=lambda name: [_sort_key(run) for run in re.split(r"(\d+)", name.lower())])


def are_numbers(names: Sequence[str]) -> bool:
    """Says whether names are the numbers 0, 1, 2, …, which classes without names get."""
    return list(names) == [str(k) for k in range(len(names))]


def read_class_order(class_order: ClassOrder, class_names: Sequence[str] | None = None) -> list[str] | None:
    """Reads the names of a network's outputs, in their order.

    Args:
        class_order: A list of names, or a text: names separated by commas, a JSON list or mapping, ``"natural"`` for
            the data's names in timm's order, the path of a text file with a line per output, or of a JSON file.
        class_names: The names of the data's classes, for ``"natural"``.

    Returns:
        A name for each output; None without a class order.

    Raises:
        LookalikeError: If the file cannot be read or holds no names, or the text is no class order.
    """
    if class_order is None:
        return None
    if isinstance(class_order, Path) or (isinstance(class_order, str) and _is_file(class_order)):
        return _read_file(Path(class_order))
    if not isinstance(class_order, str):
        return _check_names(class_order, "class_order")
    text = class_order.strip()
    if text == NATURAL:
        if class_names is None:
            raise LookalikeError("the class order 'natural' needs data whose classes have names")
        return natural_order(class_names)
    if text[:1] in ("[", "{"):
        return _from_json(text, "the class order")
    if "," not in text:
        raise LookalikeError(
            f"the class order {class_order!r} is neither a file nor a list of names with commas between, in the order "
            "of the network's outputs; 'natural' is timm's order"
        )
    return _check_names([name.strip() for name in text.split(",")], "the class order")


def check_class_order(outputs: Outputs, names: Sequence[str]) -> Outputs:
    """Returns outputs with the names that a user gave.

    Raises:
        LookalikeError: If there is not one name per class.
    """
    names = _check_names(names, "class_order")
    if len(names) != outputs.n_classes:
        raise LookalikeError(
            f"the class order has {len(names)} names and the network {outputs.n_classes} classes: "
            "give one name for each output, in their order"
        )
    return replace(outputs, names=tuple(names))


def name_outputs(outputs: Outputs, names: Sequence[str] | None) -> Outputs:
    """Returns outputs with the names that came with a model; ignores, with a warning, a wrong number of names."""
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
    """Says whether there are no names, or only placeholders such as LABEL_0."""
    return not names or all(_DEFAULT_LABEL.fullmatch(str(name)) for name in names)


def names_of_model(model: nn.Module, head: str | None = None) -> list[str] | None:
    """Returns the class names in a model's attributes, or in its Hugging Face or timm configuration.

    Args:
        model: A classifier, or a module around one.
        head: The name of its head; configurations of modules without the head are ignored.
    """
    for name in _ATTRIBUTES:
        value = getattr(model, name, None)
        names = None if isinstance(value, nn.Module) else _names_in(value, name)
        if names is not None:
            return names
    for prefix, module in model.named_modules():
        if prefix and not (head or "").startswith(prefix + "."):
            continue
        config = getattr(module, "config", None)
        names = _names_in(getattr(config, "id2label", None), "id2label")
        if names is None:
            pretrained_cfg = getattr(module, "pretrained_cfg", None)
            names = _names_in(pretrained_cfg.get("label_names")) if isinstance(pretrained_cfg, Mapping) else None
        if names is not None:
            return None if is_default(names) else names
    return None


def names_of_checkpoint(content: Any) -> list[str] | None:
    """Returns the class names beside the weights of a checkpoint; None if there are none.

    ``class_to_idx``, ``idx_to_class``, ``id2label``, ``classes`` and the like are read, at the top or in ``meta``,
    ``hyper_parameters``, ``args`` and such.
    """
    if not isinstance(content, Mapping):
        return None
    entries = {str(key).lower(): value for key, value in content.items()}
    for key in _ENTRIES:
        names = _names_in(entries.get(key), key)
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
    """Returns the output names of a published timm model: from its configuration, or of its ImageNet label set."""
    pretrained_cfg = getattr(model, "pretrained_cfg", None) or {}
    names = _names_in(pretrained_cfg.get("label_names"))
    if names is not None:
        return names
    try:
        from timm.data import ImageNetInfo, infer_imagenet_subset

        subset = infer_imagenet_subset(model)
        if not subset:
            return None
        info = ImageNetInfo(subset)
        return [f"{info.index_to_label_name(k)} {info.index_to_description(k)}" for k in range(info.num_classes())]
    except (ImportError, AssertionError, KeyError, OSError):  # an older timm, or a label set that it does not have
        return None


def quote_names(names: Sequence[str]) -> str:
    """Returns the first four names, quoted, and how many more there are."""
    return listing([repr(name) for name in names], 4)


def _names_in(value: Any, key: str = "") -> list[str] | None:
    """Returns names in order, from a list of names or a mapping between names and numbers; None for anything else.

    ``key`` is what the value is called: ``idx_to_class`` tells which of two numbers is a class's name.
    """
    if isinstance(value, str | bytes) or value is None:
        return None
    if isinstance(value, Mapping):
        names = _names_by_number(value, starts_with_number=key.startswith(_NUMBER_FIRST))
        if names is None or set(names) != set(range(len(value))):
            return None
        return [names[k] for k in range(len(names))]
    if isinstance(value, Sequence) and len(value) > 1 and all(isinstance(name, str) for name in value):
        return list(value)
    return None


def _names_by_number(value: Mapping[Any, Any], *, starts_with_number: bool) -> dict[int, str] | None:
    """Reads a mapping in either direction: from names to numbers, or from numbers to names.

    Args:
        value: The mapping.
        starts_with_number: It leads from numbers to names, if both can be numbers.
    """
    if starts_with_number and value and all(isinstance(name, int | str) for name in value.values()):
        try:
            return {int(number): str(name) for number, name in value.items()}
        except (TypeError, ValueError):
            pass  # its name says otherwise, but it leads from names to numbers
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
    except (OSError, ValueError):  # a long list of names is too long for a path
        return False


def _read_file(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _MAX_FILE_SIZE:
            raise LookalikeError(f"{str(path)!r} is too large for a list of class names")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LookalikeError(f"cannot read the class order in {str(path)!r}: {error}") from error
    if text.strip()[:1] in ("[", "{"):
        return _from_json(text, f"the class order in {str(path)!r}")
    return _check_names([line.strip() for line in text.rstrip().splitlines()], f"the class order in {str(path)!r}")


def _from_json(text: str, source: str) -> list[str]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise LookalikeError(f"{source} is no JSON: {error}") from error
    names = _names_in(value) or names_of_checkpoint(value)
    if names is None:
        raise LookalikeError(
            f"{source} must be a JSON list of names, or a mapping from names to the numbers 0, 1, 2, … or back"
        )
    return _check_names(names, source)


def _check_names(names: Any, source: str) -> list[str]:
    """Checks that there is a text for each output; ``source`` names the list in errors."""
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise LookalikeError(f"{source} must be names in the order of the network's outputs, not {names!r:.80}")
    if not names:
        raise LookalikeError(f"{source} holds no names")
    empty = [k for k, name in enumerate(names) if not name.strip()]
    if empty:
        raise LookalikeError(f"{source} has no name for output {empty[0]}: give a name for each output")
    return list(names)


def _exact_keys(name: str) -> set[str]:
    return {name}


def _normalised(name: str) -> str:
    """Returns a name in lower case, with single spaces as separators."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    return " ".join(re.split(r"[\s_\-]+", folded)).strip()


def _normalised_keys(name: str) -> set[str]:
    return {_normalised(name)} - {""}


def _synonyms(name: str) -> set[str]:
    """Returns a name's synonyms: the texts between its commas, its WordNet id, its number without leading zeros."""
    name = name.strip()
    synonyms = {_normalised(name)}
    wordnet = _WORDNET.fullmatch(name)
    if wordnet:
        synonyms.add(wordnet.group(1))
        name = wordnet.group(2) or ""
        synonyms.add(_normalised(name))
    synonyms |= {_normalised(synonym) for synonym in name.split(",")}
    return {str(int(key)) if re.fullmatch(r"[0-9]+", key) else key for key in synonyms if key}


def _without_separators(name: str) -> set[str]:
    """Returns the synonyms of a name without separators: "great white" is "greatwhite"."""
    return {key.replace(" ", "") for key in _synonyms(name)}


_KEYS_BY_STRICTNESS: tuple[Callable[[str], set[str]], ...] = (
    _exact_keys,
    _normalised_keys,
    _synonyms,
    _without_separators,
)


def _sort_key(run: str) -> tuple[int, int, str]:
    """Sorts runs of digits by their number, before other text."""
    return (0, int(run), "") if run.isdecimal() else (1, 0, run)
