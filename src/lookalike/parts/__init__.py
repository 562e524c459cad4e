"""Parts: which part of an image is which concept, what it adds to a score, and which part it corresponds to.

The design, from the network to the words:

    encoder/patches.py     PatchEncoder: positions of one or several feature maps → patches [N, S · D] in one row
    conversion/patches.py  all training patches [N · S, D] → prototypes of patches, per class or for all together
    model/decision.py      similarities of every patch [N, S, P] → class, as a sum over the patches
    parts/concepts.py      the prototypes of patches: what they show, the classes that they serve
    parts/segmentation.py  the most similar prototype of each position
    parts/attribution.py   what each position adds to a class's score, from one forward pass
    parts/comparison.py    why this class rather than that one, as parts, as a map and in words
    parts/pairing.py       which region of an input corresponds to which region of a prototype's image
    parts/per_image.py     a class or prototype for all images, or one for each
    parts/explained.py     these together, for ``explain(..., parts=True)``

A ``PrototypeModel`` sees only three things of it: an embedding that holds S patches in one row, a classifier with
``of_patches``, and ``prototypes.positions``. So it is saved, loaded, explained, evaluated and reported like any other.
"""

from lookalike.parts.attribution import Contributions, contributions
from lookalike.parts.comparison import Difference, difference
from lookalike.parts.concepts import Concept, concepts
from lookalike.parts.explained import ExplainedParts, explain_parts, right_and_wrong
from lookalike.parts.pairing import PairedRegions, pair_regions
from lookalike.parts.segmentation import Segments, segment

__all__ = [
    "Concept",
    "Contributions",
    "Difference",
    "ExplainedParts",
    "PairedRegions",
    "Segments",
    "concepts",
    "contributions",
    "difference",
    "explain_parts",
    "pair_regions",
    "right_and_wrong",
    "segment",
]
