"""Twenty ImageNet photographs with their labels, from the package ``foolbox`` on PyPI; only its files are read."""

import importlib.util
import os
import re
from pathlib import Path

from lookalike._core.errors import LookalikeError
from lookalike.data.bundle import DATASETS, DataBundle, DatasetEntry, Split
from lookalike.data.folders import ImageFiles
from lookalike.data.preprocessing import Preprocessing

_FILE = re.compile(r"imagenet_\d+_(\d+)\.jpg")
_HOW = "run 'pip install --no-deps foolbox', or set LOOKALIKE_FOOLBOX to a folder with its imagenet_NN_LABEL.jpg"

# ImageNet's number → a name of its class, for the labels in the package
NAMES = {
    22: "bald eagle", 99: "goose", 129: "spoonbill", 243: "bull mastiff", 251: "dalmatian", 305: "dung beetle",
    317: "leafhopper", 438: "beaker", 455: "bottlecap", 471: "cannon", 541: "drum", 559: "folding chair", 609: "jeep",
    630: "Loafer", 741: "prayer rug", 853: "thatch", 915: "yurt", 949: "strawberry", 990: "buckeye",
}  # fmt: skip


def load_imagenet_photos(preprocessing: Preprocessing | None = None) -> DataBundle:
    """Loads the photographs. Both parts hold all of them, so they are for looking, not for measuring generalisation.

    Args:
        preprocessing: How the images are prepared; None is the usual one of ImageNet, 256 pixels cut to 224.

    Raises:
        LookalikeError: If there are no such files, or a label that has no name here.
    """
    folder = find_imagenet_photos()
    labels = {path: int(found[1]) for path in sorted(folder.iterdir()) if (found := _FILE.fullmatch(path.name))}
    unknown = sorted(set(labels.values()) - NAMES.keys())
    if unknown:
        raise LookalikeError(
            f"the photographs in {str(folder)!r} have a label {unknown[0]} that is not foolbox 3.3.4's"
        )
    present = sorted(set(labels.values()))
    names = [NAMES[number] for number in present]
    preprocessing = preprocessing or Preprocessing.square(224)
    photos = ImageFiles(folder, list(labels), [present.index(n) for n in labels.values()], names, preprocessing)
    note = f"both parts are the same {len(labels)} photographs: what is measured on them does not show generalisation"
    return DataBundle("imagenet-photos", photos, photos, names, preprocessing, (note,), split=Split("parts"))


def find_imagenet_photos() -> Path:
    """Returns the folder of the photographs: ``$LOOKALIKE_FOOLBOX``, else that of the installed package.

    Raises:
        LookalikeError: If it has none; the message says how to get them.
    """
    named = os.environ.get("LOOKALIKE_FOOLBOX")
    package = None if named else importlib.util.find_spec("foolbox")  # finds the package without running it
    if not named and package is None:
        raise LookalikeError(f"'imagenet-photos' is not on this machine: {_HOW}")
    locations = (
        [named] if named else [f"{place}/data" for place in (package and package.submodule_search_locations) or ()]
    )
    for place in map(Path, locations):
        if place.is_dir() and any(_FILE.fullmatch(path.name) for path in place.iterdir()):
            return place
    raise LookalikeError(f"no file imagenet_NN_LABEL.jpg in {', '.join(map(repr, locations))}: {_HOW}")


DATASETS.register("imagenet-photos")(
    DatasetEntry("20 ImageNet photographs of 19 classes, to look at (package foolbox)", load_imagenet_photos)
)
