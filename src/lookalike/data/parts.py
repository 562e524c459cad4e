"""Recognises a data set's parts by the names of folders: ``train``, ``Training_set``, ``seg_test``, ``valid``."""

import re
from collections.abc import Sequence
from typing import Literal

from lookalike._core.names import name_key

PartName = Literal["train", "test", "val"]

# The part's own words, in English, German, French, Spanish, Portuguese and Italian.
_WORDS: dict[PartName, str] = {
    "train": "train|trainings?|trn|learn|learning|entra[iî]nement|apprentissage|entrenamiento|treinamento|treino|"
    "addestramento",
    "test": "tests?|testing|tst|holdout|evaluation|eval|prueba|teste",
    "val": "val|valid|validation|validate|validating|dev|development|validierung|validaci[oó]n|valida[cç][aã]o",
}
# Words that may stand beside them without meaning: "seg_train", "train_images_resized".
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
    """Returns the part that a folder's name stands for on its own, or None.

    Example:
        >>> [part_of(name) for name in ("Train", "seg_test", "TrainingSet", "valid", "trainee", "test_tube")]
        ['train', 'test', 'train', 'val', None, None]
    """
    part_name, other_words = _parse(name)
    return part_name if not other_words else None


def parts_of(names: Sequence[str]) -> dict[str, PartName]:
    """Returns the part of each folder that is one, by name, for the names of neighbouring folders.

    A name with a further word, such as ``flowers_train``, is a part if a neighbour has the same word:
    ``flowers_test``.
    """
    parsed = {name: _parse(name) for name in names}
    roles: dict[str, PartName] = {}
    for name, (part_name, other_words) in parsed.items():
        parts_with_same_words = {p for p, words in parsed.values() if words == other_words and p is not None}
        if part_name is not None and (not other_words or len(parts_with_same_words) > 1):
            roles[name] = part_name
    return roles


def is_no_class_name(name: str) -> bool:
    """Says whether the name of a single folder inside a part is no class name.

    Example:
        >>> [is_no_class_name(name) for name in ("images", "test", "unknown", "cat")]
        [True, True, True, False]
    """
    return part_of(name) is not None or all(_NO_CLASS.fullmatch(word) for word in _tokens(name))


def further_words(names: Sequence[str]) -> set[tuple[str, ...]]:
    """Returns the further words in names of parts: (cats,) and (dogs,) for ``cats_train`` and ``dogs_train``."""
    return {_parse(name)[1] for name in names}


def are_groups(names: Sequence[str], *, nested: bool) -> bool:
    """Says whether folders are groups of the same images, such as ``images`` and ``masks``, and not classes.

    Args:
        names: Names of neighbouring folders.
        nested: Whether each folder contains the same sub-folders: then years and folds are groups too.

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
    image_or_annotation = re.compile(rf"(?:{_FILLERS}|{_ANNOTATION})+")
    return all(image_or_annotation.fullmatch(word) for word in words) and any(
        re.fullmatch(_ANNOTATION, word) for word in words
    )


def _parse(name: str) -> tuple[PartName | None, tuple[str, ...]]:
    """Returns the part that a name mentions, or None, and the name's further words."""
    words = _tokens(name)
    part_of_word = {word: p for word in words for p, pattern in _COMPOUND.items() if pattern.fullmatch(word)}
    mentioned = set(part_of_word.values())
    other_words = tuple(word for word in words if word not in part_of_word and not _FILLER.fullmatch(word))
    if other_words == ("trainval",) or mentioned == {"train", "val"}:  # training and validation images together
        return "train", tuple(word for word in other_words if word != "trainval")
    return (mentioned.pop(), other_words) if len(mentioned) == 1 else (None, tuple(words))


def _tokens(name: str) -> list[str]:
    """Splits a name into lower-case words and numbers, also at the capitals of ``TrainingSet``."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name_key(name))
    return re.findall(r"[^\W\d_]+|\d+", spaced.casefold())
