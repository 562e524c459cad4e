"""Reads damaged images of ten formats: no traceback, no hang, memory below a limit.

    python tools/fuzz_images.py --images 5000 --seed 0

Each image is made and damaged by its own number and the seed, and read in a child process, as the commands read it. The
table says what became of them; the exit code is 1 if any was not read or refused in one line.
"""

import argparse
import io
import json
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from lookalike._core.errors import LookalikeError
from lookalike.data import Preprocessing

KINDS: dict[str, tuple[str, tuple[str, ...]]] = {  # suffix: Pillow's format, modes
    "png": ("PNG", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    "jpg": ("JPEG", ("L", "RGB", "CMYK")),
    "mpo": ("MPO", ("RGB",)),
    "gif": ("GIF", ("L", "P", "RGB")),
    "bmp": ("BMP", ("1", "L", "P", "RGB")),
    "tif": ("TIFF", ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "LAB")),
    "webp": ("WEBP", ("RGB", "RGBA")),
    "avif": ("AVIF", ("RGB", "RGBA")),
    "jp2": ("JPEG2000", ("L", "LA", "RGB", "RGBA", "I;16")),
    "ppm": ("PPM", ("1", "L", "RGB", "I;16", "F")),
}
PREPARED = Preprocessing.square(32, value_range=(0.0, 65_535.0))
GIB = 1 << 30
_HUGE = (0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 65_535, 65_536, 30_000, 1_000_000, 0)


def damaged_image(number: int, seed: int) -> tuple[str, bytes]:
    """Returns the suffix and the content of a damaged image.

    Args:
        number: Which one; the formats take turns.
        seed: Of all of them.
    """
    rng = np.random.default_rng([seed, number])
    suffix = list(KINDS)[number % len(KINDS)]
    content = bytearray(_encode(suffix, rng))
    for _ in range(rng.integers(1, 4)):
        content = _DAMAGE[rng.integers(len(_DAMAGE))](content, rng)
    return suffix, bytes(content)


def read_damaged(number: int, seed: int, folder: Path) -> str:
    """Reads a damaged image; "read", "refused", or what is wrong."""
    suffix, content = damaged_image(number, seed)
    path = folder / f"{number}.{suffix}"
    path.write_bytes(content)
    try:
        inputs = PREPARED.read(path)
    except LookalikeError as error:
        text = str(error)
        if "\n" in text or not text.isprintable() or str(path) not in text:
            return f"not one line that names the file: {text!r}"
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        path.unlink()
    return "read" if inputs.shape == (3, 32, 32) and bool(inputs.isfinite().all()) else f"read as {inputs.shape}"


def _encode(suffix: str, rng: np.random.Generator) -> bytes:
    name, modes = KINDS[suffix]
    mode = modes[rng.integers(len(modes))]
    height, width = (int(side) for side in rng.integers(1, 80, 2))
    image = _picture(mode, height, width, rng)
    options: dict[str, object] = {}
    if name == "TIFF" and mode not in ("I;16", "I", "F"):
        options["compression"] = [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"][rng.integers(4)]
    if name == "JPEG":
        options["progressive"] = bool(rng.integers(2))
    if name in ("PNG", "JPEG", "WEBP", "AVIF") and rng.integers(2):
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(1, 9))
        options["exif"] = exif
    if name in ("PNG", "GIF", "WEBP", "TIFF", "MPO") and mode in ("RGB", "P", "L") and rng.integers(2):
        options |= {"save_all": True, "append_images": [_picture(mode, height, width, rng)]}
    if name == "PNG":
        options["icc_profile"] = bytes(rng.integers(0, 256, 200, dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, format=name, **options)
    return buffer.getvalue()


def _picture(mode: str, height: int, width: int, rng: np.random.Generator) -> Image.Image:
    if mode == "F":
        return Image.fromarray(rng.random((height, width), dtype=np.float32) * 1000)
    if mode in ("I", "I;16"):
        kind = np.int32 if mode == "I" else np.uint16
        return Image.fromarray(rng.integers(0, 60_000, (height, width)).astype(kind))
    pixels = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    if mode == "LAB":
        return Image.frombytes("LAB", pixels.size, pixels.tobytes())
    return pixels.convert("L").convert(mode) if mode in ("LA", "1") else pixels.convert(mode)


def _flip_bits(content: bytearray, rng: np.random.Generator) -> bytearray:
    for position in rng.integers(0, len(content), rng.integers(1, 20)):
        content[position] ^= 1 << int(rng.integers(8))
    return content


def _flip_in_header(content: bytearray, rng: np.random.Generator) -> bytearray:
    for position in rng.integers(0, min(len(content), 120), rng.integers(1, 6)):
        content[position] = int(rng.integers(256))
    return content


def _cut(content: bytearray, rng: np.random.Generator) -> bytearray:
    return content[: max(1, int(rng.integers(len(content))))]


def _fill(content: bytearray, rng: np.random.Generator) -> bytearray:
    start = int(rng.integers(len(content)))
    length = min(int(rng.integers(1, 64)), len(content) - start)
    content[start : start + length] = bytes([[0, 255][rng.integers(2)]]) * length
    return content


def _huge_number(content: bytearray, rng: np.random.Generator) -> bytearray:
    start = int(rng.integers(min(len(content), 200)))
    number = _HUGE[rng.integers(len(_HUGE))]
    width = (2, 4)[rng.integers(2)]
    order = ("little", "big")[rng.integers(2)]
    content[start : start + width] = (number % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
    return content


def _repeat(content: bytearray, rng: np.random.Generator) -> bytearray:
    start = int(rng.integers(len(content)))
    piece = content[start : start + int(rng.integers(1, 200))]
    return content[:start] + piece * int(rng.integers(2, 50)) + content[start:]


def _splice(content: bytearray, rng: np.random.Generator) -> bytearray:
    other = bytearray(_encode(list(KINDS)[rng.integers(len(KINDS))], rng))
    return content[: int(rng.integers(1, len(content) + 1))] + other[int(rng.integers(len(other))) :]


def _random(content: bytearray, rng: np.random.Generator) -> bytearray:
    start = int(rng.integers(len(content)))
    content[start:] = rng.integers(0, 256, len(content) - start, dtype=np.uint8).tobytes()
    return content


_DAMAGE = (_flip_bits, _flip_in_header, _cut, _fill, _huge_number, _repeat, _splice, _random)


def child(first: int, last: int, seed: int) -> None:
    """Reads images one by one, and prints a line of JSON for each."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, last):
            started = time.perf_counter()
            outcome = read_damaged(number, seed, Path(folder))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            line = {"number": number, "outcome": outcome, "seconds": time.perf_counter() - started, "peak": peak}
            print(json.dumps(line), flush=True)


def read_all(first: int, last: int, seed: int, seconds: float) -> Iterator[dict[str, object]]:
    """Yields what became of each image, in child processes; one that hangs or dies is replaced.

    Args:
        first: The first image.
        last: The one after the last.
        seed: Of all of them.
        seconds: The time that one image may take; the first of a process has a minute more.
    """
    while first < last:
        command = [sys.executable, __file__, "--child", str(first), str(last), "--seed", str(seed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            patience = seconds + 60
            while first < last:
                ready, _, _ = select.select([process.stdout], [], [], patience)
                line = process.stdout.readline() if ready and process.stdout else ""
                if not line:
                    outcome = f"died ({process.wait()})" if ready else "hang"
                    process.kill()
                    yield {"number": first, "outcome": outcome, "seconds": patience, "peak": 0}
                    first += 1
                    break
                yield json.loads(line)
                first, patience = first + 1, seconds


def main() -> int:
    """Runs the whole and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10.0, help="The most that one image may take.")
    parser.add_argument("--memory", type=float, default=2.0, help="The most that a process may take, in GiB.")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child, options.seed)
        return 0
    counts: dict[str, Counter[str]] = {suffix: Counter() for suffix in KINDS}
    longest, peak, failures = 0.0, 0.0, []
    for row in read_all(0, options.images, options.seed, options.seconds):
        suffix = list(KINDS)[int(str(row["number"])) % len(KINDS)]
        good = row["outcome"] in ("read", "refused")
        counts[suffix][str(row["outcome"]) if good else "failed"] += 1
        longest, peak = max(longest, float(str(row["seconds"]))), max(peak, float(str(row["peak"])))
        if not good:
            failures.append(f"image {row['number']} (.{suffix}): {row['outcome']}")
    print(f"{'format':8}{'images':>8}{'read':>8}{'refused':>9}{'failed':>8}")
    for suffix, found in counts.items():
        print(f"{suffix:8}{found.total():8}{found['read']:8}{found['refused']:9}{found['failed']:8}")
    print(f"longest {longest:.2f} s, peak memory {peak / GIB:.2f} GiB, seed {options.seed}")
    for failure in failures:
        print(failure)
    return int(bool(failures) or peak > options.memory * GIB)


if __name__ == "__main__":
    sys.exit(main())
