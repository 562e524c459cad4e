"""Classifiers by name: ``torchvision:``, ``timm:``, ``hf:`` and ``file.py:function``."""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lookalike import checks
from lookalike.data import Preprocessing
from lookalike.encoder.preprocessing import (
    input_channels,
    read_hf,
    read_timm,
    read_torchvision,
    understood,
    with_input_channels,
)
from lookalike.encoder.weights import load_weights, match_prefix, pair_by_order, read_weights
from lookalike.errors import LookalikeError, warn_of
from lookalike.networks import NETWORKS
from lookalike.untouched import keeps_random_states

_FETCHING = ("backbone", "checkpoint", "pretrained", "auto_map", "quantization")
_IGNORED = frozenset({"attn_implementation", "_attn_implementation", "_name_or_path", "transformers_version"})
_INCEPTIONS = ("googlenet", "inception_v3")  # their published weights normalise inside the network
_FORMS = "torchvision:NAME, timm:NAME, hf:NAME, lookalike:NAME or path/to/file.py:function"


@dataclass(frozen=True)
class LoadedClassifier:
    """A trained classifier and what came with it.

    Attributes:
        model: In eval mode.
        spec: What ``rebuild`` needs to build it again without weights; for a file, who to ask.
        preprocessing: What its images go through, where that is known.
        class_names: Of its outputs, where they are known.
        preprocessing_problem: Why ``preprocessing`` is None, where the network's own was not understood.
        provenance: How it was trained, where lookalike did that.
    """

    model: nn.Module
    spec: dict[str, Any]
    preprocessing: Preprocessing | None = None
    class_names: list[str] | None = field(default=None)
    preprocessing_problem: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@keeps_random_states
def load_classifier(
    spec: str,
    weights: str | Path | None = None,
    *,
    model_args: Mapping[str, Any] | None = None,
    by_order: bool = False,
) -> LoadedClassifier:
    """Loads a trained classifier.

    Args:
        spec: ``torchvision:resnet34``, ``timm:NAME``, ``hf:NAME`` (a hub's name or a local folder),
            ``lookalike:small-cnn``, ``path/to/file.py:function``, where the function returns a module, or a module
            and its ``Preprocessing``, or a folder that ``save_classifier`` wrote.
        weights: A ``.safetensors`` file, or a ``.pth`` one that needs no unpickling. Without it, torchvision, timm
            and Hugging Face models come with their published weights, which may be downloaded. The number of
            classes is read off the weights.
        model_args: Further arguments of the builder, e.g. ``{"img_size": 32}``.
        by_order: Pair the weights with the model's by their order instead of by their names.

    Raises:
        LookalikeError: If the spec is of no known form, the model cannot be built, or the weights do not fit.
    """
    checks.text("spec", spec)
    checks.optional(checks.path, "weights", weights)
    checks.optional(checks.mapping, "model_args", model_args)
    checks.flag("by_order", by_order)
    if Path(spec).is_dir():
        return _open_saved(spec, weights, model_args)
    source, _, name = spec.partition(":")
    args = dict(model_args or {})
    state = read_weights(weights) if weights is not None else None
    if source == "torchvision" and name:
        loaded = _load_torchvision(name, args, state, by_order)
    elif source == "timm" and name:
        loaded = _load_timm(name, args, state, by_order)
    elif source == "hf" and name:
        loaded = _load_hf(name, args, state)
    elif ".py:" in spec:
        loaded = _load_file(spec, args)
    elif source == "lookalike" and name:
        loaded = LoadedClassifier(_build_own(name, args), {"source": "lookalike", "name": name, "args": args})
    else:
        raise LookalikeError(f"{spec!r} names no model; give {_FORMS}")
    if state is not None:
        named = pair_by_order(state, loaded.model) if by_order else state
        try:
            load_weights(loaded.model, named, f"the weights in {str(weights)!r}")
        except LookalikeError as error:
            raise LookalikeError(f"{error}{_order_hint(state, loaded.model)}") from None
    elif loaded.spec["source"] in ("file", "lookalike"):
        warn_of(f"no weights given: the network is taken with those that {loaded.spec['name']} gives it")
    loaded.model.eval()
    return loaded


def build_untrained(spec: str) -> nn.Module:
    """Builds the network that a ``file.py:function`` makes, whatever weights it has.

    Raises:
        LookalikeError: If the function fails or makes no network.
    """
    return _load_file(spec, {}).model


def read_spec(spec: str, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Reads ``torchvision:NAME``, ``timm:NAME`` or ``lookalike:NAME`` as what ``rebuild`` takes.

    Raises:
        LookalikeError: If it is of another form.
    """
    source, _, name = checks.text("spec", spec).partition(":")
    checks.optional(checks.mapping, "args", args)
    if source not in ("torchvision", "timm", "lookalike") or not name:
        raise LookalikeError(
            f"{spec!r} names no network that can be built again; give torchvision:NAME, timm:NAME or lookalike:NAME"
        )
    return {"source": source, "name": name, "args": dict(args or {})}


def describe_spec(spec: Mapping[str, Any]) -> str:
    """Says in a few words what a spec builds.

    Example:
        >>> inner = {"source": "torchvision", "name": "resnet34", "args": {}}
        >>> describe_spec({"source": "lookalike", "name": "protopnet", "network": inner, "args": {}})
        'protopnet of torchvision:resnet34'
    """
    if "network" in spec:
        inner = describe_spec(spec["network"])
        return inner if spec["name"] == "with-head" else f"{spec['name']} of {inner}"
    return f"{spec['source']}:{spec.get('name', '')}"


def rebuild(spec: Mapping[str, Any]) -> nn.Module:
    """Builds the architecture that a spec names, with random weights and without running code of its own.

    Raises:
        LookalikeError: If no code but the user's can build it.
    """
    source, name, args = spec["source"], spec.get("name", ""), dict(spec.get("args", {}))
    paths = [
        key for key, value in args.items() if "checkpoint" in key or "pretrained" in key or isinstance(value, dict)
    ]
    if paths:  # a saved model may come from anyone: its arguments shape the network and read no files
        raise LookalikeError(f"the saved model asks for {', '.join(paths)} when its network is built, which is refused")
    if source == "torchvision":
        return _build_torchvision(name, args)
    if source == "timm":
        return _build_timm(name, args, pretrained=False)
    if source == "lookalike":
        return _build_own(name, args, rebuild(spec["network"]) if "network" in spec else None)
    if source == "hf":
        transformers = _import("transformers", "hf")
        described = _harmless(spec["config"])
        auto = transformers.AutoModelForImageClassification
        with _building("the saved Hugging Face model", {}):
            config = transformers.AutoConfig.for_model(**described)
            return auto.from_config(config, trust_remote_code=False)  # type: ignore[no-any-return]
    raise LookalikeError(
        f"its network was made by {name or 'your own code'}, which is not run from a saved model; "
        "make the network yourself and call load(folder, model=network)"
    )


def _load_torchvision(
    name: str, args: dict[str, Any], state: Mapping[str, Tensor] | None, by_order: bool
) -> LoadedClassifier:
    import torchvision

    _check_torchvision(name)
    published = torchvision.models.get_model_weights(name).DEFAULT
    if state is None:
        with _downloading(f"torchvision:{name}"):
            model = torchvision.models.get_model(name, weights=published, **args)
        for key in ("transform_input", "aux_logits"):  # set by published weights alone: rebuild must know
            if name in _INCEPTIONS:
                args.setdefault(key, getattr(model, key))
    else:
        args |= _sizes(lambda given: _build_torchvision(name, given), state, by_order, args)
        model = _build_torchvision(name, args)
        if name in _INCEPTIONS and "transform_input" not in args:
            warn_of(
                f"{name} is taken not to normalise its inputs once more; if yours was fine-tuned from published "
                'weights, it does: give --model-arg transform_input=true (model_args={"transform_input": True})'
            )
    preprocessing, problem = understood(lambda: read_torchvision(published.transforms(), args.get("in_chans", 3)))
    names = published.meta.get("categories") if state is None else None
    spec = {"source": "torchvision", "name": name, "args": args}
    return LoadedClassifier(model, spec, preprocessing, names, problem)


def _harmless(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a saved Hugging Face configuration without what would fetch code or files.

    Raises:
        LookalikeError: If it names a wrapped network or files of its own.
    """
    asked = [key for key, value in config.items() if value and any(word in key for word in _FETCHING)]
    if str(config.get("model_type", "")).startswith("timm") or asked:
        raise LookalikeError(
            f"the saved model asks for {', '.join(asked) or 'a wrapped network'} when its network is built, "
            "which is refused"
        )
    return {key: value for key, value in config.items() if key not in _IGNORED}


def _check_torchvision(name: str) -> None:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise _unknown("torchvision", name, known)


def _build_torchvision(name: str, args: dict[str, Any]) -> nn.Module:
    import torchvision

    _check_torchvision(name)
    with _building(f"torchvision:{name}", args):
        channels = args.get("in_chans", 3)
        args = {key: value for key, value in args.items() if key != "in_chans"}
        if name in _INCEPTIONS:
            args = {"init_weights": False} | args  # their own initialisation takes half a minute
        model = torchvision.models.get_model(name, weights=None, **args)
        return model if channels == 3 else with_input_channels(model, channels)


def _load_timm(name: str, args: dict[str, Any], state: Mapping[str, Tensor] | None, by_order: bool) -> LoadedClassifier:
    if state is None:
        with _downloading(f"timm:{name}"):
            model = _build_timm(name, args, pretrained=True)
    else:
        args |= _sizes(lambda given: _build_timm(name, given, pretrained=False), state, by_order, args)
        model = _build_timm(name, args, pretrained=False)
    preprocessing, problem = understood(lambda: read_timm(model, args))
    architecture = getattr(model, "pretrained_cfg", {}).get("architecture") or name
    spec = {"source": "timm", "name": architecture, "args": args}
    return LoadedClassifier(model, spec, preprocessing, preprocessing_problem=problem)


def _build_own(name: str, args: dict[str, Any], network: nn.Module | None = None) -> nn.Module:
    make = NETWORKS[name]
    with _building(f"lookalike:{name}", args):
        return make(**args) if network is None else make(network, **args)


def _open_saved(folder: str, weights: str | Path | None, args: Mapping[str, Any] | None) -> LoadedClassifier:
    from lookalike.encoder.saved import open_classifier

    if weights is not None or args:
        raise LookalikeError(
            f"the classifier saved in {folder!r} comes with its weights; give no others, nor arguments"
        )
    return open_classifier(folder)


def _build_timm(name: str, args: dict[str, Any], *, pretrained: bool) -> nn.Module:
    timm = _import("timm", "timm")
    if not pretrained and not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    if ":" not in name and "/" not in name and not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    with _building(f"timm:{name}", args):
        return timm.create_model(name, pretrained=pretrained, **args)  # type: ignore[no-any-return]


def _load_hf(name: str, args: dict[str, Any], state: Mapping[str, Tensor] | None) -> LoadedClassifier:
    transformers = _import("transformers", "hf")
    auto = transformers.AutoModelForImageClassification
    with _downloading(f"hf:{name}"):
        if state is None:
            model = auto.from_pretrained(name, **args)
        else:
            model = auto.from_config(transformers.AutoConfig.from_pretrained(name, **args))
    preprocessing, problem = understood(lambda: read_hf(name))
    names = [str(label) for _, label in sorted(model.config.id2label.items())]
    spec = {"source": "hf", "name": name, "config": model.config.to_dict()}
    return LoadedClassifier(model, spec, preprocessing, names, problem)


def _load_file(spec: str, args: dict[str, Any]) -> LoadedClassifier:
    path_text, _, function_name = spec.rpartition(":")
    path = Path(path_text).resolve()
    if not path.is_file():
        raise LookalikeError(f"{path_text!r} does not exist")
    described = importlib.util.spec_from_file_location(f"_lookalike_user_{path.stem}", path)
    if described is None or described.loader is None:
        raise LookalikeError(f"{path_text!r} is not a Python file")
    module = importlib.util.module_from_spec(described)
    sys.path.insert(0, str(path.parent))  # so that the file can import its neighbours
    try:
        described.loader.exec_module(module)
    except Exception as error:
        raise LookalikeError(f"{path_text!r} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    function = getattr(module, function_name, None)
    if not callable(function):
        raise LookalikeError(f"{path_text!r} has no function {function_name!r}")
    try:
        made = function(**args)
    except Exception as error:
        raise LookalikeError(f"{spec} failed: {type(error).__name__}: {error}") from error
    model, preprocessing = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module) or not isinstance(preprocessing, Preprocessing | None):
        raise LookalikeError(
            f"{spec} returned {_kinds(made)}; it must return a torch.nn.Module, or one and its Preprocessing"
        )
    return LoadedClassifier(
        model, {"source": "file", "name": f"{path.name}:{function_name}", "args": args}, preprocessing
    )


def _order_hint(state: Mapping[str, Tensor], model: nn.Module) -> str:
    """Says that weights would fit by their order, where they would."""
    try:
        pair_by_order(state, model)
    except LookalikeError:
        return ""
    return "; all shapes fit in order, though: if it is the same architecture, use --weights-by-order (by_order=True)"


def _sizes(
    build: Callable[[dict[str, Any]], nn.Module], state: Mapping[str, Tensor], by_order: bool, args: dict[str, Any]
) -> dict[str, int]:
    """Reads the numbers of input channels and of classes off weights."""
    model, channels = build(args), None
    if "in_chans" not in args:
        channels = input_channels(state, model, by_order)
    sizes = {} if channels is None else {"in_chans": channels}
    if sizes:
        model = build(args | sizes)
    return sizes | _n_classes(model, state, by_order, args)


def _n_classes(
    model: nn.Module, state: Mapping[str, Tensor], by_order: bool, args: Mapping[str, Any]
) -> dict[str, int]:
    """Reads the number of classes off weights whose only misfits are the head's rows."""
    if "num_classes" in args:
        return {}
    expected = model.state_dict()
    try:
        fitted = pair_by_order(state, model) if by_order else match_prefix(state, expected)
    except LookalikeError:
        return {}
    misfits = {
        (tuple(expected[name].shape), tuple(tensor.shape))
        for name, tensor in fitted.items()
        if name in expected and expected[name].shape != tensor.shape
    }
    rows = {given[0] for wanted, given in misfits if len(wanted) == len(given) > 0 and wanted[1:] == given[1:]}
    same_kind = all(len(wanted) == len(given) > 0 and wanted[1:] == given[1:] for wanted, given in misfits)
    return {"num_classes": rows.pop()} if same_kind and len(rows) == 1 else {}


@contextlib.contextmanager
def _building(what: str, args: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    except LookalikeError:
        raise
    except Exception as error:
        raise LookalikeError(f"cannot build {what} with {dict(args)}: {error}") from error


@contextlib.contextmanager
def _downloading(what: str) -> Iterator[None]:
    try:
        yield
    except LookalikeError:
        raise
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise LookalikeError(
            f"the published weights of {what} cannot be had ({first[:160]}); give a file with --weights (weights=)"
        ) from error


def _unknown(source: str, name: str, known: list[str]) -> LookalikeError:
    import difflib

    near = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return LookalikeError(f"{source} has no model {name!r}{hint}")


def _import(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise LookalikeError(f"this needs {package}: pip install 'lookalike[{extra}]'") from error


def _kinds(made: Any) -> str:
    return f"({', '.join(type(part).__name__ for part in made)})" if isinstance(made, tuple) else type(made).__name__
