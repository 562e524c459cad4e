"""Loads networks by spec: ``torchvision:NAME``, ``timm:NAME``, ``hf:NAME``, ``open_clip:NAME`` or ``file.py:function``.

A network without a head is an encoder: it has no class scores, and its output is the embedding.
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.startup import import_with_torchvision
from lookalike._core.untouched import keeps_random_states
from lookalike._core.wording import did_you_mean
from lookalike.data import Preprocessing
from lookalike.encoder.building import (
    INCEPTION_SWITCHES,
    INCEPTIONS,
    build_lookalike,
    build_timm,
    build_torchvision,
    building,
    check_torchvision,
    downloading,
    import_extra,
    safe_config,
)
from lookalike.encoder.checkpoint import Checkpoint
from lookalike.encoder.class_names import is_default, names_of_checkpoint, names_of_metadata, names_of_timm
from lookalike.encoder.filling import (
    LoadedNetwork,
    UserWeights,
    check_finite_weights,
    class_argument_of,
    load_network,
    warn_without_head,
)
from lookalike.encoder.head import OUTPUT
from lookalike.encoder.headless import base_architecture, build_base, build_open_clip, load_base, load_open_clip
from lookalike.encoder.preprocessing import read_hf, read_timm, read_torchvision, try_reading
from lookalike.encoder.untrained import check_missing
from lookalike.encoder.user_file import call_function, read_function
from lookalike.networks import NETWORKS, without_head

_FORMS = "torchvision:NAME, timm:NAME, hf:NAME, open_clip:NAME, lookalike:NAME or path/to/file.py:function"


@dataclass(frozen=True)
class LoadedClassifier:
    """A trained classifier and what came with it.

    Attributes:
        model: The network, in eval mode.
        spec: The description from which ``rebuild`` builds the network; for a user's file, only the file's name.
        preprocessing: The preprocessing of its images, if known.
        class_names: The names of its outputs, if known.
        head: Where to cut it: ``"output"`` if the weights have no trained head, so that it is an encoder and no black
            box; None finds the head.
        preprocessing_problem: Why ``preprocessing`` is None, if the network's own was not understood.
        provenance: How it was trained, if lookalike trained it.
    """

    model: nn.Module
    spec: dict[str, Any]
    preprocessing: Preprocessing | None = None
    class_names: list[str] | None = field(default=None)
    head: str | None = None
    preprocessing_problem: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@keeps_random_states
def load_classifier(
    spec: str,
    weights: str | Path | None = None,
    *,
    model_args: Mapping[str, Any] | None = None,
    by_order: bool = False,
    weights_key: str | None = None,
) -> LoadedClassifier:
    """Loads a trained classifier. No code in a checkpoint or a repository is run.

    Args:
        spec: ``torchvision:resnet34``, ``timm:NAME``, ``hf:NAME`` (a name on the hub or a local folder; a base model is
            an encoder without a head), ``open_clip:NAME/TAG`` (the image encoder), ``lookalike:small-cnn``,
            ``path/to/file.py:function``, or a folder that ``save_classifier`` wrote. The function returns a module,
            or a module and its ``Preprocessing``.
        weights: A checkpoint of any kind that ``read_checkpoint`` reads; it also decides the number of classes. Without
            it, torchvision, timm and Hugging Face models get their published weights, which may be downloaded.
        model_args: Further arguments for building the network, e.g. ``{"img_size": 32}``.
        by_order: Pair the weights with the model's by their order instead of by their names.
        weights_key: The set of weights to use if several in the checkpoint fit, e.g. ``"state_dict_ema"``.

    Raises:
        LookalikeError: If the spec has no known form, the model cannot be built, or the weights do not fit.

    Warns:
        LookalikeWarning: If the checkpoint holds weights that are not used, or has no trained head; if the preparation
            of images is a guess, as it is for weights that are paired by order.
    """
    checks.text("spec", spec)
    checks.optional(checks.path, "weights", weights)
    checks.optional(checks.text, "weights_key", weights_key)
    checks.optional(checks.mapping, "model_args", model_args)
    checks.flag("by_order", by_order)
    if weights is None and (weights_key is not None or by_order):
        raise LookalikeError("--weights-key and --weights-by-order (weights_key=, by_order=) need --weights (weights=)")
    if Path(spec).is_dir():
        return _open_saved(spec, weights, model_args)
    user_weights = UserWeights.read(weights, weights_key, by_order=by_order) if weights is not None else None
    loaded = load_with_weights(spec, user_weights, dict(model_args or {}))
    if by_order and loaded.preprocessing is not None and loaded.spec["source"] != "file":
        warn_of(
            "the weights were matched by order, so they come from elsewhere, and how their images are prepared is a "
            f"guess: as for the published weights of {spec} ({loaded.preprocessing.describe()}); if the network was "
            "trained otherwise, say how with --mean, --std, --resize, --crop (preprocessing=Preprocessing(...))"
        )
    return loaded


def load_with_weights(spec: str, user_weights: UserWeights | None, args: dict[str, Any]) -> LoadedClassifier:
    """Loads a classifier by its spec, with weights that were read already; see ``load_classifier``."""
    source, _, name = spec.partition(":")
    if source == "torchvision" and name:
        loaded = _load_torchvision(name, args, user_weights)
    elif source == "timm" and name:
        loaded = _load_timm(name, args, user_weights)
    elif source == "hf" and name:
        loaded = _load_hf(name, args, user_weights)
    elif source == "open_clip" and name:
        loaded = _load_open_clip(name, args, user_weights)
    elif ".py:" in spec:
        loaded = _load_file(spec, args, user_weights)
    elif source == "lookalike" and name:
        loaded = _load_lookalike(name, args, user_weights)
    else:
        raise LookalikeError(f"{spec!r} names no model; give {_FORMS}")
    if user_weights is None and loaded.head is None and loaded.spec["source"] in ("file", "lookalike"):
        warn_of(f"no weights given: the network keeps the weights that {loaded.spec['name']} gives it")
    loaded.model.eval()
    names = None if user_weights is None or loaded.head is not None else _class_names_of(user_weights.checkpoint)
    return loaded if names is None else replace(loaded, class_names=names)  # names in the checkpoint take precedence


def _class_names_of(checkpoint: Checkpoint) -> list[str] | None:
    """Returns the class names beside the weights of a checkpoint."""
    read_names = names_of_checkpoint if checkpoint.is_ordered else names_of_metadata  # safetensors holds only texts
    return read_names(checkpoint.metadata)


def head_of(loaded: LoadedClassifier, head: str | None) -> str | None:
    """Returns the name of the layer where a loaded classifier is cut; None finds it.

    Args:
        loaded: The classifier.
        head: The layer that the user named, if any.

    Raises:
        LookalikeError: If the user named a head that the weights do not have.
    """
    if loaded.head is not None and head not in (None, loaded.head):
        raise LookalikeError(
            f"the weights have no trained head {head!r}: leave head out (--head), and its input is the embedding"
        )
    return head if loaded.head is None else loaded.head


def build_untrained(spec: str, saved_args: Mapping[str, Any] | None = None) -> nn.Module:
    """Builds the network of a ``file.py:function``, with the weights that the function gives it.

    Args:
        spec: The file and its function.
        saved_args: The function's arguments as a saved model records them. Those that may name files are left out:
            the folder may come from anyone, and its own weights replace all others.

    Raises:
        LookalikeError: If the function fails or returns no network.
    """
    saved = dict(saved_args or {})
    args = {key: value for key, value in saved.items() if key not in _may_name_files(saved)}
    return _load_file(spec, args, None).model


def read_spec(spec: str, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Turns ``torchvision:NAME``, ``timm:NAME`` or ``lookalike:NAME`` into a spec for ``rebuild``.

    Raises:
        LookalikeError: If the text has another form.
    """
    source, _, name = spec.partition(":")
    if source not in ("torchvision", "timm", "lookalike") or not name:
        raise LookalikeError(
            f"{spec!r} names no network that can be built again; give torchvision:NAME, timm:NAME or lookalike:NAME"
        )
    return {"source": source, "name": name, "args": dict(args or {})}


def describe_spec(spec: Mapping[str, Any]) -> str:
    """Describes in a few words what a spec builds.

    Example:
        >>> inner = {"source": "torchvision", "name": "resnet34", "args": {}}
        >>> describe_spec({"source": "lookalike", "name": "protopnet", "network": inner, "args": {}})
        'protopnet of torchvision:resnet34'
    """
    if "network" in spec:
        inner = describe_spec(spec["network"])
        return inner if spec["name"] in ("with-head", "without-head") else f"{spec['name']} of {inner}"
    return f"{spec['source']}:{spec.get('name', '')}"


def rebuild(spec: Mapping[str, Any]) -> nn.Module:
    """Builds the architecture that a spec names, with random weights, without running a user's code.

    Raises:
        LookalikeError: If only the user's own code can build it, or its arguments name files.
    """
    source, name, args = spec["source"], spec.get("name", ""), dict(spec.get("args", {}))
    paths = _may_name_files(args)
    if paths:  # a saved model may come from anyone, so its arguments must not read files
        raise LookalikeError(f"the saved model asks for {', '.join(paths)} when its network is built, which is refused")
    if source == "torchvision":
        return build_torchvision(name, args)
    if source == "timm":
        return build_timm(name, args, pretrained=False)
    if source == "lookalike":
        return build_lookalike(name, args, rebuild(spec["network"]) if "network" in spec else None)
    if source == "open_clip":
        return build_open_clip(name)
    if source == "hf":
        transformers = import_extra("transformers")
        safe = safe_config(spec["config"])
        auto = transformers.AutoModelForImageClassification
        with building("the saved Hugging Face model", {}):
            config = transformers.AutoConfig.for_model(**safe)
            if "architecture" in args:
                return build_base(config, args)
            return auto.from_config(config, trust_remote_code=False)  # type: ignore[no-any-return]
    raise LookalikeError(
        f"its network was made by {name or 'your own code'}, which is not run from a saved model; "
        "make the network yourself and call load(folder, model=network)"
    )


def _may_name_files(args: Mapping[str, Any]) -> list[str]:
    """Returns the names of arguments from which a function that builds a network may read a file."""
    return [key for key, value in args.items() if "checkpoint" in key or "pretrained" in key or isinstance(value, dict)]


def _load_torchvision(name: str, args: dict[str, Any], user_weights: UserWeights | None) -> LoadedClassifier:
    torchvision = import_with_torchvision()

    check_torchvision(name)
    published = torchvision.models.get_model_weights(name).DEFAULT
    if user_weights is None:
        with downloading(f"torchvision:{name}"):
            model = torchvision.models.get_model(name, weights=published, **args)
        for key in INCEPTION_SWITCHES if name in INCEPTIONS else ():  # published weights set them
            args.setdefault(key, getattr(model, key))
        network = LoadedNetwork(model, args)
    else:
        size = (published.transforms().crop_size * 2)[:2]
        network = load_network(
            lambda all_args: build_torchvision(name, all_args),
            args,
            user_weights,
            "num_classes",
            channel_argument="in_chans",
            size=size,
        )
        if name in INCEPTIONS and "transform_input" not in args:
            warn_of(
                f"{name} is assumed not to normalise its inputs once more; if yours was fine-tuned from published "
                'weights, it does: give --model-arg transform_input=true (model_args={"transform_input": True})'
            )
    channels = network.args.get("in_chans", 3)
    preprocessing, problem = try_reading(lambda: read_torchvision(published.transforms(), channels))
    names = published.meta.get("categories") if user_weights is None and "num_classes" not in args else None
    return _assemble(network, {"source": "torchvision", "name": name}, preprocessing, names, problem)


def _assemble(
    network: LoadedNetwork,
    spec: dict[str, Any],
    preprocessing: Preprocessing | None = None,
    names: list[str] | None = None,
    problem: str | None = None,
) -> LoadedClassifier:
    """Returns the loaded classifier; a network without a trained head gets no class names."""
    spec = {"args": network.args, **spec}
    if network.removed_head is None:
        return LoadedClassifier(network.model, spec, preprocessing, names, preprocessing_problem=problem)
    spec = {"source": "lookalike", "name": "without-head", "network": spec, "args": {"head": network.removed_head}}
    return LoadedClassifier(network.model, spec, preprocessing, None, OUTPUT, problem)


def _load_timm(name: str, args: dict[str, Any], user_weights: UserWeights | None) -> LoadedClassifier:
    if "checkpoint_path" in args:
        raise LookalikeError("give a checkpoint with --weights (weights=), not as the network's argument")
    if user_weights is None:
        with downloading(f"timm:{name}"):
            network = LoadedNetwork(build_timm(name, args, pretrained=True), args)
        _check_published_head(f"timm:{name}", network)
        network = replace(network, args=_args_of_published(network.model, name) | args)
    else:
        network = load_network(
            lambda all_args: build_timm(name, all_args, pretrained=False),
            args,
            user_weights,
            "num_classes",
            channel_argument="in_chans",
        )
    preprocessing, problem = try_reading(lambda: read_timm(network.model, network.args))
    architecture = getattr(network.model, "pretrained_cfg", {}).get("architecture") or name
    names = names_of_timm(network.model) if user_weights is None and "num_classes" not in args else None
    return _assemble(network, {"source": "timm", "name": architecture}, preprocessing, names, problem)


def _args_of_published(model: nn.Module, name: str) -> dict[str, Any]:
    """Returns the builder's arguments that published weights imply and the architecture's name does not.

    The configuration of a folder or repository, or the tag of the weights, decides the number of classes and channels.
    """
    pretrained_cfg = getattr(model, "pretrained_cfg", None) or {}
    if name == pretrained_cfg.get("architecture"):
        return {}
    channels = (pretrained_cfg.get("input_size") or [None])[0]
    args = {"num_classes": getattr(model, "num_classes", None), "in_chans": None if channels == 3 else channels}
    return _configured_args(model, name) | {key: value for key, value in args.items() if value is not None}


def _configured_args(model: nn.Module, name: str) -> dict[str, Any]:
    """Returns the builder's arguments that the configuration of a folder or repository asks for."""
    source, _, location = name.partition(":")
    if source not in ("hf-hub", "local-dir"):
        return {}
    configured = getattr(model, "_model_args", None)
    if configured is None:  # a timm that does not keep them
        from timm.models import _hub

        read = _hub.load_model_config_from_hf if source == "hf-hub" else _hub.load_model_config_from_path
        configured = read(location)[-1]
    return {key: value for key, value in (configured or {}).items() if key not in ("pretrained", "cache_dir")}


def _check_published_head(spec: str, network: LoadedNetwork) -> None:
    """Checks that published weights have the requested number of classes; else timm silently makes a random head.

    Raises:
        LookalikeError: If they have another number of classes.
    """
    requested = network.args.get("num_classes")
    published = getattr(network.model, "pretrained_cfg", {}).get("num_classes")
    if requested and published is not None and requested != published:
        raise LookalikeError(
            f"the published weights of {spec} are of {published} classes: num_classes={requested} would make up a head "
            "of random numbers; leave it out, or give num_classes=0 and --head output (head='output') for the encoder"
        )


def _load_lookalike(name: str, args: dict[str, Any], user_weights: UserWeights | None) -> LoadedClassifier:
    def build(all_args: dict[str, Any]) -> nn.Module:
        return build_lookalike(name, all_args)

    if user_weights is None:
        network = LoadedNetwork(build(args), args)
    else:
        network = load_network(build, args, user_weights, class_argument_of(NETWORKS[name]))
    return _assemble(network, {"source": "lookalike", "name": name})


def _open_saved(folder: str, weights: str | Path | None, args: Mapping[str, Any] | None) -> LoadedClassifier:
    from lookalike.encoder.saved import open_classifier

    if weights is not None or args:
        raise LookalikeError(
            f"the classifier saved in {folder!r} comes with its weights; give no others, nor arguments"
        )
    return open_classifier(folder)


def _load_hf(name: str, args: dict[str, Any], user_weights: UserWeights | None) -> LoadedClassifier:
    if "trust_remote_code" in args:
        raise LookalikeError("a repository's code is never run: leave out trust_remote_code")
    with downloading(f"hf:{name}"):
        transformers = import_extra("transformers")
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        _check_entries(f"hf:{name}", config, args)
        architecture = base_architecture(transformers, config) if user_weights is None else None
        if architecture is not None:
            network = load_base(name, architecture, config, args)
        else:
            network = _load_hf_network(name, args, user_weights)
    preprocessing, problem = try_reading(lambda: read_hf(name))
    model: Any = network.model
    if architecture is not None:
        base_spec = {"source": "hf", "name": name, "config": model.config.to_dict(), "args": network.args}
        return LoadedClassifier(model, base_spec, preprocessing, None, OUTPUT, problem)
    if user_weights is not None and not Path(name).is_dir():
        # the published labels are of the published weights; an equal number of classes does not make them the user's
        model.config.id2label = {k: f"LABEL_{k}" for k in range(model.config.num_labels)}
    names = [str(label) for _, label in sorted(model.config.id2label.items())]
    spec = {"source": "hf", "name": name, "config": model.config.to_dict(), "args": {}}
    return _assemble(network, spec, preprocessing, None if is_default(names) else names, problem)


_LOADING = frozenset(  # arguments of the loading function itself
    [
        "attn_implementation", "cache_dir", "device_map", "dtype", "force_download", "ignore_mismatched_sizes",
        "local_files_only", "low_cpu_mem_usage", "proxies", "revision", "subfolder", "token", "torch_dtype",
        "use_safetensors", "variant",
    ]
)  # fmt: skip


def _check_entries(network: str, config: Any, args: Mapping[str, Any]) -> None:
    """Checks that a configuration has the entries that are to be changed; the library takes others in silence.

    Raises:
        LookalikeError: If it has not.
    """
    for entry in args:
        if entry not in _LOADING and not hasattr(config, entry):
            hint = did_you_mean(entry, vars(config))
            raise LookalikeError(f"the configuration of {network} has no entry {entry!r}{hint}")


def _load_hf_network(name: str, args: dict[str, Any], user_weights: UserWeights | None) -> LoadedNetwork:
    """Loads a Hugging Face network, and removes its head if the checkpoint has no weights for it."""
    from safetensors import SafetensorError

    transformers = import_extra("transformers")
    auto = transformers.AutoModelForImageClassification

    def build(all_args: dict[str, Any]) -> nn.Module:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **all_args)
        return auto.from_config(config, trust_remote_code=False)  # type: ignore[no-any-return]

    if user_weights is not None:
        return load_network(build, args, user_weights, "num_labels")
    try:
        model, info = auto.from_pretrained(name, trust_remote_code=False, output_loading_info=True, **args)
    except SafetensorError as error:  # such as an LFS pointer or an incomplete copy: our own reader names it
        if Path(name).is_dir():
            return load_network(build, args, UserWeights.read(name), "num_labels")
        raise LookalikeError(
            f"the downloaded weights of hf:{name} are damaged ({error}): remove them from the cache"
        ) from error
    except (pickle.UnpicklingError, OSError, RuntimeError):
        if not Path(name).is_dir() or not any(Path(name).glob("pytorch_model*.bin*")):
            raise
        return load_network(build, args, UserWeights.read(name), "num_labels")  # transformers would run this pickle
    missing = [*info["missing_keys"], *(mismatch[0] for mismatch in info["mismatched_keys"])]
    source = f"the weights of hf:{name}"
    expected = model.state_dict()
    removed_head = check_missing(
        model, [key for key in missing if key in expected and not key.endswith("num_batches_tracked")], source
    )
    if removed_head is not None:
        without_head(model, head=removed_head)
        warn_without_head(source, removed_head)
    check_finite_weights(model, source)
    return LoadedNetwork(model, args, removed_head)


def _load_open_clip(name: str, args: dict[str, Any], user_weights: UserWeights | None) -> LoadedClassifier:
    network, preprocessing = load_open_clip(name, args, user_weights)
    spec = {"source": "open_clip", "name": name.partition("/")[0], "args": {}}
    return LoadedClassifier(network.model, spec, preprocessing, None, OUTPUT)


def _load_file(spec: str, args: dict[str, Any], user_weights: UserWeights | None) -> LoadedClassifier:
    function = read_function(spec)
    model, preprocessing = call_function(spec, function, args)

    def build(all_args: dict[str, Any]) -> nn.Module:
        nonlocal model, preprocessing
        if all_args != args:  # the function may be slow: it is called again only with further arguments
            model, preprocessing = call_function(spec, function, all_args)
        return model

    if user_weights is None:
        network = LoadedNetwork(model, args)
    else:
        size = preprocessing.crop if preprocessing else None
        network = load_network(build, args, user_weights, class_argument_of(function), size=size)
    return _assemble(network, {"source": "file", "name": Path(spec).name}, preprocessing)
