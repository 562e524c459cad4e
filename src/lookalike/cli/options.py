"""Options shared by several commands, and functions that read them."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lookalike.cli.completion import COMPOSITES, completing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from lookalike.data import DataBundle, Preprocessing
    from lookalike.model import PrototypeModel

Json = Annotated[
    bool,
    typer.Option("--json", metavar="", help="Print JSON on standard output, for machines.", rich_help_panel="Running"),
]
Csv = Annotated[
    bool,
    typer.Option(
        "--csv", metavar="", help="Print CSV on standard output, for spreadsheets.", rich_help_panel="Running"
    ),
]
_ACCELERATORS = {"auto": "auto", "cpu": "cpu", "cuda": "gpu", "gpu": "gpu", "mps": "mps"}

Device = Annotated[
    str, typer.Option(help="cpu, cuda, mps, or auto: the fastest one available.", rich_help_panel="Running")
]
Seed = Annotated[
    int, typer.Option(min=0, help="Random seed; the same seed gives the same result.", rich_help_panel="Running")
]
SplitSeed = Annotated[
    int | None,
    typer.Option(
        "--split-seed",
        min=0,
        help="Seed of the 80 / 20 split of a folder without test images; by default the saved model's, or 0.",
        rich_help_panel="Running",
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        min=1, help="Largest number of images that pass through the network at once.", rich_help_panel="Running"
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Number of threads or processes that read images.",
        show_default="one per core",
        rich_help_panel="Running",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", metavar="", help="Replace existing output.")]
Corrections = Annotated[
    Path | None,
    typer.Option(
        "--corrections",
        metavar="FILE",
        help="A table of corrected training labels, as the studio writes it; DATA itself stays as it is.",
        rich_help_panel="Images",
    ),
]
DiscardEdits = Annotated[
    bool,
    typer.Option(
        "--discard-edits", metavar="", help="With --overwrite: replace a model even if its history of edits is lost."
    ),
]
OnError = Annotated[
    Literal["stop", "skip"],
    typer.Option(
        help="What to do about an image that cannot be read: 'stop', or 'skip' it and list it.",
        rich_help_panel="Images",
    ),
]
ValueRange = Annotated[
    str | None,
    typer.Option(
        "--value-range",
        metavar="LOW,HIGH",
        help="Values of black and white in images of 16 or 32 bits or floats; by default 0…65535, or as found.",
        rich_help_panel="Images",
    ),
]
Transparency = Annotated[
    Literal["dropped", "white", "black"] | None,
    typer.Option(
        "--transparency",
        help="What transparent pixels become: the arbitrary colour stored under them (dropped), white or black; by "
        "default as the network's own preparation does it. The model keeps it.",
        rich_help_panel="Images",
    ),
]
AsStored = Annotated[
    bool,
    typer.Option(
        "--as-stored",
        metavar="",
        help="Do not turn photographs upright by their EXIF orientation.",
        rich_help_panel="Images",
    ),
]
ScaledDecoding = Annotated[
    bool,
    typer.Option(
        "--scaled-decoding",
        metavar="",
        help="Decode large JPEG photographs at a reduced size: faster, with slightly other pixels.",
        rich_help_panel="Images",
    ),
]
LargeImages = Annotated[
    bool,
    typer.Option(
        "--large-images",
        metavar="",
        help="Also read images above Pillow's limit of 179 million pixels.",
        rich_help_panel="Images",
    ),
]
Composite = Annotated[
    str,
    typer.Option(
        help="Rules of relevance propagation, e.g. attnlrp for transformers.", autocompletion=completing(COMPOSITES)
    ),
]
Network = Annotated[
    str | None,
    typer.Option(
        help="path/to/file.py:function that builds the network, if the saved model does not know its name.",
        rich_help_panel="The network",
    ),
]
PrecisionOption = Annotated[
    Literal["auto", "fastest", "float32", "bfloat16", "float16"],
    typer.Option(
        "--precision",
        help="Precision of the embedding pass; auto: half precision if the processor is faster at it, by a rule; "
        "fastest: what a trial with a few images finds.",
        rich_help_panel="Running",
    ),
]
RuleOption = Annotated[
    Literal["share", "gradient", "neuralized"] | None,
    typer.Option(
        "--rule",
        help="Rule by which heat-maps of a likeness start. neuralized, the default, compares with the strongest rival; "
        "share is the paper's rule, and unstable.",
    ),
]
Profile = Annotated[
    Path | None,
    typer.Option("--profile", metavar="FILE", help="Write a trace that a browser can open.", rich_help_panel="Running"),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="A table (CSV, TSV, JSON lines) of DATA's image files and their classes, if its folders are not the "
        "classes; FILE:COLUMN names the column with the classes.",
        rich_help_panel="Images",
    ),
]
ClassOrderOption = Annotated[
    str | None,
    typer.Option(
        "--class-order",
        metavar="NAMES|FILE",
        help="The classes in the order of the network's outputs: names separated by commas, a file with one name per "
        "line (or a JSON list), or 'natural': the order in which timm numbers folders.",
        rich_help_panel="The network",
    ),
]
SavedModel = Annotated[Path, typer.Argument(metavar="MODEL", help="A folder that 'convert' or 'train' wrote.")]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Image files, or folders of them.")]


def read_pairs(option: str, pairs: list[str] | None) -> dict[str, Any]:
    """Reads an option's NAME=VALUE pairs. A value is parsed as JSON if it is JSON, else taken as text."""
    import json

    from lookalike._core.errors import LookalikeError

    values: dict[str, Any] = {}
    for pair in pairs or []:
        name, separator, text = pair.partition("=")
        if not separator:
            raise LookalikeError(f"{option} takes NAME=VALUE, not {pair!r}")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


def read_range(text: str | None) -> tuple[float, float] | None:
    """Reads --value-range."""
    from lookalike._core.errors import LookalikeError
    from lookalike.data.grey_values import checked_range

    if text is None:
        return None
    try:
        low, high = (float(number) for number in text.split(","))
        return checked_range((low, high))
    except ValueError as error:
        raise LookalikeError(f"--value-range takes LOW,HIGH with LOW < HIGH, e.g. 0,4095, not {text!r}") from error


def pick_device(name: str) -> Any:
    """Returns the torch device of a name; ``auto`` is the fastest one available."""
    import torch

    from lookalike._core.errors import LookalikeError

    if name == "auto":
        available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        name = next(kind for kind, usable in available.items() if usable)
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or ["not available"])[0]
        raise LookalikeError(f"the device {name!r} cannot be used: {reason}") from error
    return device


def accelerator_of(device: str) -> str:
    """Returns Lightning's name of a kind of device.

    Raises:
        LookalikeError: If there is no such kind.
    """
    from lookalike._core.errors import LookalikeError

    if device not in _ACCELERATORS:
        raise LookalikeError(f"the device must be one of {', '.join(_ACCELERATORS)}, not {device!r}")
    return _ACCELERATORS[device]


def split_seed_of(model: Any, requested: int | None) -> int:
    """Returns the seed for splitting a folder: the requested one, else the one recorded in a saved model, else 0."""
    from lookalike.data import Split

    split = Split.from_dict(getattr(model, "provenance", {}).get("split"))
    recorded_seed = None if split is None else split.seed
    return requested if requested is not None else recorded_seed if recorded_seed is not None else 0


def note_unused_split_seed(bundle: "DataBundle", split_seed: int | None) -> None:
    """Says if a seed was given for splitting data that come in their parts."""
    from lookalike.cli.console import say

    if split_seed is not None and bundle.split is not None and bundle.split.by != "seed":
        how = (
            "come in a training and a test part" if bundle.split.by == "parts" else "were divided by the model's record"
        )
        say(f"--split-seed {split_seed} changes nothing: the data {how}.")


def load_with_roles(
    model: "PrototypeModel", data: str, preprocessing: "Preprocessing", *, labels: str | None, split_seed: int | None
) -> "DataBundle":
    """Loads data for a saved model; the model's own record says which of them are its training images."""
    from lookalike.data import load_for_model

    bundle = load_for_model(data, preprocessing, model.training_record, labels=labels, asked_seed=split_seed)
    note_unused_split_seed(bundle, split_seed)
    return bundle


def build_network(network: str, folder: Path) -> "nn.Module":
    """Builds the user's own network by ``file.py:function``, with the arguments that the saved model records.

    Raises:
        LookalikeError: If the function fails or returns no network, or the folder's record cannot be read.
    """
    from lookalike.encoder.specs import build_untrained
    from lookalike.saved import read_spec_of_own_network

    spec = read_spec_of_own_network(folder)
    return build_untrained(network, None if spec is None else spec["args"])


def load_corrected(
    data: str,
    preprocessing: "Preprocessing | None",
    corrections: Path | None,
    **options: Any,
) -> "DataBundle":
    """Loads data, with corrected training labels if a table of them is given."""
    from lookalike.data import load_data, with_corrections

    bundle = load_data(data, preprocessing, **options)
    return bundle if corrections is None else with_corrections(bundle, corrections)


@contextmanager
def naming_network_option(network: str | None) -> "Iterator[None]":
    """Adds to an error about a network of the user's own which option gives it, unless it was given."""
    from lookalike._core.errors import LookalikeError

    try:
        yield
    except LookalikeError as error:
        if network is None and "load(folder, model=" in str(error):
            raise LookalikeError(f"{error}; on the command line: --network path/to/file.py:function") from error
        raise


def open_model(folder: Path, network: str | None, device: Any) -> "tuple[PrototypeModel, Preprocessing]":
    """Loads a saved model and its preprocessing.

    Raises:
        LookalikeError: If the model does not know its preprocessing.
    """
    from lookalike._core.errors import LookalikeError
    from lookalike.model import load
    from lookalike.model.hub import downloaded, is_address

    if is_address(folder):
        with downloaded(str(folder)) as temporary:
            return open_model(temporary, network, device)
    network_module = None if network is None else build_network(network, folder)
    with naming_network_option(network):
        model = load(folder, model=network_module)
    if model.preprocessing is None:
        raise LookalikeError(
            f"the model in {str(folder)!r} was made from ready tensors and does not say how to prepare an image; "
            "use it from Python"
        )
    return model.to(pick_device(device) if isinstance(device, str) else device), model.preprocessing
