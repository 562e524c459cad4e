"""Creates the network that a baseline starts from, with published weights if available, else with a warning."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lookalike._core.errors import LookalikeError, warn_of
from lookalike.baselines.baseline import Start
from lookalike.encoder import Encoder, load_classifier, read_spec, rebuild


def start_from(
    network: str, sample: Tensor, *, pretrained: bool, weights: Path | None = None, weights_key: str | None = None
) -> Start:
    """Creates a network by name and finds its head.

    Args:
        network: ``torchvision:NAME``, ``timm:NAME`` or ``lookalike:NAME``.
        sample: A few of its inputs [n, C, H, W].
        pretrained: Use published weights; if they are not available, warn and start from random weights.
        weights: A checkpoint to use instead; it may lack the head, which is trained anew.
        weights_key: The set of weights to use if several in the checkpoint fit.

    Raises:
        LookalikeError: If there is no such network, its head is not found, or the given weights do not fit.
    """
    spec = read_spec(network)
    model = rebuild(spec)
    if weights is not None:
        loaded = load_classifier(network, weights, weights_key=weights_key)
        model, spec = loaded.model, loaded.spec
        if loaded.head is not None:
            model, spec = _with_random_head(model, spec)
    elif pretrained and spec["source"] != "lookalike":
        try:
            loaded = load_classifier(network)
            model, spec = loaded.model, loaded.spec
        except LookalikeError as error:
            warn_of(f"{network} is trained from scratch, which asks for more data and a larger learning rate: {error}")
    head = Encoder(model, sample).head_name
    if head is None:
        raise LookalikeError(f"{network} has no head")
    return Start(model, spec, head)


def _with_random_head(encoder: nn.Module, spec: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Returns a network that was loaded without a head, and its spec, with a random head in place."""
    network = rebuild(spec["network"])
    network.load_state_dict(encoder.state_dict(), strict=False)
    return network, spec["network"]
