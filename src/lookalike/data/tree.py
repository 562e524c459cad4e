"""A folder's tree, read level by level when asked for: what is an image, what is a folder, what is passed over."""

import errno
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from lookalike._core.errors import LookalikeError
from lookalike._core.names import text_of
from lookalike.data.formats import is_image
from lookalike.data.passed_over import PassedOver

# Names as systems, NAS boxes and archivers give them, in lower case.
_THUMBNAILS = frozenset({"@eadir", ".thumbnails", ".thumb", ".thumbs", ".@__thumb", "thumbs.db", "ehthumbs.db"})
_SYSTEM_WORDS = (
    "__macosx .ds_store desktop.ini .ipynb_checkpoints lost+found #recycle @recycle $recycle.bin recycler #snapshot "
    "@recently-snapshot .snapshot .snapshots .trash .trashes .fseventsd .spotlight-v100 .temporaryitems .appledouble "
    ".apdisk .git .svn .hg .dvc __pycache__ .pytest_cache .streams @tmp .syncthing .stfolder"
)
_SYSTEM = frozenset(_SYSTEM_WORDS.split()) | {"system volume information", "icon\r"}
_RUBBISH = dict.fromkeys(_SYSTEM, "system") | dict.fromkeys(_THUMBNAILS, "thumbnail")
_LISTS = (
    ".csv",
    ".tsv",
    ".txt",
    ".json",
    ".jsonl",
    ".parquet",
    ".arrow",
    ".xlsx",
    ".zip",
    ".tar",
    ".tgz",
    ".gz",
    ".7z",
)

_DEPTH = 100  # levels; a folder that is deeper was made by a mistake or to do harm

Identity = tuple[int, int]


class Tree:
    """One folder.

    Attributes:
        path: Where it is.
        name: Its name, as text.
        passed_over: Counts what is passed over, for the whole tree.
        error: Why it cannot be read, once it was tried; None if it can.
    """

    def __init__(self, path: str, parent: "Tree | None" = None) -> None:
        self.path = path
        self.name = text_of(os.path.basename(path))  # noqa: PTH119
        self.passed_over: PassedOver = PassedOver() if parent is None else parent.passed_over
        self.error: str | None = None
        self._parent = parent
        self._depth: int = 0 if parent is None else parent._depth + 1
        self._root: str = path if parent is None else parent._root

    def add(self, kind: str, name: str | None = None, number: int = 1) -> None:
        """Counts something in this folder, or the folder itself, as passed over."""
        if self.passed_over.has_examples(kind):
            self.passed_over.add(kind, "", number)
            return
        path = self.path if name is None else f"{self.path}{os.sep}{name}"
        self.passed_over.add(kind, os.path.relpath(path, self._root), number)

    def take_back(self, kind: str, name: str) -> None:
        """Takes back that a file in this folder was passed over."""
        self.passed_over.take_back(kind, os.path.relpath(f"{self.path}{os.sep}{name}", self._root))

    @property
    def folders(self) -> list["Tree"]:
        """Its folders, by name."""
        return self._content[0]

    @property
    def images(self) -> list[str]:
        """The names of the images that lie directly in it."""
        return self._content[1]

    @property
    def lists(self) -> list[str]:
        """The names of tables, archives and the like that lie directly in it."""
        return self._content[2]

    @cached_property
    def has_images(self) -> bool:
        """Whether there is an image in it, at any depth."""
        return next(self.walk(), None) is not None

    @cached_property
    def with_images(self) -> list["Tree"]:
        """Its folders that have images, at any depth."""
        return [folder for folder in self.folders if folder.has_images]

    def walk(self, *, tell: bool = False) -> Iterator[str]:
        """Yields the paths of all images in it, at any depth, each folder once, in the order of their names.

        Args:
            tell: Count links to folders that are read already.
        """
        yield from self._walk(set(), tell)

    def _walk(self, read: set[Identity], tell: bool) -> Iterator[str]:
        if self._identity in read:
            if tell:
                self.add("repeated_folder")
            return
        if self._identity is not None:
            read.add(self._identity)
        entries: list[tuple[str, Tree | None]] = [(name, None) for name in self.images]
        entries += [(os.path.basename(folder.path), folder) for folder in self.folders]  # noqa: PTH119
        if self.folders:
            entries.sort(key=lambda entry: entry[0])
        for name, folder in entries:
            if folder is None:
                yield f"{self.path}{os.sep}{name}"
            else:
                yield from folder._walk(read, tell)

    @cached_property
    def _identity(self) -> Identity | None:
        try:
            status = os.stat(self.path)  # noqa: PTH116
        except OSError:
            return None
        return (status.st_dev, status.st_ino) if status.st_ino else None

    @cached_property
    def _content(self) -> tuple[list["Tree"], list[str], list[str]]:
        folders: list[Tree] = []
        images: list[str] = []
        lists: list[str] = []
        try:
            with os.scandir(self.path) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.error = error.strerror or str(error)
            self.add("unreadable_folder")
            return folders, images, lists
        for entry in ordered:
            name = entry.name
            kind = _rubbish(name) or _not_a_file(entry)
            if kind == "folder":
                folder = Tree(entry.path, self)
                if self._depth >= _DEPTH:
                    self.add("too_deep", name)
                elif entry.is_symlink() and folder._leads_back():
                    self.add("link_loop", name)
                else:
                    folders.append(folder)
            elif kind is not None:
                self.add(kind, name)
            elif (readable := is_image(entry.path)) is True:
                images.append(name)
            else:
                if name.lower().endswith(_LISTS):
                    lists.append(name)
                self.add("other_file" if readable is False else "unread_format", name)
        return folders, images, lists

    def _leads_back(self) -> bool:
        """Says whether it is one of the folders that it lies in."""
        above = self._parent
        while above is not None:
            if above._identity is not None and above._identity == self._identity:
                return True
            above = above._parent
        return False


def open_tree(root: str | Path) -> Tree:
    """Opens a folder.

    Raises:
        LookalikeError: If it is none, or cannot be read.
    """
    path = Path(root)
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise LookalikeError(f"{str(root)!r} {what}; give a folder with one sub-folder of images per class")
    tree = Tree(str(path))
    _ = tree.folders
    if tree.error is not None:
        raise LookalikeError(f"the folder {str(root)!r} cannot be read: {tree.error}; check its permissions")
    return tree


def _rubbish(name: str) -> str | None:
    """Returns what kind of file or folder nobody means to be read, by its name."""
    kind = _RUBBISH.get(name.lower())
    if kind is None and name[0] == ".":
        return "system" if name.lower().startswith(("._", ".trash-")) else "hidden"
    return kind


def _not_a_file(entry: "os.DirEntry[str]") -> str | None:
    """Returns what an entry is, if it is no file."""
    try:
        if entry.is_file():
            return None
        if entry.is_dir():
            return "folder"
        return "broken_link" if entry.is_symlink() else "special_file"
    except OSError as error:
        return "link_loop" if error.errno == errno.ELOOP else "broken_link"
