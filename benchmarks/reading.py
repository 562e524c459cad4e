"""Reading JPEG files into batches: a user's plain loop, Pillow alone, and this package.

    python benchmarks/reading.py [--quick]

Prints Markdown. It writes 500 files of 320² (pieces of scikit-learn's two photographs, quality 90) and reads each into
the input of an ImageNet network: shorter side to 224, centre crop, normalised. CPU seconds (user and system, all
threads), alternating, medians: they hold on a busy machine too.
"""

import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from common import begin, cpu_side_by_side, table

SIZE, SIDE, BATCH = 224, 320, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_files(folder: Path, number: int, side: int = SIDE) -> None:
    """Writes pieces of two photographs as JPEG files, in two classes."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    for label, photograph in enumerate(load_sample_images().images):
        (folder / f"{label}").mkdir(parents=True)
        corners = [[int(rng.integers(0, length - side)) for length in photograph.shape[:2]] for _ in range(number // 2)]

        def write(piece: int, photograph: Any = photograph, label: int = label, corners: Any = corners) -> None:
            top, left = corners[piece]
            picture = Image.fromarray(photograph[top : top + side, left : left + side])
            picture.save(folder / f"{label}" / f"{piece:04d}.jpg", quality=90)

        with ThreadPoolExecutor() as pool:
            list(pool.map(write, range(number // 2)))


def plain_loop(folder: Path) -> int:
    """What a user would write."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [
        transforms.Resize(SIZE),
        transforms.CenterCrop(SIZE),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    loader = torch.utils.data.DataLoader(ImageFolder(str(folder), transforms.Compose(steps)), BATCH)
    return sum(len(x) for x, _ in loader)


def differences(files: list[Path], preprocessing: object) -> str:
    """Compares the pixels of files with those by Pillow alone."""
    from lookalike.data.images import decode_image

    levels = [
        (preprocessing.fit_file(file).int() - preprocessing.fit_picture(decode_image(file)).int()).abs()  # type: ignore[attr-defined]
        for file in files
    ]
    differing = float(torch.stack([(level > 0).float().mean() for level in levels]).mean())
    return (
        f"Pixels differ by at most {max(int(level.max()) for level in levels)} of 255 levels, {differing:.2%} of them."
    )


def main() -> None:
    """Runs all and prints Markdown."""
    from lookalike.data import Batches, Preprocessing, load_folder
    from lookalike.data.images import decode_image
    from lookalike.data.turbo import decode_jpeg

    quick = begin("Reading", __doc__, "fewer files and repeats")
    number, repeats = (200, 3) if quick else (500, 7)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "train"
        write_files(folder, number)
        bundle = load_folder(place, Preprocessing.square(SIZE, mean=MEAN, std=STD))
        files, preprocessing = bundle.train.files, bundle.preprocessing
        contents = [file.read_bytes() for file in files]

        def by_pillow() -> list[torch.Tensor]:
            parts = [files[start : start + BATCH] for start in range(0, number, BATCH)]
            return [torch.stack([preprocessing(decode_image(file)) for file in part]) for part in parts]

        def ours() -> int:
            return sum(len(batch.inputs) for batch in Batches(bundle.train, BATCH))

        def as_bytes() -> int:
            return sum(len(batch.inputs) for batch in Batches(bundle.train, BATCH).unfinished_from(0))

        runs: dict[str, Callable[[], object]] = {
            "decoding alone, Pillow": lambda: [Image.open(BytesIO(content)).load() for content in contents],
            "decoding alone, libjpeg-turbo": lambda: [decode_jpeg(content, 3) for content in contents],
            "plain loop": lambda: plain_loop(folder),
            "lookalike by Pillow alone, as before": by_pillow,
            "lookalike, normalised batches": ours,
            "lookalike, as bytes for the embedding pass": as_bytes,
        }
        seconds = dict(zip(runs, cpu_side_by_side(list(runs.values()), repeats), strict=True))
        rows = [
            [name, f"{taken / number * 1e3:.2f} ms", f"{seconds['plain loop'] / taken:.2f}"]
            for name, taken in seconds.items()
        ]
        print(table("CPU time per image of 320²", ["", "CPU time", "times faster than the plain loop"], rows))
        print(differences(files[:: max(1, number // 50)], preprocessing))


if __name__ == "__main__":
    main()
