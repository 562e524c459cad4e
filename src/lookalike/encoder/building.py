"""Builds networks without weights; errors say in one line why a network cannot be built or downloaded."""

import contextlib
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from lookalike._core.errors import LookalikeError, first_line
from lookalike._core.startup import import_with_torchvision
from lookalike._core.wording import did_you_mean
from lookalike.encoder.preprocessing import with_input_channels
from lookalike.networks import NETWORKS

INCEPTIONS = ("googlenet", "inception_v3")  # their published weights normalise inside the network
INCEPTION_SWITCHES = ("transform_input", "aux_logits")

# configuration entries with one of these words make a library download files or run code
_FETCHING = ("backbone", "checkpoint", "pretrained", "auto_map", "quantization")
_IGNORED = frozenset({"attn_implementation", "_attn_implementation", "_name_or_path", "transformers_version"})


def check_torchvision(name: str) -> None:
    """Checks that torchvision has a classifier of this name."""
    torchvision = import_with_torchvision()

    available = torchvision.models.list_models(module=torchvision.models)
    if name not in available:
        raise _unknown("torchvision", name, available)


def build_torchvision(name: str, args: dict[str, Any]) -> nn.Module:
    """Builds a torchvision classifier with random weights."""
    torchvision = import_with_torchvision()

    check_torchvision(name)
    with building(f"torchvision:{name}", args):
        channels = args.get("in_chans", 3)
        args = {key: value for key, value in args.items() if key != "in_chans"}
        if name in INCEPTIONS:
            args = {"init_weights": False} | args  # torchvision's default initialisation takes half a minute
        model: nn.Module = torchvision.models.get_model(name, weights=None, **args)
        return model if channels == 3 else with_input_channels(model, channels)


def build_timm(name: str, args: dict[str, Any], *, pretrained: bool) -> nn.Module:
    """Builds a timm classifier, with random or published weights."""
    timm = import_extra("timm")
    if not pretrained and not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    if ":" not in name and "/" not in name and not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    with building(f"timm:{name}", args):
        return timm.create_model(name, pretrained=pretrained, **args)  # type: ignore[no-any-return]


def build_lookalike(name: str, args: dict[str, Any], network: nn.Module | None = None) -> nn.Module:
    """Builds one of lookalike's own networks, on top of ``network`` if it needs one."""
    make = NETWORKS[name]
    with building(f"lookalike:{name}", args):
        return make(**args) if network is None else make(network, **args)


def safe_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a saved Hugging Face configuration without entries that only concern how it was loaded.

    Raises:
        LookalikeError: If building from it would download files or run code.
    """
    refused = [
        key
        for key, value in config.items()
        if value and any(word in key for word in _FETCHING) and not _is_number_or_list(value)
    ]
    if str(config.get("model_type", "")).startswith("timm") or refused:
        raise LookalikeError(
            f"the saved model asks for {', '.join(refused) or 'a wrapped network'} when its network is built, "
            "which is refused; make the network yourself and call load(folder, model=network)"
        )
    return {key: value for key, value in config.items() if key not in _IGNORED}


def _is_number_or_list(value: Any) -> bool:
    """Says whether a value is a number or a list of numbers.

    Such a value names no file: SwinV2's configuration has pretrained window sizes.
    """
    if isinstance(value, list | tuple):
        return all(_is_number_or_list(entry) for entry in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


@contextlib.contextmanager
def building(network: str, args: Mapping[str, Any]) -> Iterator[None]:
    """Turns any error while a network is built into one line that names the network and its arguments."""
    try:
        yield
    except LookalikeError:
        raise
    except Exception as error:
        raise LookalikeError(f"cannot build {network} with {dict(args)}: {error}") from error


@contextlib.contextmanager
def downloading(network: str) -> Iterator[None]:
    """Turns any error while a network is built with published weights into one line with the way out."""
    try:
        yield
    except LookalikeError:
        raise
    except Exception as error:
        if not isinstance(error, (OSError, RuntimeError, ValueError, ImportError, pickle.UnpicklingError)):
            raise LookalikeError(f"cannot build {network}: {first_line(error)}") from error
        if "trust_remote_code" in str(error):
            raise LookalikeError(
                f"{network} needs the code of its own repository, which is never run: build the network in a file of "
                "yours (path/to/file.py:function) and give its weights with --weights (weights=)"
            ) from error
        if "ignore_mismatched_sizes" in str(error):
            raise LookalikeError(
                f"the weights of {network} have other shapes than its config.json says (its number of classes, say); "
                "correct the configuration, or give the file itself with --weights (weights=)"
            ) from error
        if "weights_only" in str(error):
            raise LookalikeError(
                f"the weights of {network} are a pickle of more than tensors, which is not run; give the file itself "
                "with --weights (weights=), which is read without running it"
            ) from error
        reason = first_line(error)
        raise LookalikeError(
            f"the published weights of {network} cannot be loaded ({reason[:160]}); "
            "give a file with --weights (weights=)"
        ) from error


def _unknown(source: str, name: str, available: list[str]) -> LookalikeError:
    return LookalikeError(f"{source} has no model {name!r}{did_you_mean(name, available, most=3)}")


def import_extra(package: str, distribution: str | None = None) -> Any:
    """Imports an optional package; the error says how to install it, by its distribution's name if that is another."""
    try:
        return import_with_torchvision(package)
    except ImportError as error:
        raise LookalikeError(f"this needs {package}: pip install {distribution or package}") from error
