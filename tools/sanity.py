"""Sanity checks of the demonstration's network: weights randomised from the head down, and training on permuted labels.

    python tools/sanity.py docs/assets/results/sanity.png

Trains the network twice, on the digits' labels and on permuted ones, converts it, and prints the tables of
``docs/results/sanity.md``.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch

from lookalike import convert, embed
from lookalike.data import DataBundle, load_digits
from lookalike.demo import network
from lookalike.demo.training import train_digit_network
from lookalike.metrics import Likenesses, SanityCheck, Scorecard, sanity_check
from lookalike.metrics.sanity import compare_explanations
from lookalike.model import PrototypeModel

N_IMAGES = 100


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="the picture to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    digits = load_digits(network.PREPROCESSING)
    rows = np.linspace(0, len(digits.test) - 1, N_IMAGES).astype(int)
    images = torch.stack([digits.test[int(row)][0] for row in rows])
    model = trained_and_converted(digits, digits, arguments.seed)
    store = embed(model, digits.train, progress=False)
    check = sanity_check(model, images, train=(store.embeddings, store.labels), seed=arguments.seed)
    strange = trained_and_converted(with_permuted_labels(digits, arguments.seed), digits, arguments.seed)
    print_tables(check, compare_explanations(model, strange, images))
    figure = Scorecard({}, {"sanity": [check.to_dict()]}, model.class_names).plot_sanity().get_figure(root=True)
    figure.savefig(arguments.output, dpi=130, bbox_inches="tight")


def trained_and_converted(learned: DataBundle, digits: DataBundle, seed: int) -> PrototypeModel:
    """Trains the network on some labels, and converts it with the digits' own."""
    return convert(train_digit_network(learned, seed, False), digits.train, seed=seed, progress=False)


def with_permuted_labels(digits: DataBundle, seed: int) -> DataBundle:
    """Returns the digits with the labels of the training images permuted."""
    train = digits.train
    labels = np.random.default_rng(seed).permutation(train.labels)
    return replace(digits, train=type(train)(train.images, labels, train.classes, train.transform))


def print_tables(check: SanityCheck, strange: Likenesses) -> None:
    """Prints a line per depth, and one for each way to randomise labels."""
    print("| randomised | PRP, ranks | PRP, structure | LRP, ranks | LRP, structure | same prototype |")
    print("|---|---:|---:|---:|---:|---:|")
    rows = list(zip(check.depths, check.likenesses, strict=True))
    rows += [("labels, clustering alone", check.labels), ("labels, training of the network", strange)]
    for name, one in rows:
        maps = [f"{values[kind]:.2f}" for kind in ("likeness", "probability") for values in (one.rank, one.structure)]
        same = "–" if one is strange else f"{one.same_prototype:.0%}"  # another network's prototypes have other numbers
        print(f"| {name} | {' | '.join(maps)} | {same} |")


if __name__ == "__main__":
    main()
