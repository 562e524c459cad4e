"""Classifiers by name: ``torchvision:``, ``timm:``, ``hf:`` and ``file.py:function``."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.untouched import keeps_random_states
from lookalike.data import Preprocessing
from lookalike.encoder.building import (
    INCEPTION_SWITCHES,
    INCEPTIONS,
    build_own,
    build_timm,
    build_torchvision,
    building,
    check_torchvision,
    downloading,
    harmless,
    import_extra,
)
from lookalike.encoder.checkpoint import Checkpoint
from lookalike.encoder.class_names import is_default, names_of_checkpoint, names_of_metadata, names_of_timm
from lookalike.encoder.filling import (
    Filled,
    GivenWeights,
    check_finite_weights,
    class_argument_of,
    fill,
    warn_without_head,
)
from lookalike.encoder.head import OUTPUT
from lookalike.encoder.preprocessing import read_hf, read_timm, read_torchvision, understood
from lookalike.encoder.untrained import check_missing
from lookalike.encoder.user_file import call_function, read_function
from lookalike.networks import NETWORKS, without_head

_FORMS = "torchvision:NAME, timm:NAME, hf:NAME, lookalike:NAME or path/to/file.py:function"


@dataclass(frozen=True)
class LoadedClassifier:
    """A trained classifier and what came with it.

    Attributes:
        model: In eval mode.
        spec: What ``rebuild`` needs to build it again without weights; for a file, who to ask.
        preprocessing: What its images go through, where that is known.
        class_names: Of its outputs, where they are known.
        head: Where to cut it: ``"output"`` where its weights have no trained head, so that it is an encoder and no
            black box; None finds the head.
        preprocessing_problem: Why ``preprocessing`` is None, where the network's own was not understood.
        provenance: How it was trained, where lookalike did that.
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
    """Loads a trained classifier. Nothing that a checkpoint or a repository holds is executed.

    Args:
        spec: ``torchvision:resnet34``, ``timm:NAME``, ``hf:NAME`` (a hub's name or a local folder),
            ``lookalike:small-cnn``, ``path/to/file.py:function``, where the function returns a module, or a module
            and its ``Preprocessing``, or a folder that ``save_classifier`` wrote.
        weights: A checkpoint of any kind that ``read_checkpoint`` reads. Without it, torchvision, timm and Hugging
            Face models come with their published weights, which may be downloaded. The number of classes is read off
            the weights.
        model_args: Further arguments of the builder, e.g. ``{"img_size": 32}``.
        by_order: Pair the weights with the model's by their order instead of by their names.
        weights_key: Which set of weights, where the checkpoint holds several that fit, e.g. ``"state_dict_ema"``.

    Raises:
        LookalikeError: If the spec is of no known form, the model cannot be built, or the weights do not fit.

    Warns:
        LookalikeWarning: If the checkpoint holds more weights than were taken, or has no trained head.
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
    source, _, name = spec.partition(":")
    args = dict(model_args or {})
    given = GivenWeights.read(weights, weights_key, by_order=by_order) if weights is not None else None
    if source == "torchvision" and name:
        loaded = _load_torchvision(name, args, given)
    elif source == "timm" and name:
        loaded = _load_timm(name, args, given)
    elif source == "hf" and name:
        loaded = _load_hf(name, args, given)
    elif ".py:" in spec:
        loaded = _load_file(spec, args, given)
    elif source == "lookalike" and name:
        loaded = _load_own(name, args, given)
    else:
        raise LookalikeError(f"{spec!r} names no model; give {_FORMS}")
    if given is None and loaded.head is None and loaded.spec["source"] in ("file", "lookalike"):
        warn_of(f"no weights given: the network is taken with those that {loaded.spec['name']} gives it")
    loaded.model.eval()
    names = None if given is None or loaded.head is not None else _names_beside(given.checkpoint)
    return loaded if names is None else replace(loaded, class_names=names)  # the weights' own go first


def _names_beside(checkpoint: Checkpoint) -> list[str] | None:
    """Returns the class names that a checkpoint has beside its weights."""
    read = names_of_checkpoint if checkpoint.is_ordered else names_of_metadata  # safetensors knows texts alone
    return read(checkpoint.metadata)


def head_of(loaded: LoadedClassifier, head: str | None) -> str | None:
    """Returns where to cut a loaded classifier, given what the user asked for.

    Raises:
        LookalikeError: If a head was asked for that its weights do not have.
    """
    if loaded.head is not None and head not in (None, loaded.head):
        raise LookalikeError(
            f"the weights have no trained head {head!r}: leave head out (--head), and its input is the embedding"
        )
    return head if loaded.head is None else loaded.head


def build_untrained(spec: str) -> nn.Module:
    """Builds the network that a ``file.py:function`` makes, whatever weights it has.

    Raises:
        LookalikeError: If the function fails or makes no network.
    """
    return _load_file(spec, {}, None).model


def read_spec(spec: str, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Reads ``torchvision:NAME``, ``timm:NAME`` or ``lookalike:NAME`` as what ``rebuild`` takes.

    Raises:
        LookalikeError: If it is of another form.
    """
    source, _, name = spec.partition(":")
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
        return inner if spec["name"] in ("with-head", "without-head") else f"{spec['name']} of {inner}"
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
        return build_torchvision(name, args)
    if source == "timm":
        return build_timm(name, args, pretrained=False)
    if source == "lookalike":
        return build_own(name, args, rebuild(spec["network"]) if "network" in spec else None)
    if source == "hf":
        transformers = import_extra("transformers", "hf")
        described = harmless(spec["config"])
        auto = transformers.AutoModelForImageClassification
        with building("the saved Hugging Face model", {}):
            config = transformers.AutoConfig.for_model(**described)
            return auto.from_config(config, trust_remote_code=False)  # type: ignore[no-any-return]
    raise LookalikeError(
        f"its network was made by {name or 'your own code'}, which is not run from a saved model; "
        "make the network yourself and call load(folder, model=network)"
    )


def _load_torchvision(name: str, args: dict[str, Any], given: GivenWeights | None) -> LoadedClassifier:
    import torchvision

    check_torchvision(name)
    published = torchvision.models.get_model_weights(name).DEFAULT
    if given is None:
        with downloading(f"torchvision:{name}"):
            model = torchvision.models.get_model(name, weights=published, **args)
        for key in INCEPTION_SWITCHES if name in INCEPTIONS else ():  # set by published weights: rebuild must know
            args.setdefault(key, getattr(model, key))
        filled = Filled(model, args)
    else:
        size = (published.transforms().crop_size * 2)[:2]
        filled = fill(
            lambda more: build_torchvision(name, more),
            args,
            given,
            "num_classes",
            channel_argument="in_chans",
            size=size,
        )
        if name in INCEPTIONS and "transform_input" not in args:
            warn_of(
                f"{name} is taken not to normalise its inputs once more; if yours was fine-tuned from published "
                'weights, it does: give --model-arg transform_input=true (model_args={"transform_input": True})'
            )
    channels = filled.args.get("in_chans", 3)
    preprocessing, problem = understood(lambda: read_torchvision(published.transforms(), channels))
    names = published.meta.get("categories") if given is None and "num_classes" not in args else None
    return _loaded(filled, {"source": "torchvision", "name": name}, preprocessing, names, problem)


def _loaded(
    filled: Filled,
    spec: dict[str, Any],
    preprocessing: Preprocessing | None = None,
    names: list[str] | None = None,
    problem: str | None = None,
) -> LoadedClassifier:
    """Puts together what was loaded; without a trained head there are no outputs to name."""
    spec = {"args": filled.args, **spec}
    if filled.without is None:
        return LoadedClassifier(filled.model, spec, preprocessing, names, preprocessing_problem=problem)
    spec = {"source": "lookalike", "name": "without-head", "network": spec, "args": {"head": filled.without}}
    return LoadedClassifier(filled.model, spec, preprocessing, None, OUTPUT, problem)


def _load_timm(name: str, args: dict[str, Any], given: GivenWeights | None) -> LoadedClassifier:
    if "checkpoint_path" in args:
        raise LookalikeError("give a checkpoint with --weights (weights=), not as the network's argument")
    if given is None:
        with downloading(f"timm:{name}"):
            filled = Filled(build_timm(name, args, pretrained=True), args)
        _check_published_head(f"timm:{name}", filled)
        filled = replace(filled, args=_told_by_published(filled.model, name) | args)
    else:
        filled = fill(
            lambda more: build_timm(name, more, pretrained=False),
            args,
            given,
            "num_classes",
            channel_argument="in_chans",
        )
    preprocessing, problem = understood(lambda: read_timm(filled.model, filled.args))
    architecture = getattr(filled.model, "pretrained_cfg", {}).get("architecture") or name
    names = names_of_timm(filled.model) if given is None and "num_classes" not in args else None
    return _loaded(filled, {"source": "timm", "name": architecture}, preprocessing, names, problem)


def _told_by_published(model: nn.Module, name: str) -> dict[str, Any]:
    """Returns the builder's arguments that published weights bring along, which the architecture's name does not say.

    A folder or a repository names them in its configuration, a tag has its own number of classes.
    """
    described = getattr(model, "pretrained_cfg", None) or {}
    if name == described.get("architecture"):
        return {}
    told = {"num_classes": getattr(model, "num_classes", None), "in_chans": (described.get("input_size") or [None])[0]}
    usual = {"in_chans": 3}
    return {key: value for key, value in told.items() if value is not None and value != usual.get(key)}


def _check_published_head(spec: str, filled: Filled) -> None:
    """Checks that published weights have the head that was asked for; timm makes up another one in silence.

    Raises:
        LookalikeError: If they have another number of classes.
    """
    asked, published = filled.args.get("num_classes"), getattr(filled.model, "pretrained_cfg", {}).get("num_classes")
    if asked and published is not None and asked != published:
        raise LookalikeError(
            f"the published weights of {spec} are of {published} classes: num_classes={asked} would make up a head of "
            "random numbers; leave it out, or give num_classes=0 and --head output (head='output') for the encoder"
        )


def _load_own(name: str, args: dict[str, Any], given: GivenWeights | None) -> LoadedClassifier:
    def build(more: dict[str, Any]) -> nn.Module:
        return build_own(name, more)

    filled = Filled(build(args), args) if given is None else fill(build, args, given, class_argument_of(NETWORKS[name]))
    return _loaded(filled, {"source": "lookalike", "name": name})


def _open_saved(folder: str, weights: str | Path | None, args: Mapping[str, Any] | None) -> LoadedClassifier:
    from lookalike.encoder.saved import open_classifier

    if weights is not None or args:
        raise LookalikeError(
            f"the classifier saved in {folder!r} comes with its weights; give no others, nor arguments"
        )
    return open_classifier(folder)


def _load_hf(name: str, args: dict[str, Any], given: GivenWeights | None) -> LoadedClassifier:
    if "trust_remote_code" in args:
        raise LookalikeError("a repository's code is never run: leave out trust_remote_code")
    with downloading(f"hf:{name}"):
        filled = _hf_network(name, args, given)
    preprocessing, problem = understood(lambda: read_hf(name))
    model: Any = filled.model
    names = [str(label) for _, label in sorted(model.config.id2label.items())]
    spec = {"source": "hf", "name": name, "config": model.config.to_dict(), "args": {}}
    return _loaded(filled, spec, preprocessing, None if is_default(names) else names, problem)


def _hf_network(name: str, args: dict[str, Any], given: GivenWeights | None) -> Filled:
    """Loads a Hugging Face network, and finds out which of its weights the checkpoint lacks."""
    from safetensors import SafetensorError

    transformers = import_extra("transformers", "hf")
    auto = transformers.AutoModelForImageClassification

    def build(more: dict[str, Any]) -> nn.Module:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **more)
        return auto.from_config(config, trust_remote_code=False)  # type: ignore[no-any-return]

    if given is not None:
        return fill(build, args, given, "num_labels")
    try:
        model, info = auto.from_pretrained(name, trust_remote_code=False, output_loading_info=True, **args)
    except SafetensorError as error:  # an LFS pointer, say, or a copy that broke off: the own reader names it
        if Path(name).is_dir():
            return fill(build, args, GivenWeights.read(name), "num_labels")
        raise LookalikeError(
            f"the downloaded weights of hf:{name} are damaged ({error}): remove them from the cache"
        ) from error
    except (pickle.UnpicklingError, OSError, RuntimeError):
        if not Path(name).is_dir() or not any(Path(name).glob("pytorch_model*.bin*")):
            raise
        return fill(build, args, GivenWeights.read(name), "num_labels")  # a pickle that transformers would have to run
    missing = [*info["missing_keys"], *(mismatch[0] for mismatch in info["mismatched_keys"])]
    source = f"the weights of hf:{name}"
    expected = model.state_dict()
    without = check_missing(
        model, [key for key in missing if key in expected and not key.endswith("num_batches_tracked")], source
    )
    if without is not None:
        without_head(model, head=without)
        warn_without_head(source, without)
    check_finite_weights(model, source)
    return Filled(model, args, without)


def _load_file(spec: str, args: dict[str, Any], given: GivenWeights | None) -> LoadedClassifier:
    function = read_function(spec)
    made = [call_function(spec, function, args)]

    def build(more: dict[str, Any]) -> nn.Module:
        if more != args:
            made.append(call_function(spec, function, more))
        return made[-1][0]

    preprocessing = made[0][1]
    if given is None:
        filled = Filled(made[0][0], args)
    else:
        size = preprocessing.crop if preprocessing else None
        filled = fill(build, args, given, class_argument_of(function), size=size)
    return _loaded(filled, {"source": "file", "name": Path(spec).name}, made[-1][1])
