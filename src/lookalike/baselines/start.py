"""The network that a baseline starts from: published weights where they can be had, else random ones, said aloud."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lookalike._core.errors import LookalikeError, warn_of
from lookalike.baselines.baseline import Start
from lookalike.encoder import Encoder, load_classifier, read_spec, rebuild


def start_from(
    network: str, sample: Tensor, *, pretrained: bool, weights: Path | None = None, weights_key: str | None = None
) -> Start:
    """Makes a network by its name.

    Args:
        network: ``torchvision:NAME``, ``timm:NAME`` or ``lookalike:NAME``.
        sample: Some of its inputs [n, C, H, W].
        pretrained: Take published weights; where they cannot be had, a warning says that it starts from scratch.
        weights: A checkpoint to take instead; its head may be missing, as it is trained anew.
        weights_key: Which of its weights, where it holds several sets that fit.

    Raises:
        LookalikeError: If there is no such network, its head is not found, or the given weights do not fit.
    """
    spec = read_spec(network)
    made = rebuild(spec)
    if weights is not None:
        loaded = load_classifier(network, weights, weights_key=weights_key)
        made, spec = loaded.model, loaded.spec
        if loaded.head is not None:
            made, spec = _with_random_head(made, spec)
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


def _with_random_head(encoder: nn.Module, spec: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Returns a network whose weights have no head with a random one, for the training to begin with."""
    whole = rebuild(spec["network"])
    whole.load_state_dict(encoder.state_dict(), strict=False)
    return whole, spec["network"]
