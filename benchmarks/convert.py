"""K-means, whole conversions and predictions beside what a user would otherwise do.

    python benchmarks/convert.py [--quick]

Prints Markdown. Ratios are medians of pairs timed in turn; above 1 means that lookalike is faster.
"""

import functools
import statistics
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from common import begin, embeddings, in_process, ratio, side_by_side, table, timed, use_threads

N_PROTOTYPES = 5


def naive_conversion(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Scikit-learn's k-means per class, then all differences of all samples and prototypes at once."""
    from sklearn.cluster import KMeans

    classes = np.unique(y)
    centres = [KMeans(N_PROTOTYPES, n_init=10, random_state=0).fit(z[y == k]).cluster_centers_ for k in classes]
    prototypes = np.concatenate(centres).astype(np.float32)
    distances = np.sqrt(((z[:, None] - prototypes) ** 2).sum(2))
    distances[y[:, None] != np.repeat(classes, N_PROTOTYPES)] = np.inf
    return np.argsort(distances, axis=0)[:10].T


def our_conversion(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The same by lookalike."""
    from lookalike.conversion.per_class import learn_prototypes
    from lookalike.conversion.survey import survey
    from lookalike.model.similarity import make_similarity

    similarity = make_similarity("l2")
    names = [str(k) for k in np.unique(y)]
    learned = learn_prototypes(z, y, names, similarity, n_prototypes=N_PROTOTYPES)
    return survey(learned, similarity, z, y).nearest.numpy()


def convert_made(conversion: object, n_per_class: int) -> None:
    """Converts in a fresh process (for the memory), data included."""
    use_threads()
    z, y = embeddings(n_per_class)
    conversion(z, y)  # type: ignore[operator]


def only_make(n_per_class: int) -> None:
    """Makes the data alone, to know what they cost, and imports what both need."""
    use_threads()
    z, y = embeddings(n_per_class)
    our_conversion(z[:: n_per_class // 20], y[:: n_per_class // 20])


def kmeans_table(n: int, repeats: int) -> str:
    """Compares k-means with scikit-learn's, class by class."""
    from sklearn.cluster import KMeans

    from lookalike.conversion.clustering import cluster

    z, y = embeddings(n)
    ours, theirs, inertias = [], [], []
    for repeat in range(repeats):
        for k in range(10):
            points = z[y == k]
            seconds, found = timed(lambda p=points, r=repeat: cluster(p, N_PROTOTYPES, seed=r))
            ours.append(seconds)
            options = {"n_init": 10, "random_state": repeat}
            seconds, peer = timed(lambda p=points, o=options: KMeans(N_PROTOTYPES, **o).fit(p))
            theirs.append(seconds)
            inertias.append(found.inertia / peer.inertia_)
    rows = [
        ["scikit-learn, n_init=10", f"{statistics.median(theirs) * 1e3:.0f} ms", "1", "1"],
        [
            "lookalike",
            f"{statistics.median(ours) * 1e3:.0f} ms",
            f"{ratio(theirs, ours):.1f}",
            f"{np.mean(inertias):.4f} (worst {max(inertias):.4f}, best {min(inertias):.4f})",
        ],
    ]
    title = f"K-means of one class, {n:,} × 512, {N_PROTOTYPES} clusters (median of 10 classes × {repeats} seeds)"
    return table(title, ["", "time", "times faster", "inertia"], rows)


def conversion_table(n_per_class: int, repeats: int) -> str:
    """Compares whole conversions from embeddings, in time and memory."""
    z, y = embeddings(n_per_class)
    ours, theirs = side_by_side(
        [functools.partial(our_conversion, z, y), functools.partial(naive_conversion, z, y)], repeats
    )
    base = in_process(functools.partial(only_make, n_per_class))[1]
    memory = [
        in_process(functools.partial(convert_made, run, n_per_class))[1] - base
        for run in (naive_conversion, our_conversion)
    ]
    rows = [
        ["naive", f"{statistics.median(theirs):.2f} s", "1", f"{memory[0]:.2f} GiB"],
        ["lookalike", f"{statistics.median(ours):.2f} s", f"{ratio(theirs, ours):.1f}", f"{max(memory[1], 0):.2f} GiB"],
    ]
    title = f"Whole conversion of {10 * n_per_class:,} × 512 embeddings (median of {repeats})"
    return table(title, ["", "time", "times faster", "peak memory on top of the data"], rows)


@torch.no_grad()
def prediction_table(repeats: int) -> str:
    """Compares predictions with the black box's."""
    import torchvision

    from lookalike import convert

    rows = []
    for size, batch in ((32, 50), (32, 1), (224, 4), (224, 1)):
        network = torchvision.models.resnet34(weights=None).eval()
        x = torch.randn(max(batch, 50), 3, size, size)
        model = convert(network, (x, torch.arange(len(x)) % 10), batch_size=16, n_images=0, progress=False)
        x = x[:batch]
        times = side_by_side([lambda x=x, m=model: m(x).argmax(1), lambda x=x, n=network: n(x).argmax(1)], repeats)
        rows.append(
            [
                f"{size}², batch {batch}",
                *(f"{statistics.median(t) * 1e3:.1f} ms" for t in reversed(times)),
                f"{ratio(*times):.3f}",
            ]
        )
    title = f"Prediction with ResNet34 (median of {repeats} pairs)"
    return table(title, ["", "black box", "lookalike", "lookalike / black box"], rows)


def main() -> None:
    """Runs all and prints Markdown."""
    quick = begin("Conversion", __doc__, "fewer samples and repeats")
    print(kmeans_table(1000 if quick else 6000, 1 if quick else 3), flush=True)
    print(conversion_table(1000 if quick else 6000, 1 if quick else 3), flush=True)
    print(prediction_table(5 if quick else 31))


if __name__ == "__main__":
    main()
