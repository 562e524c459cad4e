"""Counts, by kind, the files that a listing passed over, so that nothing is left out in silence."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lookalike._core.names import visible

_MAX_EXAMPLES = 5

# The kinds of what is passed over: singular, plural, and what the user can do about it, if anything.
_KINDS: dict[str, tuple[str, str, str]] = {
    "hidden": ("hidden file or folder", "hidden files and folders", ""),
    "system": ("file or folder of a system or an archive", "files and folders of a system or an archive", ""),
    "thumbnail": ("file or folder of thumbnails", "files and folders of thumbnails", ""),
    "other_file": ("file that is no image", "files that are no images", ""),
    "unread_format": (
        "image in a format that is not read",
        "images in formats that are not read",
        "convert them to PNG or JPEG; HEIC is read from Python once pillow_heif.register_heif_opener() was called",
    ),
    "special_file": ("pipe, socket or device", "pipes, sockets and devices", ""),
    "broken_link": ("broken link", "broken links", ""),
    "link_loop": ("link to a folder that contains it", "links to folders that contain them", ""),
    "too_deep": ("folder more than 100 levels down", "folders more than 100 levels down", ""),
    "repeated_folder": ("link to a folder that is read already", "links to folders that are read already", ""),
    "unreadable_folder": ("folder that cannot be read", "folders that cannot be read", "check its permissions"),
    "empty_folder": ("folder without images", "folders without images", ""),
    "loose_image": ("image beside the classes' folders", "images beside the classes' folders", ""),
    "other_folder": ("folder beside the training and test parts", "folders beside the training and test parts", ""),
    "extra_part": ("image of a further part", "images of a further part", "only one part is tested on"),
    "unlabelled": ("image without a class", "images without a class", ""),
    "missing_file": ("row of the table whose file is missing", "rows of the table whose files are missing", ""),
    "no_label": ("row of the table without a class", "rows of the table without a class", ""),
    "repeated_row": ("repeated row of the table", "repeated rows of the table", ""),
}


@dataclass
class PassedOver:
    """Counts of the files and folders that were passed over.

    Attributes:
        counts: Number of files or folders, by kind.
        examples: The first five of each kind, as paths relative to the folder.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str, number: int = 1) -> None:
        """Counts ``number`` files or folders of a kind, of which ``example`` is one."""
        self.counts[kind] = self.counts.get(kind, 0) + number
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _MAX_EXAMPLES:
            examples.append(example)

    def has_examples(self, kind: str) -> bool:
        """Says whether a kind has all the examples that are kept, so that no further path is needed."""
        return len(self.examples.get(kind, ())) >= _MAX_EXAMPLES

    def join(self, other: "PassedOver") -> None:
        """Adds the counts and examples of another listing."""
        for kind, number in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + number
            self.examples[kind] = (self.examples.get(kind, []) + other.examples[kind])[:_MAX_EXAMPLES]

    def take_back(self, kind: str, example: str) -> None:
        """Removes one file or folder from the counts."""
        self.counts[kind] -= 1
        if example in self.examples[kind]:
            self.examples[kind].remove(example)
        if not self.counts[kind]:
            del self.counts[kind], self.examples[kind]

    def __bool__(self) -> bool:
        return bool(self.counts)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values: a count and a few examples for each kind."""
        return {kind: {"count": self.counts[kind], "examples": list(self.examples[kind])} for kind in self._kinds()}

    def sentences(self) -> tuple[str, ...]:
        """Returns one sentence per kind about what was passed over."""
        return tuple(self._sentence(kind) for kind in self._kinds())

    def _sentence(self, kind: str) -> str:
        singular, plural, remedy = _KINDS[kind]
        number = self.counts[kind]
        example = f", such as '{visible(self.examples[kind][0])}'" if self.examples[kind] else ""
        example = example.replace("such as ", "") if number == 1 else example
        return f"passed over {number:,} {singular if number == 1 else plural}{example}" + (
            f": {remedy}" if remedy else ""
        )

    def _kinds(self) -> Iterator[str]:
        return (kind for kind in _KINDS if kind in self.counts)
