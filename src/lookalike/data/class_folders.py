"""Which folders of a tree are classes, which are parts, and what lies beside them.

Read are ``CLASS/…``, ``train/CLASS/…`` beside ``test/CLASS/…`` under any usual names, and ``CLASS/train/…``, each of
them below further single folders. What could be read in two ways is refused: a wrong guess would make classes of parts,
and nobody would notice.
"""

from collections.abc import Iterable, Sequence

from lookalike._core.errors import LookalikeError
from lookalike._core.names import name_key
from lookalike.data.layout import Layout, check_distinct, check_known, part_of_paths
from lookalike.data.parts import PartName, are_groups, parts_of, says_no_class
from lookalike.data.refusals import (
    named,
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
    """Finds the classes' folders, and the parts.

    Args:
        top: The folder.
        to_test: Take a test part without a training part for all there is.

    Raises:
        LookalikeError: If there are none, or it is not clear which folders are the classes; it says what to do.
    """
    node, notes = top, list[str]()
    while True:
        inner = node.with_images
        _check_names(node)
        alone = _test_alone(node) if to_test else None
        if alone is not None:
            _count_rest(node)
            for folder in node.with_images:
                if folder is not alone:
                    folder.add("extra_part", number=sum(1 for _ in folder.walk()))
            node = alone
            notes = [f"read from {quoted(node.path)}, a test part without a training part"]
            continue
        parts = _parts(node)
        if parts is not None:
            return _of_parts(node, parts, notes)
        if len(inner) > 1 and _have_parts(inner):
            return _layout_of_parts_in_classes(node, inner, notes)
        if len(inner) != 1 or not inner[0].with_images or (inner[0].images and not _has_both_parts(inner[0])):
            break
        _count_rest(node)
        node = inner[0]
        notes = [f"read from {quoted(node.path)}, the only folder with images"]
    if not inner:
        refuse_without_classes(node)
    notes += _check_groups(inner)
    _count_rest(node)
    images = part_of_paths(node.path, [folder.walk(tell=True) for folder in inner])
    return Layout("classes", [folder.name for folder in inner], images, None, tuple(notes), top.passed_over)


def _has_both_parts(node: Tree) -> bool:
    """Says whether a folder has a training part and another one."""
    roles = set(parts_of([folder.name for folder in node.with_images]).values())
    return "train" in roles and len(roles) > 1


def _test_alone(node: Tree) -> Tree | None:
    """Returns the part that is tested on, with classes, where there is no training part and nothing else."""
    roles = parts_of([folder.name for folder in node.with_images])
    by_part: dict[PartName, list[Tree]] = {"train": [], "test": [], "val": []}
    for folder in node.with_images:
        if folder.name not in roles:
            return None
        by_part[roles[folder.name]].append(folder)
    tests = by_part["test"] or by_part["val"]
    return tests[0] if not by_part["train"] and len(tests) == 1 and tests[0].with_images else None


def _parts(node: Tree) -> dict[PartName, list[Tree]] | None:
    """Returns the folders that are parts, by part; None if all folders are classes.

    Raises:
        LookalikeError: If it cannot be told, or there is no training part.
    """
    roles = parts_of([folder.name for folder in node.with_images])
    parts = [folder for folder in node.with_images if folder.name in roles]
    beside = [folder for folder in node.with_images if folder.name not in roles]
    if not parts:
        return None
    by_part: dict[PartName, list[Tree]] = {"train": [], "test": [], "val": []}
    for folder in parts:
        by_part[roles[folder.name]].append(folder)
    train, tests = by_part["train"], by_part["test"] + by_part["val"]
    if not any(folder.with_images for folder in parts):
        if beside and not (train and tests):
            return None  # a class may be called 'train', or 'test' beside 'control'
        refuse_mixed_parts(node, parts)
        refuse_flat_parts(node, parts)
    if beside and not (train and tests):
        refuse_unclear_part(parts[0], beside)
    if not train:
        refuse_test_alone(node, tests)
    refuse_mixed_parts(node, parts)
    refuse_several_parts(node, by_part)
    if not train[0].with_images:
        refuse_flat_parts(node, train)
    return by_part


def _of_parts(node: Tree, parts: dict[PartName, list[Tree]], notes: list[str]) -> Layout:
    train = _class_level(parts["train"][0], None)
    classes = train.with_images
    _check_names(train)
    notes += _check_groups(classes)
    names = [folder.name for folder in classes]
    keys = [name_key(name) for name in names]
    tested = next((folder for folder in parts["test"] + parts["val"] if _has_classes(folder, keys)), None)
    used = [parts["train"][0], *([] if tested is None else [tested])]
    if tested is None:
        notes.append(f"no test images with classes beside {quoted(parts['train'][0].path)}: nothing to test on")
    elif tested in parts["val"] and parts["test"]:
        notes.append(f"{quoted(parts['test'][0].path)} has no classes: {quoted(tested.path)} is tested on in its place")
    for folder in node.with_images:
        if folder not in used:
            is_part = any(folder in folders for folders in parts.values())
            kind = "other_folder" if not is_part else "extra_part" if _has_classes(folder, keys) else "unlabelled"
            folder.add(kind, number=1 if kind == "other_folder" else sum(1 for _ in folder.walk()))
    _count_rest(node)
    _count_rest(train)
    train_part = part_of_paths(train.path, [folder.walk(tell=True) for folder in classes])
    if tested is None:
        test_part = part_of_paths(train.path, [])
    else:
        tested = _class_level(tested, set(keys))
        _count_rest(tested)
        _check_names(tested)
        tested_names = [folder.name for folder in tested.with_images]
        check_known(tested.path, tested_names, names)
        walks = {name_key(folder.name): folder.walk(tell=True) for folder in tested.with_images}
        test_part = part_of_paths(tested.path, [walks.get(key, ()) for key in keys])
    return Layout("parts", names, train_part, test_part, tuple(notes), node.passed_over)


def _class_level(part: Tree, known: set[str] | None) -> Tree:
    """Returns the folder in which a part's classes are: itself, or a single folder in it."""
    while True:
        inner = part.with_images
        if known is not None and known & {name_key(folder.name) for folder in inner}:
            return part
        if len(inner) != 1 or part.images or inner[0].images or not inner[0].with_images:
            return part
        _count_rest(part)
        part = inner[0]


def _has_classes(part: Tree, known: Sequence[str]) -> bool:
    """Says whether a part has folders of classes, and not only one called 'images', or as itself, with all in it."""
    inner, name = part.with_images, part.name
    while len(inner) == 1 and name_key(inner[0].name) not in known:
        if not inner[0].with_images:
            return not (says_no_class(inner[0].name) or name_key(inner[0].name) == name_key(name))
        inner = inner[0].with_images
    return bool(inner)


def _have_parts(classes: list[Tree]) -> bool:
    """Says whether each class's folder has a training and a test part.

    Raises:
        LookalikeError: If some have and some have not.
    """
    complete = [_has_both_parts(folder) for folder in classes]
    if any(complete) and not all(complete):
        split, whole = classes[complete.index(True)], classes[complete.index(False)]
        raise LookalikeError(
            f"the class {split.name!r} has training and test parts in {split.path!r}, and the class {whole.name!r} has "
            f"none in {whole.path!r}: give each class both, or none"
        )
    if all(complete) and all(inner.with_images and not inner.images for one in classes for inner in one.with_images):
        raise LookalikeError(
            f"the folders {named(classes)} have training and test parts with folders in them, each like a data set of "
            f"its own: give one of them, e.g. {quoted(classes[0].path)}"
        )
    return all(complete)


def _check_groups(classes: list[Tree]) -> list[str]:
    """Checks that folders are classes, and not groups of images such as ``images`` and ``masks``, or ``fold1``.

    Returns:
        A note where that cannot be told by the names.

    Raises:
        LookalikeError: If they are groups.
    """
    if len(classes) == 1 and len(classes[0].with_images) > 1:
        return [
            f"the class {named(classes)} has the folders {named(classes[0].with_images)}: if those are the classes, "
            f"give {quoted(classes[0].path)}"
        ]
    nested = [{inner.name for inner in folder.with_images} for folder in classes if not folder.images]
    shared = sorted(set.intersection(*nested)) if len(nested) == len(classes) > 1 else []
    if are_groups([folder.name for folder in classes], nested=len(shared) > 1):
        raise LookalikeError(
            f"the folders {named(classes)} look like groups of images, not like classes: give the one in which the "
            f"classes' folders are, e.g. {quoted(classes[0].path)}"
        )
    if len(shared) < 2:
        return []
    return [
        f"the classes are {named(classes)}, and each has the folders {', '.join(map(quoted, shared[:3]))}: if those "
        f"are the classes, give one of the folders above them, e.g. {quoted(classes[0].path)}"
    ]


def _layout_of_parts_in_classes(node: Tree, classes: list[Tree], notes: list[str]) -> Layout:
    _count_rest(node)
    walks: dict[str, list[Iterable[str]]] = {"train": [], "test": []}
    for folder in classes:
        roles = parts_of([inner.name for inner in folder.with_images])
        by_part = {role: [one for one in folder.with_images if roles.get(one.name) == role] for role in roles.values()}
        refuse_several_parts(folder, by_part)
        tested: PartName = "test" if "test" in by_part else "val"
        for inner in folder.with_images:
            role = roles.get(inner.name)
            if role not in ("train", tested):
                inner.add("loose_image" if role is None else "extra_part", number=sum(1 for _ in inner.walk()))
        _count_rest(folder)
        walks["train"].append(by_part["train"][0].walk(tell=True))
        walks["test"].append(by_part[tested][0].walk(tell=True))
    names = [folder.name for folder in classes]
    train, test = (part_of_paths(node.path, walks[part]) for part in ("train", "test"))
    return Layout("classes with parts", names, train, test, tuple(notes), node.passed_over)


def _count_rest(node: Tree) -> None:
    """Counts what lies beside the folders that have images."""
    for folder in node.folders:
        if not folder.has_images:
            folder.add("empty_folder")
    if node.images:
        node.add("loose_image", node.images[0], len(node.images))


def _check_names(node: Tree) -> None:
    unreadable = next((folder for folder in node.folders if not folder.has_images and folder.error is not None), None)
    if unreadable is not None:
        raise LookalikeError(
            f"the folder {unreadable.path!r} cannot be read: {unreadable.error}; check its permissions"
        )
    check_distinct([folder.name for folder in node.with_images], node.path)
