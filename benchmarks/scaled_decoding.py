"""What decoding JPEG photographs at a reduced size saves, and what it changes.

    python benchmarks/scaled_decoding.py [--quick]

Prints Markdown. The photographs are the test part of the stamps (LOOKALIKE_STAMPS, see the data set's page) on white,
scaled up to three sizes with the noise of a camera (deviation 4 of 255 levels), as JPEG files of quality 90. Scaled-up
photographs have less fine detail than a camera's, so that pixels may differ more in these.

- Time: CPU seconds per photograph to read, resize and crop it, whole and scaled, in turn; medians.
- Pixels: mean and largest difference in levels of 255.
- Predictions: share of photographs whose class changes, of the 1,000 of EfficientNet-Lite0 with its ImageNet weights,
  and of the ten of its prototypes, made from the training part.
"""

import functools
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from common import begin, cpu_side_by_side, table
from lookalike.data import Preprocessing

SIDES, QUICK = (800, 1600, 3200), 12
NOISE, QUALITY = 4.0, 90


def enlarged(file: Path, side: int) -> Image.Image:
    """Returns a stamp on white, its shorter side scaled up, with the noise of a camera."""
    stamp = Image.open(file).convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", stamp.size, "white"), stamp).convert("RGB")
    factor = side / min(picture.size)
    picture = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, NOISE, (picture.height, picture.width, 3)).astype(np.float32)
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def read_all(preprocessing: Preprocessing, files: list[Path]) -> list[Tensor]:
    """Reads, resizes and crops files."""
    return [preprocessing.fit_file(file) for file in files]


def main() -> None:
    """Runs all and prints Markdown."""
    from lookalike import convert
    from lookalike.data import load_stamps
    from lookalike.encoder.packaged import load_efficientnet_lite0

    quick = begin("Scaled decoding", __doc__, f"{QUICK} photographs, one repeat")
    loaded = load_efficientnet_lite0()
    whole = loaded.preprocessing
    assert whole is not None
    scaled = replace(whole, scaled_decoding=True)
    stamps = load_stamps(whole)
    files = stamps.test.files[:: len(stamps.test.files) // QUICK] if quick else stamps.test.files
    model = convert(loaded, stamps.train, n_images=0, progress=False)

    @torch.no_grad()
    def classes(fitted: list[Tensor]) -> list[Tensor]:
        x = whole.finish(torch.stack(fitted))
        return [loaded.model(x).argmax(1), model.predict(x)]

    rows = []
    for side in SIDES:
        with tempfile.TemporaryDirectory() as place:
            photographs = [Path(place) / f"{number}.jpg" for number in range(len(files))]
            for file, photograph in zip(files, photographs, strict=True):
                enlarged(file, side).save(photograph, quality=QUALITY)
            readings = [functools.partial(read_all, p, photographs) for p in (whole, scaled)]
            seconds = cpu_side_by_side(readings, 1 if quick else 3)
            results = [reading() for reading in readings]
        differences = (torch.stack(results[0]).float() - torch.stack(results[1]).float()).abs()
        changed = [int((a != b).sum()) for a, b in zip(*map(classes, results), strict=True)]
        rows.append(
            [
                f"{side:,}",
                *(f"{taken / len(files) * 1e3:.1f} ms" for taken in seconds),
                f"{seconds[0] / seconds[1]:.2f}",
                f"{float(differences.mean()):.2f}",
                f"{int(differences.max())}",
                *(f"{number} of {len(files)}" for number in changed),
            ]
        )
    columns = ["shorter side", "whole", "scaled", "times faster", "mean difference", "largest", "network", "prototypes"]
    print(table(f"{len(files)} photographs for {whole.describe()}", columns, rows))


if __name__ == "__main__":
    main()
