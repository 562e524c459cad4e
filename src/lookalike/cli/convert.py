"""``lookalike convert``."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike._core.startup import import_torch
from lookalike._core.wording import counted
from lookalike.cli.completion import CLUSTERERS, DECISIONS, LEVELS, SIMILARITIES, completing
from lookalike.cli.console import (
    free_name,
    guarded,
    print_json,
    print_line,
    say,
    show_next,
)
from lookalike.cli.conversion_report import report_of, show_conversion
from lookalike.cli.on_cluster import check_with_cluster, cluster_options
from lookalike.cli.options import (
    AsStored,
    BatchSize,
    ClassOrderOption,
    Corrections,
    DiscardEdits,
    Json,
    Labels,
    LargeImages,
    Network,
    OnError,
    Overwrite,
    PrecisionOption,
    Profile,
    ScaledDecoding,
    Seed,
    SplitSeed,
    Transparency,
    ValueRange,
    Workers,
    load_corrected,
    note_unused_split_seed,
    open_model,
    pick_device,
    read_pairs,
    read_range,
    split_seed_of,
)
from lookalike.cli.preprocessing import (
    Crop,
    ImageOptions,
    ImageSize,
    Interpolation,
    Mean,
    Resize,
    Std,
    adjust_preprocessing,
)

if TYPE_CHECKING:
    from lookalike.data import Batches, Preprocessing
    from lookalike.metrics import Comparison
    from lookalike.model import PrototypeModel


@guarded
def convert(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="torchvision:NAME, timm:NAME, hf:NAME, open_clip:NAME/TAG, path/to/file.py:function, or a folder of "
            "'convert' or 'train'.",
        ),
    ],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="A folder with one sub-folder per class or a table of labels, or a dataset's name."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write the converted model to.")],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="A checkpoint: safetensors, .pth, .ckpt, a folder of shards; read without running code.",
            rich_help_panel="The network",
        ),
    ] = None,
    weights_key: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which weights to take, if several sets in the checkpoint fit.",
            rich_help_panel="The network",
        ),
    ] = None,
    weights_by_order: Annotated[
        bool,
        typer.Option(
            "--weights-by-order",
            metavar="",
            help="Match the weights with the network by order instead of name: same architecture, other names.",
            rich_help_panel="The network",
        ),
    ] = False,
    model_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="An argument for the function that builds the network; repeatable.",
            rich_help_panel="The network",
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="Name of the classification layer, if it cannot be found.", rich_help_panel="The network"),
    ] = None,
    class_order: ClassOrderOption = None,
    n_prototypes: Annotated[
        str,
        typer.Option(
            help="Number per class, 'auto', CLASS=NUMBER,… for all classes, or 5,CLASS=NUMBER,… with 5 for all others.",
            rich_help_panel="Prototypes",
        ),
    ] = "5",
    similarity: Annotated[
        str,
        typer.Option(
            help="l2, mahalanobis, head, cosine, …, or auto: the best on held-out training images.",
            autocompletion=completing((*SIMILARITIES, "auto")),
            rich_help_panel="Prototypes",
        ),
    ] = "l2",
    level: Annotated[
        str,
        typer.Option(
            help="image; patch: parts of images that vote; head: the weights of the classifier's own head.",
            autocompletion=completing(LEVELS),
            rich_help_panel="Prototypes",
        ),
    ] = "image",
    layers: Annotated[
        str | None,
        typer.Option(
            help="With --level patch: last, b4, b234, or names of layers with commas.", rich_help_panel="Prototypes"
        ),
    ] = None,
    decision: Annotated[
        str | None,
        typer.Option(
            help="With --level patch: vote, mean or linear.",
            autocompletion=completing(DECISIONS),
            rich_help_panel="Prototypes",
        ),
    ] = None,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            metavar="",
            help="With --level patch --decision linear: --n-prototypes concepts for all classes together.",
            rich_help_panel="Prototypes",
        ),
    ] = False,
    clusterer: Annotated[
        str,
        typer.Option(
            help="kmeans, faiss, minibatch, bisecting, kmedoids or gmm.",
            autocompletion=completing(CLUSTERERS),
            rich_help_panel="Prototypes",
        ),
    ] = "kmeans",
    temperature: Annotated[
        str,
        typer.Option(
            metavar="T",
            help="Temperature of the probabilities: 'auto' fits it to held-out images, 1 is the paper's reading.",
            rich_help_panel="Prototypes",
        ),
    ] = "auto",
    image_size: ImageSize = None,
    resize: Resize = None,
    crop: Crop = None,
    interpolation: Interpolation = None,
    mean: Mean = None,
    std: Std = None,
    labels: Labels = None,
    corrections: Corrections = None,
    value_range: ValueRange = None,
    transparency: Transparency = None,
    as_stored: AsStored = False,
    scaled_decoding: ScaledDecoding = False,
    large_images: LargeImages = False,
    batch_size: BatchSize = 64,
    workers: Workers = None,
    network: Network = None,
    on_error: OnError = "stop",
    precision: PrecisionOption = "auto",
    memory_limit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory for the clustering of one class, e.g. 2GiB; by default half of all.",
            rich_help_panel="Running",
        ),
    ] = None,
    working_folder: Annotated[
        Path | None,
        typer.Option(
            help="Folder for intermediate results: after an interruption, the same command resumes from it.",
            rich_help_panel="Running",
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Convert on a Ray cluster: 'auto', or its address.", rich_help_panel="Running"
        ),
    ] = None,
    profile: Profile = None,
    no_advice: Annotated[
        bool,
        typer.Option(
            "--no-advice",
            metavar="",
            help="Do not try what other similarities and numbers of prototypes would give, which takes some seconds.",
            rich_help_panel="Prototypes",
        ),
    ] = False,
    no_images: Annotated[
        bool, typer.Option("--no-images", metavar="", help="Save no pixels of training images.")
    ] = False,
    no_names: Annotated[
        bool, typer.Option("--no-names", metavar="", help="Save no file names of training images.")
    ] = False,
    overwrite: Overwrite = False,
    discard_edits: DiscardEdits = False,
    seed: Seed = 0,
    split_seed: SplitSeed = None,
    device: Annotated[
        str,
        typer.Option(
            help="cpu, cuda, mps, or auto: the fastest one available. cuda:0,cuda:1 embeds on several at once.",
            rich_help_panel="Running",
        ),
    ] = "auto",
    json: Json = False,
) -> None:
    """Convert a trained classifier into one that explains itself by prototypes."""
    import_torch()
    from lookalike._core.fresh_folder import check_replaceable
    from lookalike._core.profiling import profiled
    from lookalike.conversion.convert import convert as convert_model
    from lookalike.data import Batches, settle_value_range
    from lookalike.data.bundle import is_dataset
    from lookalike.encoder.preprocessing import input_channels
    from lookalike.saved import check_no_edits

    check_replaceable(output, overwrite=overwrite)
    check_no_edits(output, discard=discard_edits)
    numbers = _read_n_prototypes(n_prototypes)
    _check_early(level, similarity, memory_limit, clusterer, numbers, decision)
    parsed_temperature = _read_temperature(temperature)
    reading = _reading(value_range, as_stored, scaled_decoding, transparency)
    arguments = read_pairs("--model-arg", model_arg)
    devices = device.split(",")
    if cluster is not None:
        check_with_cluster(working_folder, precision, memory_limit, workers, profile, devices)
    checkpoint = (weights, weights_key, weights_by_order)
    is_dataset(data)  # refuses a missing folder before any weights are downloaded
    source, preprocessing = _load_source(model, checkpoint, arguments, head, network, pick_device(devices[0]))
    images = ImageOptions(image_size, resize, crop, interpolation, mean, std)
    problem = getattr(source, "preprocessing_problem", None)
    channels = input_channels(getattr(source, "model", None))
    preprocessing, changes = adjust_preprocessing(preprocessing, images, problem, channels)
    for change in changes:
        say(change)
    bundle = load_corrected(data, preprocessing, corrections, seed=split_seed_of(source, split_seed), labels=labels)
    note_unused_split_seed(bundle, split_seed)
    bundle = bundle.with_preprocessing(replace(bundle.preprocessing, large_images=large_images, **reading))
    bundle = settle_value_range(bundle)
    say(f"Converting {model} with {counted(len(bundle.train), 'training image')} of {len(bundle.class_names)} classes.")
    train = Batches(bundle, batch_size, workers, on_error)
    options: Any = {"clusterer": clusterer, "head": head, "class_order": class_order, "temperature": parsed_temperature}
    if cluster is None:
        options |= {"precision": precision, "memory_limit": memory_limit, "working_folder": working_folder}
        options["advice"] = not no_advice
        options |= {"devices": devices} if len(devices) > 1 else {}
    else:
        assert working_folder is not None  # checked above
        options |= cluster_options(cluster, working_folder, batch_size, on_error, bundle.class_names)
    of_patches: dict[str, Any] = {"layers": layers, "decision": decision, "shared": shared or None}
    options = _options_of_level(level, of_patches, options)
    with profiled(profile, say):
        converted = convert_model(
            source, train if cluster is None else bundle, numbers, similarity, seed=seed, **options
        )
    skipped = list(train.skipped.values()) if cluster is None else list(converted.provenance["skipped_samples"])
    comparison = None
    if len(bundle.test):
        test = Batches(bundle.test, batch_size, workers, on_error)
        comparison = _compare_on(test, converted)
        skipped += list(test.skipped.values())
    converted.save(output, images=not no_images, names=not no_names, overwrite=overwrite, discard_edits=discard_edits)
    if json:
        print_json(report_of(converted, bundle, comparison, skipped, output))
    else:
        show_conversion(converted, bundle, comparison, skipped, output)
        needed = {"--network": _own_network(model, network, output), "--labels": labels}
        needed["--on-error"] = "skip" if on_error == "skip" else None
        _show_next_step(converted, output, data if len(bundle.test) else None, needed)


def _check_early(
    level: str, similarity: str, memory_limit: str | None, clusterer: str, n_prototypes: Any, decision: str | None
) -> None:
    """Refuses mistakes in options before the network is loaded.

    Raises:
        LookalikeError: If one has a value that it does not take.
    """
    from lookalike._core import checks
    from lookalike.conversion.clustering import CLUSTERERS
    from lookalike.conversion.convert import AUTO
    from lookalike.conversion.out_of_core import bytes_of
    from lookalike.conversion.per_class import check_number_of_prototypes
    from lookalike.model.decision import DECISIONS
    from lookalike.model.similarity import make_similarity

    checks.one_of("--level", level, LEVELS)
    check_number_of_prototypes(n_prototypes)
    if decision is not None:
        checks.one_of("--decision", decision, DECISIONS)
    if similarity != AUTO:
        make_similarity(similarity)
    bytes_of(memory_limit)
    _ = CLUSTERERS[clusterer]


def _reading(
    value_range: str | None, as_stored: bool, scaled_decoding: bool, transparency: str | None
) -> dict[str, Any]:
    """Returns the options that are given of how images are read, as fields of a ``Preprocessing``."""
    reading: dict[str, Any] = {"value_range": read_range(value_range)} if value_range is not None else {}
    reading |= {"as_stored": True} if as_stored else {}
    reading |= {"scaled_decoding": True} if scaled_decoding else {}
    return reading | ({"transparency": transparency} if transparency is not None else {})


def _own_network(model: str, network: str | None, output: Path) -> str | None:
    """Returns what builds a network of the user's own, which later commands need; None for any other."""
    from lookalike.model.hub import is_address
    from lookalike.saved import read_spec_of_own_network

    if Path(model).is_dir() or is_address(model):
        return network
    return model if read_spec_of_own_network(output) else None


def _show_next_step(model: "PrototypeModel", output: Path, data: str | None, options: dict[str, str | None]) -> None:
    """Prints what other choices gave, and the command to type next, with the options that it needs.

    Args:
        model: The converted model.
        output: Its folder.
        data: The data to report on; None if they have no test images.
        options: Values of options by name; those that are None are left out.
    """
    advice = model.provenance.get("advice")
    if advice:
        print_line(advice["sentence"])
    if data is None:
        show_next("explain", str(output), "IMAGE", "-o", free_name("explanations"), network=options["--network"])
        return
    needed = [word for name, value in options.items() if value is not None for word in (name, value)]
    show_next("report", str(output), data, *needed, "-o", free_name("report.html"))


def _compare_on(test: "Batches", converted: "PrototypeModel") -> "Comparison | None":
    """Compares the model with its black box on test images and records the result; None if that fails.

    Warns:
        LookalikeWarning: If it fails. The conversion itself is not lost.
    """
    from lookalike._core.errors import LookalikeError, LookalikeWarning
    from lookalike.metrics import compare

    try:
        comparison = compare(converted, test)
    except LookalikeError as error:
        warnings.warn(f"nothing was measured on the test images: {error}", LookalikeWarning, stacklevel=1)
        return None
    converted.provenance["test"] = comparison.to_dict()
    return comparison


def _load_source(
    model: str,
    checkpoint: tuple[Path | None, str | None, bool],
    arguments: dict[str, Any],
    head: str | None,
    network: str | None,
    device: Any,
) -> "tuple[Any, Preprocessing | None]":
    """Loads the model to convert: a classifier, or a saved prototype model, whose encoder is used.

    Raises:
        LookalikeError: If it cannot be loaded, or an option is given that is for the other kind.
    """
    from lookalike._core.errors import LookalikeError
    from lookalike.encoder import is_saved_classifier, load_classifier
    from lookalike.model.hub import is_address

    weights, key, by_order = checkpoint
    if is_address(model) or (Path(model).is_dir() and not is_saved_classifier(model)):
        of_classifiers = {
            "--weights": weights, "--weights-key": key, "--weights-by-order": by_order, "--model-arg": arguments,
            "--head": head,
        }  # fmt: skip
        unused = [name for name, value in of_classifiers.items() if value]
        if unused:
            raise LookalikeError(
                f"the model saved in {model!r} comes with its network, weights and head: leave out "
                f"{' and '.join(unused)}"
            )
        return open_model(Path(model), network, device)
    if network is not None:
        raise LookalikeError(f"--network is for saved models; {model!r} says itself what builds it: leave it out")
    loaded = load_classifier(model, weights, model_args=arguments, by_order=by_order, weights_key=key)
    loaded.model.to(device)
    return loaded, loaded.preprocessing


def _options_of_level(level: str, of_patches: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Adds the given options of patches, and leaves out defaults of options that the level does not have."""
    defaults: dict[str, Any] = {"clusterer": "kmeans", "temperature": "auto", "memory_limit": None}
    defaults |= {"working_folder": None, "advice": options.get("advice", True)}
    if level != "image":
        options = {name: value for name, value in options.items() if name not in defaults or value != defaults[name]}
    layers = of_patches["layers"]
    given = of_patches | {"layers": layers.split(",") if layers is not None and "," in layers else layers}
    return options | {"level": level} | {name: value for name, value in given.items() if value is not None}


def _read_n_prototypes(text: str) -> Any:
    """Parses --n-prototypes."""
    from lookalike._core.errors import LookalikeError

    if text == "auto":
        return "auto"
    try:
        if "=" not in text:
            return int(text)
        first, *rest = text.split(",")
        of_others: dict[str | None, int] = {} if "=" in first else {None: int(first)}
        pairs = [pair.rsplit("=", 1) for pair in (rest if of_others else [first, *rest])]
        numbers = of_others | {name.strip(): int(number) for name, number in pairs}
    except ValueError as error:
        raise LookalikeError(
            f"--n-prototypes takes a number, 'auto', CLASS=NUMBER,… for all classes, or NUMBER,CLASS=NUMBER,… with the "
            f"number of all others first, not {text!r}"
        ) from error
    if len(numbers) < len(pairs) + len(of_others):
        raise LookalikeError(f"--n-prototypes names a class twice: {text!r}")
    return numbers


def _read_temperature(text: str) -> Any:
    """Parses --temperature."""
    from lookalike._core.errors import LookalikeError
    from lookalike.conversion.temperature import check_temperature

    try:
        return "auto" if text == "auto" else check_temperature(float(text))
    except (ValueError, LookalikeError) as error:
        raise LookalikeError(f"--temperature takes 'auto' or a number above 0, not {text!r}") from error
