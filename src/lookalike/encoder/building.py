"""Building networks without weights, and saying in one line why one cannot be built or fetched."""

import contextlib
import importlib
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from lookalike._core.errors import LookalikeError, first_line
from lookalike.encoder.preprocessing import with_input_channels
from lookalike.networks import NETWORKS

INCEPTIONS = ("googlenet", "inception_v3")  # their published weights normalise inside the network
INCEPTION_SWITCHES = ("transform_input", "aux_logits")

_FETCHING = ("backbone", "checkpoint", "pretrained", "auto_map", "quantization")
_IGNORED = frozenset({"attn_implementation", "_attn_implementation", "_name_or_path", "transformers_version"})


def check_torchvision(name: str) -> None:
    """Checks that torchvision has a classifier of a name."""
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise _unknown("torchvision", name, known)


def build_torchvision(name: str, args: dict[str, Any]) -> nn.Module:
    """Builds one of torchvision's classifiers with random weights."""
    import torchvision

    check_torchvision(name)
    with building(f"torchvision:{name}", args):
        channels = args.get("in_chans", 3)
        args = {key: value for key, value in args.items() if key != "in_chans"}
        if name in INCEPTIONS:
            args = {"init_weights": False} | args  # their own initialisation takes half a minute
        model: nn.Module = torchvision.models.get_model(name, weights=None, **args)
        return model if channels == 3 else with_input_channels(model, channels)


def build_timm(name: str, args: dict[str, Any], *, pretrained: bool) -> nn.Module:
    """Builds one of timm's classifiers, with random or with its published weights."""
    timm = import_extra("timm", "timm")
    if not pretrained and not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    if ":" not in name and "/" not in name and not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    with building(f"timm:{name}", args):
        return timm.create_model(name, pretrained=pretrained, **args)  # type: ignore[no-any-return]


def build_own(name: str, args: dict[str, Any], network: nn.Module | None = None) -> nn.Module:
    """Builds one of lookalike's networks, around another network where it needs one."""
    make = NETWORKS[name]
    with building(f"lookalike:{name}", args):
        return make(**args) if network is None else make(network, **args)


def harmless(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a saved Hugging Face configuration without what would fetch code or files.

    Raises:
        LookalikeError: If it names a wrapped network or files of its own.
    """
    asked = [
        key
        for key, value in config.items()
        if value and any(word in key for word in _FETCHING) and not _is_number_or_list(value)
    ]
    if str(config.get("model_type", "")).startswith("timm") or asked:
        raise LookalikeError(
            f"the saved model asks for {', '.join(asked) or 'a wrapped network'} when its network is built, "
            "which is refused; make the network yourself and call load(folder, model=network)"
        )
    return {key: value for key, value in config.items() if key not in _IGNORED}


def _is_number_or_list(value: Any) -> bool:
    """Whether a value is a number or a list of numbers, which names nothing to fetch: SwinV2's pretrained windows."""
    if isinstance(value, list | tuple):
        return all(_is_number_or_list(each) for each in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


@contextlib.contextmanager
def building(what: str, args: Mapping[str, Any]) -> Iterator[None]:
    """Tells in a line why a network cannot be built."""
    try:
        yield
    except LookalikeError:
        raise
    except Exception as error:
        raise LookalikeError(f"cannot build {what} with {dict(args)}: {error}") from error


@contextlib.contextmanager
def downloading(what: str) -> Iterator[None]:
    """Tells in a line why published weights cannot be had."""
    try:
        yield
    except LookalikeError:
        raise
    except (OSError, RuntimeError, ValueError, ImportError, pickle.UnpicklingError) as error:
        if "trust_remote_code" in str(error):
            raise LookalikeError(
                f"{what} needs the code of its own repository, which is never run: build the network in a file of "
                "yours (path/to/file.py:function) and give its weights with --weights (weights=)"
            ) from error
        if "ignore_mismatched_sizes" in str(error):
            raise LookalikeError(
                f"the weights of {what} have other shapes than its config.json says (its number of classes, say); "
                "mend the configuration, or give the file itself with --weights (weights=)"
            ) from error
        if "weights_only" in str(error):
            raise LookalikeError(
                f"the weights of {what} are a pickle of more than tensors, which is not run; give the file itself with "
                "--weights (weights=), which is read without running it"
            ) from error
        first = first_line(error)
        raise LookalikeError(
            f"the published weights of {what} cannot be had ({first[:160]}); give a file with --weights (weights=)"
        ) from error


def _unknown(source: str, name: str, known: list[str]) -> LookalikeError:
    import difflib

    near = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return LookalikeError(f"{source} has no model {name!r}{hint}")


def import_extra(package: str, extra: str) -> Any:
    """Imports an optional package, or tells how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise LookalikeError(f"this needs {package}: pip install 'lookalike[{extra}]'") from error
