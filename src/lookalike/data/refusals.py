"""Error messages for folders of images that cannot be read or are ambiguous: the reason, and what to do."""

from collections.abc import Mapping, Sequence
from typing import NoReturn

from lookalike._core.errors import LookalikeError, listing
from lookalike._core.names import visible
from lookalike.data.formats import formats_read
from lookalike.data.parts import PartName, further_words
from lookalike.data.tree import Tree

_MAX_NAMED = 4
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z")
_IMAGE_TABLES = (".parquet", ".arrow")
_TABLES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".xlsx")


def quoted(path: str) -> str:
    """Returns a path in quotation marks, with unprintable characters escaped."""
    return f"'{visible(path)}'"


def names_of(folders: Sequence[Tree]) -> str:
    """Lists the names of folders; after four it gives the number of the others."""
    return listing([quoted(folder.name) for folder in folders], _MAX_NAMED)


def refuse_without_classes(node: Tree) -> NoReturn:
    """Refuses a folder none of whose sub-folders has images."""
    path = quoted(node.path)
    if node.images:
        raise LookalikeError(
            f"{path} has images (such as {quoted(node.images[0])}) and no folder for each class: put each "
            f"class's images into a folder of its name, {_or_table(node)}"
        )
    two_levels = [node, *node.folders, *(subfolder for folder in node.folders for subfolder in folder.folders)]
    for folder in two_levels:
        table = next((name for name in folder.tables_and_archives if name.lower().endswith(_IMAGE_TABLES)), None)
        if table is not None:
            raise LookalikeError(
                f"{path} holds its images in tables, such as {quoted(table)}, not in files: read it in Python with "
                "datasets.load_dataset or load_from_disk and give that data set to convert(), or write its images to "
                "one folder per class"
            )
        archive = next((name for name in folder.tables_and_archives if name.lower().endswith(_ARCHIVES)), None)
        if archive is not None:
            raise LookalikeError(f"{path} holds an archive, {quoted(archive)}, and no images: unpack it")
    unsupported = node.passed_over.examples.get("unread_format")
    if unsupported:
        raise LookalikeError(
            f"{path} has {node.passed_over.counts['unread_format']:,} images in formats that are not read, such as "
            f"{quoted(unsupported[0])}: convert them to PNG or JPEG; HEIC is read from Python with "
            "pillow_heif.register_heif_opener()"
        )
    if not node.folders:
        raise LookalikeError(f"{path} has no sub-folders: put each class's images into a folder of its name")
    if len(node.folders) == 1:
        raise LookalikeError(
            f"class {quoted(node.folders[0].name)} has no images in {quoted(node.folders[0].path)} "
            f"(formats: {formats_read()})"
        )
    raise LookalikeError(f"none of the {len(node.folders):,} folders in {path} has images (formats: {formats_read()})")


def refuse_flat_parts(node: Tree, parts: Sequence[Tree]) -> NoReturn:
    """Refuses parts whose images are not sorted into class folders."""
    raise LookalikeError(
        f"{names_of(parts)} in {quoted(node.path)} {'is a part' if len(parts) == 1 else 'are parts'} of a data set, "
        f"with images and no folder for each class: sort them into {quoted(parts[0].name + '/CLASS/…')}, "
        f"{_or_table(node)}"
    )


def refuse_unclear_part(folder: Tree, neighbours: Sequence[Tree]) -> NoReturn:
    """Refuses a folder that may be a part or a class."""
    path = quoted(folder.path)
    raise LookalikeError(
        f"{path} may be a part of a data set, or a class beside {names_of(neighbours)}: give {path} itself to use it "
        "alone; put its images directly into it if it is a class"
    )


def refuse_test_alone(node: Tree, parts: Sequence[Tree]) -> NoReturn:
    """Refuses a test part without a training part."""
    raise LookalikeError(
        f"{quoted(node.path)} has {names_of(parts)} but no 'train' beside it: give {quoted(parts[0].path)} itself to "
        "use it alone"
    )


def refuse_mixed_parts(node: Tree, parts: Sequence[Tree]) -> None:
    """Refuses parts of several data sets in one folder, such as ``cats_train`` and ``dogs_train``."""
    if len(further_words([folder.name for folder in parts])) > 1:
        raise LookalikeError(
            f"the folders {names_of(parts)} in {quoted(node.path)} are parts of several data sets: put those that "
            "belong together into a folder of their own"
        )


def refuse_several_parts(node: Tree, by_part: Mapping[PartName, Sequence[Tree]]) -> None:
    """Refuses two folders for the same part."""
    for folders in by_part.values():
        if len(folders) > 1:
            raise LookalikeError(
                f"{names_of(folders)} in {quoted(node.path)} are the same part of a data set: leave one, or put their "
                "images together"
            )


def _or_table(node: Tree) -> str:
    """Suggests a table of labels: one that is in the folder, if any."""
    table = next((name for name in node.tables_and_archives if name.lower().endswith(_TABLES)), "FILE")
    path = table if table == "FILE" else f"{visible(node.path)}/{visible(table)}"
    return f"or give a table of their classes (--labels {path}, labels=)"
