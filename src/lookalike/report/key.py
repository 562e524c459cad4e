"""The key of a report: every symbol and technical word on the page, and what it means in plain words.

A word of the key that stands in a text of the page becomes a link to its entry. A test reads whole pages and fails on
a symbol that is not here.
"""

import re
from typing import Any, NamedTuple

from lookalike._core.names import visible


class Term(NamedTuple):
    """An entry of the key.

    Attributes:
        anchor: Its id on the page, without "key-".
        title: Its heading.
        pattern: Regular expression of the words that it explains.
        meaning: What they mean.
    """

    anchor: str
    title: str
    pattern: str
    meaning: str


TERMS = (
    Term(
        "interval",
        "95% interval",
        "95% intervals?|Wilson",
        "The range that the true value is in with a chance of 95%, if the images were drawn by chance; for shares, "
        "Wilson's.",
    ),
    Term(
        "agreement",
        "agreement",
        "agreement",
        "The share of test images to which the model and the original give the same answer.",
    ),
    Term(
        "seed",
        "seed",
        "seeds?",
        "A number that draws by chance start from: the same seed gives the same draws.",
    ),
    Term(
        "embedding",
        "embedding",
        "embeddings?|encoder",
        "The numbers that the network turns an image into, in its encoder; likenesses are measured between them.",
    ),
    Term(
        "kmex",
        "KMEx",
        "KMEx|kmeans|k-means",
        "The way in which the model was made: each prototype is the centre of a cluster of training images of its "
        "class, found by k-means.",
    ),
    Term(
        "temperature",
        "temperature",
        "temperature",
        "A number that likenesses are divided by before they become probabilities: the higher, the less sure.",
    ),
    Term(
        "ece",
        "ECE, calibration error",
        "(?:expected )?calibration error(?: ECE)?|ECE",
        "How far the stated probabilities are from the shares that turn out correct, on average; 0 is best.",
    ),
    Term(
        "log-loss",
        "log loss",
        "log loss",
        "The mean of −log of the probability that was given to the true class; 0 is best.",
    ),
    Term(
        "brier",
        "Brier score",
        "Brier score",
        "The mean squared distance of the probabilities from certainty of the true class; 0 is best.",
    ),
    Term(
        "plain",
        "1-NN, logistic regression, nearest class mean",
        "1-NN|logistic regression|nearest class mean",
        "Plain classifiers on the same embedding, to compare with: the class of the nearest training image (1-NN), "
        "a linear one, and the class with the nearest mean.",
    ),
    Term(
        "tsp",
        "D_tsp, ghosting",
        "D_tsp|ghosting",
        "The share of prototypes that are unused: no training image of their class looks most like them.",
    ),
    Term(
        "lrp",
        "LRP, PRP",
        "LRP|PRP",
        "Layer-wise and prototypical relevance propagation, which heat-maps are made by: an answer, or a likeness "
        "to a prototype, is shared out to the pixels, layer by layer.",
    ),
    Term(
        "rule",
        "rule: neuralized, gradient, share",
        "neuralized|rule",
        "How a heat-map starts at the likeness. “neuralized”: from the lead over the strongest prototype of "
        "another class; “gradient”: from how the likeness changes with each number of the embedding; “share”: from "
        "the share of each number, which is unstable.",
    ),
    Term(
        "composite",
        "composite, epsilon-plus-flat",
        "composite|epsilon-plus-flat",
        "Which rule of relevance propagation each layer of the network has.",
    ),
    Term(
        "fth",
        "D_fth, divergence of explanations",
        "D_fth|divergence of explanations",
        "How far the model's heat-maps are from the original's: the mean Kullback–Leibler divergence between their "
        "shares of absolute relevance; 0 is best. The same for random controls says what it is by chance.",
    ),
    Term(
        "correlation",
        "signed correlation",
        "signed correlation",
        "The correlation between the model's heat-maps and the original's, red and blue told apart: from −1 to 1, "
        "which is best.",
    ),
    Term(
        "controls",
        "random head, permuted labels, different images",
        "random head|permuted (?:prototype )?labels|maps of different images",
        "What is compared for the sake of chance: the network with a random last layer, the prototypes with their "
        "classes mixed up, and maps of two images that have nothing to do with each other.",
    ),
    Term(
        "auroc",
        "AUROC of heat-maps",
        "AUROC",
        "Not that of a classifier: the area under the probability of the answer while the least relevant pixels "
        "turn to noise, step by step. The higher, the better the heat-maps show what the answer needs.",
    ),
    Term(
        "ai-ad",
        "AI, AD",
        "average increase(?: AI)?|average drop(?: AD)?|AI|AD",
        "What happens to the likeness when only the most relevant pixels are kept: the share of images for which "
        "it grows (average increase, AI), and by how much it falls (average drop, AD).",
    ),
    Term(
        "dvs",
        "D_dvs, diversity",
        "D_dvs|diversity",
        "How alike the prototypes are: the mean entropy of the softmax of a prototype's similarities to all "
        "prototypes, as a share of the largest possible; 0 is most diverse. It depends on the similarity: compare "
        "only models with the same one.",
    ),
    Term(
        "log-l2",
        "log-l2, ε",
        "log-l2|ε",
        "The similarity log((d + 1) / (d + ε)) at a distance d, and its small constant.",
    ),
    Term(
        "overlap",
        "overlap",
        "overlap",
        "The share of a class's training images that are nearer to a prototype of another class than to any of "
        "their own.",
    ),
    Term(
        "silhouette",
        "silhouette",
        "silhouette",
        "How well the classes are apart in the embedding, from −1 to 1, which is best.",
    ),
    Term(
        "objects",
        "pointing game, relevance on the object",
        "pointing game|(?:relevance|relevant pixels?) on the object",
        "How much of a heat-map is on the object that the image shows: whether its most relevant pixel is, which "
        "share of the relevance is, and how many of the most relevant pixels are.",
    ),
    Term(
        "sanity",
        "rank correlation, structural similarity",
        "rank correlation|structural similarity",
        "Two ways of comparing heat-maps before and after the network's layers are made random. If they stay "
        "alike, the maps do not depend on what the network learned.",
    ),
    Term(
        "deletion",
        "deletion, insertion, ROAD",
        "deletion|insertion|ROAD",
        "What becomes of the answer when the most relevant pixels are taken away, put into an empty image, or "
        "replaced by what their neighbours suggest (remove and debias, ROAD).",
    ),
    Term(
        "maps",
        "faithfulness correlation, sensitivity, sparseness, complexity",
        "faithfulness correlation|max-sensitivity|sensitivity|sparseness|complexity",
        "Whether relevance goes with what the answer loses without the pixels; how much heat-maps change with "
        "small noise; and to how few pixels they point.",
    ),
    Term(
        "bootstrap",
        "bootstrap",
        "bootstrap",
        "Making the prototypes again from training images drawn with repeats, to see whether they stay.",
    ),
    Term(
        "holm",
        "Holm",
        "Holm",
        "A correction for testing many classes at once: among many, some lose accuracy by chance alone.",
    ),
    Term(
        "fingerprint",
        "fingerprint, xxh3",
        "fingerprint|xxh3",
        "A fingerprint of a file or of data: another one means other contents.",
    ),
)

_ANY = re.compile(rf"(?<![\w-])(?:{'|'.join(f'(?P<t{i}>{term.pattern})' for i, term in enumerate(TERMS))})(?![\w-])")
_ORIGINAL = re.compile(r"\b(the |a |no )?black box\b")
_ARTICLES = {"the ": "the ", "a ": "an ", "no ": "no ", "": ""}


def of_the_page(text: str) -> str:
    """Returns a text in the words of the page: what the library calls the black box is "the original" there.

    Example:
        >>> of_the_page("AUROC of the black box's heat-maps")
        "AUROC of the original's heat-maps"
    """
    return _ORIGINAL.sub(lambda match: f"{_ARTICLES[match[1] or '']}original", text)


def linked(text: Any) -> Any:
    """Returns a text in the words of the page as markup, in which words of the key are links to their entries."""
    from markupsafe import Markup, escape

    text, parts, end, seen = of_the_page(visible(str(text))), [], 0, set()
    for match in _ANY.finditer(text):
        term = TERMS[int(str(match.lastgroup)[1:])]
        if term.anchor in seen:
            continue
        seen.add(term.anchor)
        link = Markup('<a class="term" href="#key-{}">{}</a>').format(term.anchor, match[0])
        parts += [escape(text[end : match.start()]), link]
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])
