"""A folder and its sub-folders, read lazily, level by level; files that are not images are counted as passed over."""

import errno
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from lookalike._core.errors import LookalikeError
from lookalike._core.names import text_of
from lookalike.data.formats import is_image
from lookalike.data.passed_over import PassedOver

# Names that operating systems, network drives and archivers create, in lower case.
_THUMBNAILS = frozenset({"@eadir", ".thumbnails", ".thumb", ".thumbs", ".@__thumb", "thumbs.db", "ehthumbs.db"})
_SYSTEM_WORDS = (
    "__macosx .ds_store desktop.ini .ipynb_checkpoints lost+found #recycle @recycle $recycle.bin recycler #snapshot "
    "@recently-snapshot .snapshot .snapshots .trash .trashes .fseventsd .spotlight-v100 .temporaryitems .appledouble "
    ".apdisk .git .svn .hg .dvc __pycache__ .pytest_cache .streams @tmp .syncthing .stfolder"
)
_SYSTEM = frozenset(_SYSTEM_WORDS.split()) | {"system volume information", "icon\r"}
_JUNK_KINDS = dict.fromkeys(_SYSTEM, "system") | dict.fromkeys(_THUMBNAILS, "thumbnail")
_TABLE_AND_ARCHIVE_SUFFIXES = (  # tables and archives; they are named in the message if a folder has no images
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

_MAX_DEPTH = 100  # levels; deeper folders exist only by mistake or as an attack

Identity = tuple[int, int]


class Tree:
    """One folder of a tree.

    Attributes:
        path: Path of the folder.
        name: Name of the folder, as text.
        passed_over: Counts of what was passed over, shared by the whole tree.
        error: Why the folder cannot be read; None if it can, or was not read yet.
    """

    def __init__(self, path: str, parent: "Tree | None" = None) -> None:
        self.path = path
        self.name = text_of(os.path.basename(path))
        self.passed_over: PassedOver = PassedOver() if parent is None else parent.passed_over
        self.error: str | None = None
        self._parent = parent
        self._depth: int = 0 if parent is None else parent._depth + 1
        self._root: str = path if parent is None else parent._root

    def count_passed_over(self, kind: str, name: str | None = None, number: int = 1) -> None:
        """Counts a file in this folder, or the folder itself (``name=None``), as passed over."""
        if self.passed_over.has_examples(kind):
            self.passed_over.add(kind, "", number)
            return
        path = self.path if name is None else f"{self.path}{os.sep}{name}"
        self.passed_over.add(kind, os.path.relpath(path, self._root), number)

    def take_back(self, kind: str, name: str) -> None:
        """Removes a file in this folder from the counts of what was passed over."""
        self.passed_over.take_back(kind, os.path.relpath(f"{self.path}{os.sep}{name}", self._root))

    @property
    def folders(self) -> list["Tree"]:
        """The sub-folders, sorted by name."""
        return self._content[0]

    @property
    def images(self) -> list[str]:
        """Names of the images directly in the folder."""
        return self._content[1]

    @property
    def tables_and_archives(self) -> list[str]:
        """Names of the tables and archives directly in the folder."""
        return self._content[2]

    @cached_property
    def has_images(self) -> bool:
        """Whether the folder contains an image, at any depth."""
        return next(self.walk(), None) is not None

    @cached_property
    def image_folders(self) -> list["Tree"]:
        """The sub-folders that contain images, at any depth."""
        return [folder for folder in self.folders if folder.has_images]

    def walk(self, *, count_repeated: bool = False) -> Iterator[str]:
        """Yields the paths of all images in the folder, at any depth, in the order of their names.

        A folder that several links lead to is visited once.

        Args:
            count_repeated: Count links to folders that were already visited as passed over.
        """
        yield from self._walk(set(), count_repeated)

    def _walk(self, visited: set[Identity], count_repeated: bool) -> Iterator[str]:
        # Links may lead to a folder from several places; its images must not be counted twice.
        if self._identity in visited:
            if count_repeated:
                self.count_passed_over("repeated_folder")
            return
        if self._identity is not None:
            visited.add(self._identity)
        entries: list[tuple[str, Tree | None]] = [(name, None) for name in self.images]
        entries += [(os.path.basename(folder.path), folder) for folder in self.folders]
        if self.folders:
            entries.sort(key=lambda entry: entry[0])
        for name, folder in entries:
            if folder is None:
                yield f"{self.path}{os.sep}{name}"
            else:
                yield from folder._walk(visited, count_repeated)

    @cached_property
    def _identity(self) -> Identity | None:
        """(device, inode), the same for all links to a folder; None if the file system has no inodes."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return (status.st_dev, status.st_ino) if status.st_ino else None

    @cached_property
    def _content(self) -> tuple[list["Tree"], list[str], list[str]]:
        """Sub-folders, images, and tables or archives; everything else is counted as passed over."""
        folders: list[Tree] = []
        images: list[str] = []
        tables_and_archives: list[str] = []
        try:
            with os.scandir(self.path) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.error = error.strerror or str(error)
            self.count_passed_over("unreadable_folder")
            return folders, images, tables_and_archives
        for entry in ordered:
            name = entry.name
            kind = _junk_kind(name) or _kind_of_non_file(entry)
            if kind == "folder":
                folder = Tree(entry.path, self)
                if self._depth >= _MAX_DEPTH:
                    self.count_passed_over("too_deep", name)
                elif entry.is_symlink() and folder._is_own_ancestor():
                    self.count_passed_over("link_loop", name)
                else:
                    folders.append(folder)
            elif kind is not None:
                self.count_passed_over(kind, name)
            elif (readable := is_image(entry.path)) is True:
                images.append(name)
            else:
                if name.lower().endswith(_TABLE_AND_ARCHIVE_SUFFIXES):
                    tables_and_archives.append(name)
                self.count_passed_over("other_file" if readable is False else "unread_format", name)
        return folders, images, tables_and_archives

    def _is_own_ancestor(self) -> bool:
        """Says whether this link leads to a folder that contains it."""
        ancestor = self._parent
        while ancestor is not None:
            if ancestor._identity is not None and ancestor._identity == self._identity:
                return True
            ancestor = ancestor._parent
        return False


def open_tree(root: str | Path) -> Tree:
    """Opens a folder.

    Raises:
        LookalikeError: If the path is not a folder, or cannot be read.
    """
    path = Path(root)
    if not path.is_dir():
        problem = "is a file" if path.exists() else "does not exist"
        raise LookalikeError(f"{str(root)!r} {problem}; give a folder with one sub-folder of images per class")
    tree = Tree(str(path))
    _ = tree.folders  # reads the folder, which sets the error
    if tree.error is not None:
        raise LookalikeError(f"the folder {str(root)!r} cannot be read: {tree.error}; check its permissions")
    return tree


def _junk_kind(name: str) -> str | None:
    """Returns the kind of a hidden, system or thumbnail file by its name; None for any other file."""
    kind = _JUNK_KINDS.get(name.lower())
    if kind is None and name[0] == ".":
        return "system" if name.lower().startswith(("._", ".trash-")) else "hidden"
    return kind


def _kind_of_non_file(entry: "os.DirEntry[str]") -> str | None:
    """Returns the kind of a folder, broken link or special file; None for a file."""
    try:
        if entry.is_file():
            return None
        if entry.is_dir():
            return "folder"
        return "broken_link" if entry.is_symlink() else "special_file"
    except OSError as error:
        return "link_loop" if error.errno == errno.ELOOP else "broken_link"
