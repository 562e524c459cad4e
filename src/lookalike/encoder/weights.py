"""Reading weights without running anything that their file says."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lookalike.encoder.class_names import names_of_checkpoint, names_of_metadata
from lookalike.errors import LookalikeError

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "weights", "params")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "classifier_model.")
_LISTED = 6


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads a state dict from a ``.safetensors`` file, or from a ``.pth`` / ``.pt`` / ``.bin`` / ``.ckpt`` file.

    The latter are read with ``weights_only=True``. A state dict inside ``{"state_dict": …}`` and similar
    wrappers is found.

    Raises:
        LookalikeError: If the file is missing, unreadable, needs unpickling, or holds no tensors.
    """
    return read_checkpoint(path)[0]


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], list[str] | None]:
    """Reads a state dict as ``read_weights`` does, and the names of the classes where the file has them beside it."""
    path = Path(path)
    if not path.is_file():
        raise LookalikeError(f"the weights file {str(path)!r} does not exist")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            start = file.read(2)
        if start not in (b"PK", b"\x80\x02"):  # neither torch's own files nor its older ones
            raise LookalikeError(
                f"cannot read the weights file {str(path)!r}: it is damaged or of another kind"
            ) from error
        raise LookalikeError(
            f"the weights file {str(path)!r} holds more than tensors and would have to run code to be read; "
            "save model.state_dict() instead, best with safetensors.torch.save_file"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LookalikeError(f"cannot read the weights file {str(path)!r}: {first}") from error
    return _unwrap(content, path), names_of_checkpoint(content)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str = "the weights") -> None:
    """Loads weights into a model, understanding prefixes such as ``module.``.

    Raises:
        LookalikeError: If names or shapes do not match; it lists what is missing, unexpected or of another shape.
    """
    state = model.state_dict()
    fitted = match_prefix(weights, state)
    missing = [name for name in state if name not in fitted and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in fitted if name not in state]
    reshaped = [
        f"{name} {tuple(fitted[name].shape)} instead of {tuple(state[name].shape)}"
        for name in state
        if name in fitted and fitted[name].shape != state[name].shape
    ]
    if missing or unexpected or reshaped:
        problems = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        listed = "; ".join(f"{what}: {_some(names)}" for what, names in problems if names)
        raise LookalikeError(f"{source} do not fit the {type(model).__name__}: {listed}")
    model.load_state_dict(dict(fitted), strict=False)


def match_prefix(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Takes off (or puts on) the prefix with which most names are the expected ones."""
    variants = [dict(weights)]
    stripped = dict(weights)
    for _ in range(3):
        prefix = next((p for p in _PREFIXES if stripped and all(name.startswith(p) for name in stripped)), None)
        if prefix is None:
            break
        stripped = {name.removeprefix(prefix): tensor for name, tensor in stripped.items()}
        variants.append(stripped)
    for prefix in _PREFIXES:  # a wrapper that holds more than the model: keep what lies below the prefix
        part = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        if part:
            variants.append(part)
    return max(variants, key=lambda names: sum(name in expected for name in names))


def pair_by_order(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Names weights as the model does, pairing both in order; for files of one architecture under other names.

    Raises:
        LookalikeError: If there are more or fewer entries, or a pair differs in shape.
    """
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    given = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    if len(state) != len(given):
        raise LookalikeError(f"the weights have {len(given)} entries and the model {len(state)}: they cannot be paired")
    paired = {}
    for (name, tensor), (other, value) in zip(state.items(), given.items(), strict=True):
        if tensor.shape != value.shape:
            raise LookalikeError(
                f"paired in order, {other!r} {tuple(value.shape)} would become {name!r} {tuple(tensor.shape)}"
            )
        paired[name] = value
    return paired


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], list[str] | None]:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, "pt") as file:
            names = names_of_metadata(file.metadata())
        return load_file(path), names
    except (SafetensorError, OSError) as error:
        raise LookalikeError(f"cannot read the weights file {str(path)!r}: {error}") from error


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
            if tensors:
                return tensors
            break
        content = inner
    raise LookalikeError(f"the weights file {str(path)!r} holds no state dict, but a {type(content).__name__}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
