"""Which folders are the parts of a data set, by their names: ``train``, ``Training_set``, ``seg_test``, ``valid``."""

import re
from collections.abc import Sequence
from typing import Literal

from lookalike._core.names import name_key

PartName = Literal["train", "test", "val"]

_WORDS: dict[PartName, str] = {
    "train": "train|trainings?|trn|learn|learning|entra[iî]nement|apprentissage|entrenamiento|treinamento|treino|"
    "addestramento",
    "test": "tests?|testing|tst|holdout|evaluation|eval|prueba|teste",
    "val": "val|valid|validation|validate|validating|dev|development|validierung|validaci[oó]n|valida[cç][aã]o",
}
_FILLERS = (
    "set|sets|seg|images?|imgs?|data|dataset|split|folder|dir|files?|pictures?|pics?|photos?|part|samples?|subset|"
    "daten|bilder|jpe?gs?|pngs?|new|final|all|cropped|resized|full|small|x"
)
_COMPOUND = {part: re.compile(rf"(?:{_FILLERS})*(?:{words})(?:{_FILLERS})*") for part, words in _WORDS.items()}
_FILLER = re.compile(rf"(?:{_FILLERS})+|\d+")
_NO_CLASS = re.compile(rf"(?:{_FILLERS})+|unknown|unlabell?ed|none|pred|predict|predictions?")
_ANNOTATION = r"masks?|labels?|annotations?|gt|ground|truth|segmentations?"
_GROUP = re.compile(rf"(?:{_FILLERS}|{_ANNOTATION}|originals?|augmented|raw|processed|folds?|k|batch|group)+|\d+")


def part_of(name: str) -> PartName | None:
    """Returns which part a name stands for, taken alone.

    Example:
        >>> [part_of(name) for name in ("Train", "seg_test", "TrainingSet", "valid", "trainee", "test_tube")]
        ['train', 'test', 'train', 'val', None, None]
    """
    part, rest = _parse(name)
    return part if not rest else None


def parts_of(names: Sequence[str]) -> dict[str, PartName]:
    """Returns which of some neighbouring folders are parts.

    A name with another word in it, such as ``flowers_train``, is a part if a neighbour has it too: ``flowers_test``.
    """
    parsed = {name: _parse(name) for name in names}
    roles: dict[str, PartName] = {}
    for name, (part, rest) in parsed.items():
        others = {other for other, others_rest in parsed.values() if others_rest == rest and other is not None}
        if part is not None and (not rest or len(others) > 1):
            roles[name] = part
    return roles


def says_no_class(name: str) -> bool:
    """Says whether a single folder's name inside a part stands for no class.

    Example:
        >>> [says_no_class(name) for name in ("images", "test", "unknown", "cat")]
        [True, True, True, False]
    """
    return part_of(name) is not None or all(_NO_CLASS.fullmatch(word) for word in _tokens(name))


def words_beside(names: Sequence[str]) -> set[tuple[str, ...]]:
    """Returns the words that names of parts have beside the part's: ``cats_train`` and ``dogs_train`` have two."""
    return {_parse(name)[1] for name in names}


def are_groups(names: Sequence[str], *, nested: bool) -> bool:
    """Says whether names stand for groups of the same images rather than for classes.

    Args:
        names: Of neighbouring folders.
        nested: Whether the same folders are in each: then years and folds are groups too.

    Example:
        >>> are_groups(["images", "masks"], nested=False), are_groups(["0", "1"], nested=False)
        (True, False)
        >>> are_groups(["fold1", "fold2"], nested=True), are_groups(["cat", "dog"], nested=True)
        (True, False)
    """
    if len(names) < 2:
        return False
    words = [token for name in names for token in _tokens(name)]
    if nested:
        return all(_GROUP.fullmatch(word) for word in words)
    plain = re.compile(rf"(?:{_FILLERS}|{_ANNOTATION})+")
    return all(plain.fullmatch(word) for word in words) and any(re.fullmatch(_ANNOTATION, word) for word in words)


def _parse(name: str) -> tuple[PartName | None, tuple[str, ...]]:
    """Returns the part that a name speaks of, and its other words."""
    words = _tokens(name)
    spoken = {word: part for word in words for part, pattern in _COMPOUND.items() if pattern.fullmatch(word)}
    rest = tuple(word for word in words if word not in spoken and not _FILLER.fullmatch(word))
    if rest == ("trainval",) or set(spoken.values()) == {"train", "val"}:
        return "train", tuple(word for word in rest if word != "trainval")
    return (next(iter(spoken.values())), rest) if len(set(spoken.values())) == 1 else (None, tuple(words))


def _tokens(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name_key(name))
    return re.findall(r"[^\W\d_]+|\d+", spaced.casefold())
