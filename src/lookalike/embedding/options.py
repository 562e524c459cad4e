"""The keyword options of ``embed``: how the data are read, and what the embeddings are computed and stored in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_type_hints

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike.embedding.precision import PRECISIONS, Precision


class EmbeddingOptions(TypedDict, total=False):
    """The keyword options of ``embed``; ``EmbeddingSettings`` says what each means and its default."""

    batch_size: int | None
    num_workers: int | None
    on_error: Literal["stop", "skip"]
    precision: Precision
    dtype: Literal["float32", "float16"]
    head: str | None
    devices: Sequence[str] | None


@dataclass(frozen=True)
class EmbeddingSettings:
    """How a data set is embedded.

    Attributes:
        batch_size: Largest number of rows that pass through the encoder at once; None takes the loader's own, or 256.
            If memory runs out, it is halved.
        num_workers: Number of processes that read and prepare images.
        on_error: ``"skip"`` continues after an image that cannot be read, and lists it in ``skipped``.
        precision: The encoder's precision. ``"auto"`` takes half precision if the processor is faster with it, else
            float32; the effect on embeddings and predictions is measured and recorded in ``info``. ``"fastest"`` times
            a few rows of the pass in several precisions and layouts, for at most 2% of a pass, and takes the fastest:
            a second pass may then take another one, whose results differ by rounding.
        dtype: Type in which the embeddings are stored.
        head: Name of the classifier's head, if it cannot be found automatically.
        devices: Names of devices that compute together, such as ``["cuda:0", "cuda:1"]``: each batch is divided among
            copies of the network, so give a ``batch_size`` for all of them. None computes where the network is.
    """

    batch_size: int | None = None
    num_workers: int | None = None
    on_error: Literal["stop", "skip"] = "stop"
    precision: Precision = "auto"
    dtype: Literal["float32", "float16"] = "float32"
    head: str | None = None
    devices: Sequence[str] | None = None

    def __post_init__(self) -> None:
        checks.field(self, "batch_size", checks.whole_number, 1, optional=True)
        checks.field(self, "num_workers", checks.whole_number, 0, optional=True)
        checks.one_of("on_error", self.on_error, ("stop", "skip"))
        checks.one_of("precision", self.precision, PRECISIONS)
        checks.one_of("dtype", self.dtype, ("float32", "float16"))
        checks.optional(checks.text, "head", self.head)
        checks.optional(checks.names, "devices", self.devices)
        if self.devices is not None and not len(self.devices):
            raise LookalikeError("devices must name at least one device")


def embedding_settings(options: Mapping[str, Any]) -> EmbeddingSettings:
    """Checks plain keyword options of ``embed``.

    Raises:
        LookalikeError: If an option has an invalid value.
        TypeError: If there is no option of that name.
    """
    checks.option_names("embed", options, tuple(get_type_hints(EmbeddingOptions)))
    return EmbeddingSettings(**options)
