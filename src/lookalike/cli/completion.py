"""Names that the shell completes after options and arguments.

They are written down here: to read them from the registries would import torch, and each Tab would take seconds. A test
holds both equal.
"""

from collections.abc import Callable, Sequence

SIMILARITIES = (
    "l2", "sqeuclidean", "l1", "log", "log-l2", "rbf", "dot", "cosine", "ned", "mahalanobis", "head",
)  # fmt: skip
CLUSTERERS = ("kmeans", "faiss", "minibatch", "bisecting", "kmedoids", "gmm")
LEVELS = ("image", "patch", "head")
DECISIONS = ("vote", "mean", "linear")
COMPOSITES = ("epsilon-plus-flat", "epsilon", "alpha1-beta0", "gamma", "attnlrp")
METHODS = ("blackbox", "flint", "protopnet", "protovae")
DATASETS = (
    "closeups", "digits", "digit-pairs", "glyphs", "imagenet-photos", "mnist", "fashion-mnist", "svhn", "cifar10",
    "stl10", "celeba", "cub200", "flowers102", "oxford-pets", "food101", "imagenette", "eurosat", "pcam", "quickdraw",
    "stamps", "styles",
)  # fmt: skip
MODELS = ("kmex", "protopnet", "protopnet+kmex", "flint", "flint+kmex", "protovae", "protovae+kmex")
EXPERIMENTS = (
    "baselines", "accuracy", "robustness", "ghosting", "explanations", "diversity", "summary", "runtime",
    "similarities", "n-prototypes", "clustering", "attributes", "calibration", "controls", "photographs",
    "photographs-ten", "photographs-objects", "doubt", "embedding", "few-images", "frozen-encoder", "how-many",
    "imagenet-photos", "imagenet-photos-each", "imbalance", "large-k-means", "novelty", "qualitative",
    "kmex-of-baselines", "prp-rules", "parts", "parts-ten", "part-concepts", "part-maps", "part-pictures",
    "patches", "photographs-models", "photographs-maps", "photographs-tuned", "photographs-baselines",
    "photographs-baseline-maps", "photographs-runtime", "photographs-clusterers", "photographs-attributes",
    "photographs-patches", "probabilities", "trained-attributes", "training-length", "watch",
)  # fmt: skip


def completing(names: Sequence[str], *, several: bool = False) -> Callable[[str], list[str]]:
    """Returns a function that completes one of some names, or the last of several that commas separate.

    Example:
        >>> completing(["l1", "l2", "log"])("l"), completing(["l1", "l2"], several=True)("l2,l")
        (['l1', 'l2', 'log'], ['l2,l1', 'l2,l2'])
    """

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        return [f"{before}{comma}{name}" for name in names if name.startswith(last)]

    return complete
