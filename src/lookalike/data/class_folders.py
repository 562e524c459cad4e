"""Decides which folders of a tree are classes and which are the training and test part.

Three layouts are recognised, each also inside further single folders:

    CLASS/…                             classes
    train/CLASS/…  and  test/CLASS/…    parts, under any usual names
    CLASS/train/…  and  CLASS/test/…    classes with parts

A tree that fits two of them is refused: a wrong guess would turn parts into classes, and nobody would notice.
"""

from collections.abc import Iterable, Sequence

from lookalike._core.errors import LookalikeError
from lookalike._core.names import name_key
from lookalike.data.layout import Layout, check_distinct_names, check_known_classes, part_of_paths
from lookalike.data.parts import PartName, are_groups, is_no_class_name, parts_of
from lookalike.data.refusals import (
    names_of,
    quoted,
    refuse_flat_parts,
    refuse_mixed_parts,
    refuse_several_parts,
    refuse_test_alone,
    refuse_unclear_part,
    refuse_without_classes,
)
from lookalike.data.tree import Tree


def layout_of_folders(top: Tree, *, to_test: bool = False) -> Layout:
    """Finds the folders of the classes, and of the training and test part if there are any.

    Args:
        top: The folder of images.
        to_test: Whether the images are only tested on: then a test part without a training part is read too.

    Raises:
        LookalikeError: If there are no classes, or it is not clear which folders they are; the message says what to
            do.
    """
    node, notes = top, list[str]()
    while True:  # one level down per turn, through folders that merely contain a single folder
        folders = node.image_folders
        _check_names(node)
        lone_test_part = _lone_test_part(node) if to_test else None
        if lone_test_part is not None:
            _count_other_content(node)
            for folder in node.image_folders:
                if folder is not lone_test_part:
                    folder.count_passed_over("extra_part", number=sum(1 for _ in folder.walk()))
            node = lone_test_part
            notes = [f"read from {quoted(node.path)}, a test part without a training part"]
            continue
        folders_by_part = _folders_by_part(node)
        if folders_by_part is not None:
            return _layout_of_parts(node, folders_by_part, notes)
        if len(folders) > 1 and _have_parts(folders):
            return _layout_of_parts_in_classes(node, folders, notes)
        # A single folder with images of its own is a class, unless it contains train and test.
        if len(folders) != 1 or not folders[0].image_folders or (folders[0].images and not _has_both_parts(folders[0])):
            break
        _count_other_content(node)
        node = folders[0]
        notes = [f"read from {quoted(node.path)}, the only folder with images"]
    if not folders:
        refuse_without_classes(node)
    notes += _check_groups(folders)
    _count_other_content(node)
    images = part_of_paths(node.path, [folder.walk(count_repeated=True) for folder in folders])
    return Layout("classes", [folder.name for folder in folders], images, None, tuple(notes), top.passed_over)


def _has_both_parts(node: Tree) -> bool:
    """Says whether a folder contains a training part and a test or validation part."""
    roles = set(parts_of([folder.name for folder in node.image_folders]).values())
    return "train" in roles and len(roles) > 1


def _lone_test_part(node: Tree) -> Tree | None:
    """Returns the test part to read (``test``, else ``val``) if ``node`` contains test parts only; else None."""
    roles = parts_of([folder.name for folder in node.image_folders])
    by_part: dict[PartName, list[Tree]] = {"train": [], "test": [], "val": []}
    for folder in node.image_folders:
        if folder.name not in roles:
            return None
        by_part[roles[folder.name]].append(folder)
    tests = by_part["test"] or by_part["val"]
    return tests[0] if not by_part["train"] and len(tests) == 1 and tests[0].image_folders else None


def _folders_by_part(node: Tree) -> dict[PartName, list[Tree]] | None:
    """Returns the folders of each part; None if all folders are classes.

    Raises:
        LookalikeError: If a folder may be a part or a class, or there is no training part.
    """
    roles = parts_of([folder.name for folder in node.image_folders])
    part_folders = [folder for folder in node.image_folders if folder.name in roles]
    neighbours = [folder for folder in node.image_folders if folder.name not in roles]
    if not part_folders:
        return None
    by_part: dict[PartName, list[Tree]] = {"train": [], "test": [], "val": []}
    for folder in part_folders:
        by_part[roles[folder.name]].append(folder)
    train, tests = by_part["train"], by_part["test"] + by_part["val"]
    if not any(folder.image_folders for folder in part_folders):
        if neighbours and not (train and tests):
            return None  # a class may be called 'train', or 'test' beside 'control'
        refuse_mixed_parts(node, part_folders)
        refuse_flat_parts(node, part_folders)
    # Beside both 'train' and 'test', any other folder is passed over. Beside one of them, it may be a second class.
    if neighbours and not (train and tests):
        refuse_unclear_part(part_folders[0], neighbours)
    if not train:
        refuse_test_alone(node, tests)
    refuse_mixed_parts(node, part_folders)
    refuse_several_parts(node, by_part)
    if not train[0].image_folders:
        refuse_flat_parts(node, train)
    return by_part


def _layout_of_parts(node: Tree, by_part: dict[PartName, list[Tree]], notes: list[str]) -> Layout:
    """Reads ``train/CLASS/…`` and ``test/CLASS/…``; ``val`` is the test part where there is no usable ``test``."""
    train_folder = by_part["train"][0]
    train = _class_level(train_folder, None)
    classes = train.image_folders
    _check_names(train)
    notes += _check_groups(classes)
    names = [folder.name for folder in classes]
    class_keys = [name_key(name) for name in names]
    # A test folder without class folders, as many competitions have, cannot be tested on: then 'val' takes its place.
    test_folder = next(
        (folder for folder in by_part["test"] + by_part["val"] if _has_classes(folder, class_keys)), None
    )
    if test_folder is None:
        notes.append(f"no test images with classes beside {quoted(train_folder.path)}: nothing to test on")
    elif test_folder in by_part["val"] and by_part["test"]:
        notes.append(
            f"{quoted(by_part['test'][0].path)} has no classes: {quoted(test_folder.path)} is tested on in its place"
        )
    for folder in node.image_folders:
        if folder not in (train_folder, test_folder):
            is_part = any(folder in folders for folders in by_part.values())
            kind = "other_folder" if not is_part else "extra_part" if _has_classes(folder, class_keys) else "unlabelled"
            folder.count_passed_over(kind, number=1 if kind == "other_folder" else sum(1 for _ in folder.walk()))
    _count_other_content(node)
    _count_other_content(train)
    train_part = part_of_paths(train.path, [folder.walk(count_repeated=True) for folder in classes])
    if test_folder is None:
        test_part = part_of_paths(train.path, [])
    else:
        test = _class_level(test_folder, set(class_keys))
        _count_other_content(test)
        _check_names(test)
        check_known_classes(test.path, [folder.name for folder in test.image_folders], names)
        walks = {name_key(folder.name): folder.walk(count_repeated=True) for folder in test.image_folders}
        test_part = part_of_paths(test.path, [walks.get(key, ()) for key in class_keys])
    return Layout("parts", names, train_part, test_part, tuple(notes), node.passed_over)


def _class_level(folder: Tree, class_keys: set[str] | None) -> Tree:
    """Returns the folder that contains a part's class folders: the part's own folder, or a single folder in it.

    Args:
        folder: The part's folder.
        class_keys: Name keys of the training classes; None while they are not known.
    """
    while True:
        subfolders = folder.image_folders
        if class_keys is not None and class_keys & {name_key(subfolder.name) for subfolder in subfolders}:
            return folder
        if len(subfolders) != 1 or folder.images or subfolders[0].images or not subfolders[0].image_folders:
            return folder
        _count_other_content(folder)
        folder = subfolders[0]


def _has_classes(folder: Tree, class_keys: Sequence[str]) -> bool:
    """Says whether a part has class folders.

    A single folder that is called 'images', or like the part itself, is no class folder: test sets without labels come
    as ``test/images/…`` or ``test/test/…``.
    """
    subfolders = folder.image_folders
    while len(subfolders) == 1 and name_key(subfolders[0].name) not in class_keys:
        if not subfolders[0].image_folders:
            return not (is_no_class_name(subfolders[0].name) or name_key(subfolders[0].name) == name_key(folder.name))
        subfolders = subfolders[0].image_folders
    return bool(subfolders)


def _have_parts(classes: list[Tree]) -> bool:
    """Says whether each class's folder has a training and a test part.

    Raises:
        LookalikeError: If only some have both parts, or if each folder looks like a data set of its own.
    """
    has_parts = [_has_both_parts(folder) for folder in classes]
    if any(has_parts) and not all(has_parts):
        divided, undivided = classes[has_parts.index(True)], classes[has_parts.index(False)]
        raise LookalikeError(
            f"the class {divided.name!r} has training and test parts in {divided.path!r}, and the class "
            f"{undivided.name!r} has none in {undivided.path!r}: give each class both, or none"
        )
    parts_of_classes = [part_folder for folder in classes for part_folder in folder.image_folders]
    if all(has_parts) and all(folder.image_folders and not folder.images for folder in parts_of_classes):
        raise LookalikeError(
            f"the folders {names_of(classes)} have training and test parts with folders in them, each like a data "
            f"set of its own: give one of them, e.g. {quoted(classes[0].path)}"
        )
    return all(has_parts)


def _check_groups(classes: list[Tree]) -> list[str]:
    """Checks by their names that folders are classes, and not groups such as ``images`` and ``masks``, or ``fold1``.

    Returns:
        Notes for the user if the names leave a doubt.

    Raises:
        LookalikeError: If they are groups of images.
    """
    if len(classes) == 1 and len(classes[0].image_folders) > 1:
        return [
            f"the class {names_of(classes)} has the folders {names_of(classes[0].image_folders)}: if those are the "
            f"classes, give {quoted(classes[0].path)}"
        ]
    subfolder_names = [
        {subfolder.name for subfolder in folder.image_folders} for folder in classes if not folder.images
    ]
    shared = sorted(set.intersection(*subfolder_names)) if len(subfolder_names) == len(classes) > 1 else []
    if are_groups([folder.name for folder in classes], nested=len(shared) > 1):
        raise LookalikeError(
            f"the folders {names_of(classes)} look like groups of images, not like classes: give the one that contains "
            f"the classes' folders, e.g. {quoted(classes[0].path)}"
        )
    if len(shared) < 2:
        return []
    return [
        f"the classes are {names_of(classes)}, and each has the folders {', '.join(map(quoted, shared[:3]))}: if those "
        f"are the classes, give one of the folders above them, e.g. {quoted(classes[0].path)}"
    ]


def _layout_of_parts_in_classes(node: Tree, classes: list[Tree], notes: list[str]) -> Layout:
    """Reads ``CLASS/train/…`` and ``CLASS/test/…``."""
    _count_other_content(node)
    walks: dict[str, list[Iterable[str]]] = {"train": [], "test": []}
    for class_folder in classes:
        subfolders = class_folder.image_folders
        roles = parts_of([folder.name for folder in subfolders])
        by_part = {role: [folder for folder in subfolders if roles.get(folder.name) == role] for role in roles.values()}
        refuse_several_parts(class_folder, by_part)
        test_name: PartName = "test" if "test" in by_part else "val"
        for folder in subfolders:
            role = roles.get(folder.name)
            if role not in ("train", test_name):
                folder.count_passed_over(
                    "loose_image" if role is None else "extra_part", number=sum(1 for _ in folder.walk())
                )
        _count_other_content(class_folder)
        walks["train"].append(by_part["train"][0].walk(count_repeated=True))
        walks["test"].append(by_part[test_name][0].walk(count_repeated=True))
    names = [folder.name for folder in classes]
    train, test = part_of_paths(node.path, walks["train"]), part_of_paths(node.path, walks["test"])
    return Layout("classes with parts", names, train, test, tuple(notes), node.passed_over)


def _count_other_content(node: Tree) -> None:
    """Counts as passed over what ``node`` contains directly besides folders with images."""
    for folder in node.folders:
        if not folder.has_images:
            folder.count_passed_over("empty_folder")
    if node.images:
        node.count_passed_over("loose_image", node.images[0], len(node.images))


def _check_names(node: Tree) -> None:
    """Checks that all folders can be read, and that no two class names are the same text."""
    unreadable = next((folder for folder in node.folders if not folder.has_images and folder.error is not None), None)
    if unreadable is not None:
        raise LookalikeError(
            f"the folder {unreadable.path!r} cannot be read: {unreadable.error}; check its permissions"
        )
    check_distinct_names([folder.name for folder in node.image_folders], node.path)
