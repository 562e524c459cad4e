"""Stamps: cut-out photographs of Debian's package ``tuxpaint-stamps-default``; their alpha channel is the mask."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.data.bundle import DATASETS, DataBundle, DatasetEntry, Split
from lookalike.data.masks import MaskedFiles, alpha_mask
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.vision import data_folder

PACKAGE = "tuxpaint-stamps-default"

# class → the package's folder; drawings are in sub-folders, which are not read
FOLDERS: Mapping[str, str] = {
    "bird": "animals/birds",
    "bovine": "animals/mammals/bovines",
    "fish": "animals/fish",
    "flower": "plants/flowers",
    "fruit": "food/fruit",
    "insect": "animals/insects",
    "rodent": "animals/mammals/rodents",
    "tool": "household/tools",
    "tree": "plants/trees",
    "vegetable": "food/vegetables",
}
_INSIDE = Path("usr/share/tuxpaint/stamps")
_TEST_SHARE = 0.2
_MINUTES = 10  # before a download counts as stuck


def load_stamps(
    preprocessing: Preprocessing | None = None, *, seed: int = 0, classes: list[str] | None = None
) -> DataBundle:
    """Loads the stamps: photographs of single objects, cut out and laid on white, with a mask of each object.

    The split keeps the pictures of one object together: those whose file names begin with the same word, such as
    ``apple_fuji`` and ``apple_gala``.

    Args:
        preprocessing: How the images are prepared; None fits them whole into 224×224 with ImageNet's normalisation.
            Transparent pixels become white in any case, because their stored colours are arbitrary.
        seed: Seed of the split, about 80 / 20 within each class.
        classes: Names of the classes to load; None loads all ten.

    Raises:
        LookalikeError: If the package is not found, a class is unknown or has no pictures.
    """
    seed = checks.seed("seed", seed)
    names = sorted(FOLDERS) if classes is None else checks.names("classes", classes)
    unknown = [name for name in names if name not in FOLDERS]
    if unknown:
        raise LookalikeError(f"'stamps' has no class {unknown[0]!r}; its classes are {', '.join(FOLDERS)}")
    root = find_stamps()
    files, labels = [], []
    for label, name in enumerate(names):
        pictures = [path for path in sorted((root / FOLDERS[name]).glob("*.png")) if not _is_repeated(path)]
        if not pictures:
            raise LookalikeError(f"no pictures in {str(root / FOLDERS[name])!r}: the stamps there are not complete")
        files += pictures
        labels += [label] * len(pictures)
    if preprocessing is None:
        preprocessing = Preprocessing((224, 224), (224, 224), fit="contain", fill=(255,))
    preprocessing = replace(preprocessing, transparency="white")
    both = MaskedFiles(root, files, labels, names, preprocessing, alpha_mask)
    train, test = _split(both, seed)
    note = f"pictures of one object (first word of the file's name) stay together: {len(train)} / {len(test)} split by"
    return DataBundle(
        "stamps",
        both.select(train),
        both.select(test),
        names,
        preprocessing,
        (f"{note} seed {seed}",),
        split=Split("seed", int(seed)),
    )


def object_of(path: Path) -> str:
    """Returns the object's word in a stamp's file name.

    Example:
        >>> [object_of(Path(name)) for name in ("apple_fuji.png", "flower10.png", "red-gazania.png")]
        ['apple', 'flower', 'red']
    """
    return re.split(r"[^a-z]", path.stem.lower(), maxsplit=1)[0] or path.stem.lower()


def find_stamps() -> Path:
    """Returns the folder of the stamps: ``$LOOKALIKE_STAMPS``, else fetched ones, else the system's.

    ``$LOOKALIKE_STAMPS`` is the folder ``stamps`` itself or one into which the package was unpacked.

    Raises:
        LookalikeError: If there are none; the message says how to get them.
    """
    named_folder = os.environ.get("LOOKALIKE_STAMPS")
    for place in [Path(named_folder)] if named_folder else [data_folder() / "stamps", Path("/")]:
        folder = _stamps_in(place)
        if folder is not None:
            return folder
    if named_folder:
        raise LookalikeError(
            f"LOOKALIKE_STAMPS={named_folder!r} has no stamps: there is no folder {FOLDERS['bird']!r} in it"
        )
    raise LookalikeError(f"'stamps' is not on this machine: run 'lookalike datasets fetch stamps', or {_BY_HAND}")


def _stamps_in(place: Path) -> Path | None:
    """Returns the folder of the stamps in or below a folder; None if they are not there."""
    folders = (place / _INSIDE, place)
    return next((folder for folder in folders if (folder / FOLDERS["bird"]).is_dir()), None)


_BY_HAND = (
    f"unpack Debian's package {PACKAGE} (dpkg-deb -x FILE.deb FOLDER; or ar x and tar xf) and set "
    "LOOKALIKE_STAMPS=FOLDER"
)


def fetch_stamps() -> Path:
    """Downloads the package by apt and unpacks it into the data folder; nothing is installed, no root is needed.

    Returns:
        The folder of the stamps; those that are there already, if any.

    Raises:
        LookalikeError: If this machine has no apt, or the download fails.
    """
    if os.environ.get("LOOKALIKE_STAMPS") or _stamps_in(data_folder() / "stamps"):
        return find_stamps()
    target = data_folder() / "stamps"
    apt, unpack = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if apt is None or unpack is None:
        raise LookalikeError(f"this machine has no apt-get and dpkg-deb to fetch the stamps with: {_BY_HAND}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        _run([apt, "download", PACKAGE], folder)
        package = next(Path(folder).glob(f"{PACKAGE}_*.deb"), None)
        if package is None:
            raise LookalikeError(f"apt-get download {PACKAGE} left no package: {_BY_HAND}")
        unpacked = Path(folder) / "unpacked"
        _run([unpack, "-x", str(package), str(unpacked)], folder)
        shutil.rmtree(target, ignore_errors=True)  # an earlier attempt, not complete
        unpacked.rename(target)
    return find_stamps()


def _run(command: list[str], folder: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=60 * _MINUTES)  # noqa: S603 - fixed programs
    except (subprocess.SubprocessError, OSError) as error:
        output = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        reason = output[-1] if output else error
        raise LookalikeError(f"{Path(command[0]).name} failed ({reason}): {_BY_HAND}") from error


def _is_repeated(path: Path) -> bool:
    """Says whether a picture is the mirror image of another one."""
    return path.stem.endswith(("_mirror", "_flip"))


def _split(files: MaskedFiles, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits each class about 80 / 20, object by object; returns the rows for training and for testing."""
    rng = np.random.default_rng(seed)
    words = np.array([object_of(path) for path in files.files])
    test: list[int] = []
    for label in np.unique(files.labels):
        rows = np.flatnonzero(files.labels == label)
        n_wanted, n_taken = max(1, round(_TEST_SHARE * len(rows))), 0
        objects = np.unique(words[rows])
        for word in rng.permutation(objects)[: max(len(objects) - 1, 0)]:
            of_object = rows[words[rows] == word]
            if n_taken + len(of_object) <= n_wanted:
                test += of_object.tolist()
                n_taken += len(of_object)
    test_rows = np.sort(np.array(test, dtype=np.int64))
    return np.setdiff1d(np.arange(len(files)), test_rows), test_rows


DATASETS.register("stamps")(
    DatasetEntry(
        "166 cut-out photographs of ten kinds of objects, with masks (Debian's tuxpaint-stamps-default)",
        load_stamps,
        fetch_stamps,
        "Downloading the stamps (160 MB) with apt and unpacking them; nothing is installed.",
    )
)
