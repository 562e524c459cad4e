"""The network that a baseline starts from: published weights where they can be had, else random ones, said aloud."""

from pathlib import Path

from torch import Tensor

from lookalike.baselines.baseline import Start
from lookalike.encoder import Encoder, load_classifier, read_spec, rebuild
from lookalike.errors import LookalikeError, warn_of


def start_from(network: str, sample: Tensor, *, pretrained: bool, weights: Path | None = None) -> Start:
    """Makes a network by its name.

    Args:
        network: ``torchvision:NAME``, ``timm:NAME`` or ``lookalike:NAME``.
        sample: Some of its inputs [n, C, H, W].
        pretrained: Take published weights; where they cannot be had, a warning says that it starts from scratch.
        weights: A file of weights to take instead.

    Raises:
        LookalikeError: If there is no such network, its head is not found, or the given weights do not fit.
    """
    spec = read_spec(network)
    made = rebuild(spec)
    if weights is not None:
        loaded = load_classifier(network, weights)
        made, spec = loaded.model, loaded.spec
    elif pretrained and spec["source"] != "lookalike":
        try:
            loaded = load_classifier(network)
            made, spec = loaded.model, loaded.spec
        except LookalikeError as error:
            warn_of(f"{network} is trained from scratch, which asks for more data and a larger learning rate: {error}")
    head = Encoder(made, sample).head_name
    if head is None:
        raise LookalikeError(f"{network} has no head")
    return Start(made, spec, head)
