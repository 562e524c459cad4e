"""What it costs to tell whether arrays in memory are those of stored results: SHA-256, and the identity in use.

    python benchmarks/fingerprints.py [--quick]

Prints Markdown. CPU seconds of one thread, alternating, medians; beside a plain copy of the same memory as the limit.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from common import begin, cpu_side_by_side, table


def main() -> None:
    """Runs all and prints Markdown."""
    import torchvision

    from lookalike._core.identity import identify_tensors
    from lookalike._core.provenance import fingerprint_tensors

    quick = begin("Fingerprints", __doc__, "fewer images and repeats")
    n = 256 if quick else 1024
    rows = []
    for name, tensors in {
        f"{n} images of 224² in float32": {"x": torch.rand(n, 3, 224, 224)},
        "the weights of ResNet34": dict(torchvision.models.resnet34(weights=None).state_dict()),
    }.items():
        gigabytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) / 1e9
        copies: list[Callable[[], object]] = [
            lambda tensors=tensors: fingerprint_tensors(tensors),
            lambda tensors=tensors: identify_tensors(tensors),
            lambda tensors=tensors: [tensor.clone() for tensor in tensors.values()],
        ]
        sha, xxh3, copy = cpu_side_by_side(copies, 3 if quick else 7)
        rates = [f"{gigabytes / seconds:.1f} GB/s" for seconds in (sha, xxh3, copy)]
        rows.append([name, *rates, f"{sha / xxh3:.1f}"])
    print(table("Bytes per CPU second", ["", "SHA-256", "XXH3", "copy", "XXH3 times faster"], rows))


if __name__ == "__main__":
    main()
