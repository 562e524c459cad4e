"""The embedding pass from image files, beside bare forward passes and beside the loop that a user would write.

    python benchmarks/embedding.py [--quick]

Prints Markdown. CPU seconds (user and system, all threads), which hold on a busy machine too. Images: scikit-learn's
two photographs, cut into pieces of 224², and MNIST's digits at 32², as files.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from common import begin, cpu_side_by_side, table

BATCH = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_photographs(folder: Path, number: int) -> None:
    """Cuts photographs into pieces and writes them as JPEG files, in two classes."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    for label, photograph in enumerate(load_sample_images().images):
        (folder / f"{label}").mkdir(parents=True)
        for piece in range(number // 2):
            top, left = (int(rng.integers(0, side - 256)) for side in photograph.shape[:2])
            picture = Image.fromarray(photograph[top : top + 256, left : left + 256])
            picture.save(folder / f"{label}" / f"{piece:04d}.jpg", quality=90)


def write_digits(folder: Path, number: int) -> None:
    """Writes digits as PNG files."""
    from lookalike.data import load_digits

    data = load_digits().train
    for row in np.linspace(0, len(data) - 1, number).astype(int):
        place = folder / f"{data.labels[row]}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(data.images[row]).squeeze()).convert("RGB").save(place / f"{row:05d}.png")


def networks() -> dict[str, Callable[[], nn.Module]]:
    """Returns what is timed."""
    import timm
    import torchvision

    return {
        "ResNet34": lambda: torchvision.models.resnet34(weights=None).eval(),
        "EfficientNet-Lite0": lambda: timm.create_model("tf_efficientnet_lite0").eval(),
    }


def plain_loop(net: nn.Module, folder: Path, size: int) -> np.ndarray:
    """What a user would write."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [
        transforms.Resize(size),
        transforms.CenterCrop(size),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    loader = torch.utils.data.DataLoader(ImageFolder(str(folder), transforms.Compose(steps)), BATCH)
    with torch.no_grad():
        return np.concatenate([net(x).numpy() for x, _ in loader])


def pass_rows(name: str, net: nn.Module, folder: Path, size: int, repeats: int) -> list[str]:
    """Times one network on one folder."""
    from lookalike.data import Preprocessing, load_folder
    from lookalike.embedding import embed
    from lookalike.embedding.precision import has_bfloat16
    from lookalike.encoder import Encoder

    bundle = load_folder(folder.parent, Preprocessing.square(size, mean=MEAN, std=STD))
    images = torch.stack([image for image, _ in bundle.train])
    encoder = Encoder(net, images[:2])

    @torch.no_grad()
    def bare() -> object:
        return [net(part) for part in images.split(BATCH)]

    def ours(precision: str) -> object:
        return embed(encoder, bundle.train, batch_size=BATCH, precision=precision, progress=False)

    runs = [bare, lambda: plain_loop(net, folder, size), lambda: ours("float32")]
    if has_bfloat16():
        runs.append(lambda: ours("bfloat16"))
    for run in runs:
        run()
    times = cpu_side_by_side(runs, repeats)
    per_image = [f"{seconds / len(images) * 1e3:.2f} ms" for seconds in times]
    half = [per_image[3], f"{times[1] / times[3]:.2f}"] if len(times) > 3 else ["–", "–"]
    return [
        f"{name}, {size}²",
        *per_image[:3],
        f"{times[2] / times[0]:.2f}",
        f"{times[1] / times[2]:.2f}",
        *half,
    ]


def accuracy_row() -> str:
    """Says what half precision does to the accuracy on the digits."""
    from lookalike import convert
    from lookalike.data import load_digits
    from lookalike.demo import network
    from lookalike.demo.training import train_digit_network

    data = load_digits(network.PREPROCESSING)
    net = train_digit_network(data, 0, False)
    test, truth = torch.stack([image for image, _ in data.test]), torch.as_tensor(data.test.labels)
    found = {}
    for precision in ("float32", "bfloat16"):
        model = convert(net, data.train, precision=precision, progress=False)
        found[precision] = float((model.predict(test) == truth).float().mean())
    points = 100 * (found["bfloat16"] - found["float32"])
    return (
        f"Digits, small network: prototypes from bfloat16 embeddings give {found['bfloat16']:.1%}, from float32 "
        f"{found['float32']:.1%} ({points:+.1f} points on 1,000 test images).\n"
    )


def main() -> None:
    """Runs all and prints Markdown."""
    from lookalike.embedding.precision import has_bfloat16

    bfloat16 = "bfloat16 in hardware" if has_bfloat16() else "no bfloat16 in hardware"
    quick = begin("Embedding", __doc__, "fewer images and repeats", f"; {bfloat16}")
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for size, write, number in (
            (32, write_digits, 256 if quick else 1024),
            (224, write_photographs, 250 if quick else 500),
        ):
            folder = Path(place) / str(size) / "train"
            write(folder, number)
            for name, make in networks().items():
                rows.append(pass_rows(name, make(), folder, size, 2 if quick else 5))
    heads = [
        "",
        "bare passes",
        "plain loop",
        "lookalike",
        "lookalike / bare",
        "loop / lookalike",
        "bfloat16",
        "loop / bfloat16",
    ]
    print(table(f"CPU time per image, batches of {BATCH}, from files (median)", heads, rows), flush=True)
    print(accuracy_row())


if __name__ == "__main__":
    main()
