"""What a watch says after each batch, and what of it survives a restart."""

import hashlib
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from lookalike._core.errors import LookalikeError
from lookalike._core.names import visible
from lookalike._core.records import shown
from lookalike._core.wording import counted

FORMAT = 2  # 1 knew images by their names alone


def image_id(name: str, content: bytes) -> str:
    """Returns the identity of an image: of its file, if the name is that of one, or its name; and of its content.

    A camera that writes ``latest.jpg`` again and again gives many images one name; a folder that is watched again gives
    the same images once more.

    Args:
        name: Name, or path.
        content: What the network gets of the image.
    """
    place = os.path.realpath(name) if os.path.isfile(name) else name  # noqa: PTH113 - a name need not be a valid path
    digest = hashlib.blake2b(place.encode("utf-8", "surrogatepass") + b"\0", digest_size=8)
    digest.update(content)
    return digest.hexdigest()


@dataclass(frozen=True)
class Mode:
    """A group of unfamiliar images that look alike: perhaps a new class.

    Attributes:
        count: Number of images.
        names: Names of those nearest to its centre, nearest first.
        looks_like: The class that the model gives most of them.
        ids: The identities of those that are named.
    """

    count: int
    names: list[str]
    looks_like: str
    ids: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class WatchedImage:
    """An image of a batch.

    Attributes:
        name: Its name.
        id: Its identity, by name and content: a label that comes later can name it by this where names repeat.
        class_name: The class that the model predicts.
    """

    name: str
    id: str
    class_name: str


@dataclass(frozen=True)
class WatchReport:
    """What a watch says after one batch; one JSON line.

    Attributes:
        batch: Number of the batch, from 1.
        n_images: Number of new images in the batch.
        n_repeated: Number of other images in the batch: they were watched before, under the same name and with the same
            content, and are left out.
        n_total: Number of images so far.
        alarm: Whether the images are no longer like the validation images, at the requested false-alarm bound. An
            alarm stays.
        evidence: Highest capital of the test so far; the alarm is raised at 1 / bound.
        unfamiliar: Share of the batch's new images that are unfamiliar; None without any, or if that is not tested.
        mean_probability: Mean probability of the predicted classes in the batch; None without new images.
        occupancy: Number of the batch's images by their most similar prototype [P].
        expected: The same as expected from the validation images [P].
        shift: Total variation distance between the shares of both so far, from 0 to 1.
        modes: New modes among the unfamiliar images so far, largest first.
        n_labelled: Number of images so far whose labels came.
        accuracy: Share of these that were predicted correctly; None without any.
        accuracy_low: Lower end of its 95% interval.
        accuracy_high: Upper end of its 95% interval.
        expected_accuracy: Accuracy on the validation images.
        images: The new images of the batch.
        not_tested: Why no image can be called unfamiliar, with the way out; None if images are tested.
    """

    batch: int
    n_images: int
    n_repeated: int
    n_total: int
    alarm: bool
    evidence: float
    unfamiliar: float | None
    mean_probability: float | None
    occupancy: list[int]
    expected: list[float]
    shift: float
    modes: list[Mode]
    n_labelled: int
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    expected_accuracy: float
    images: list[WatchedImage]
    not_tested: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)

    def sentences(self) -> list[str]:
        """Says the report in words."""
        state = (
            "ALARM: the images are no longer like the validation images"
            if self.alarm
            else "no sign that the images differ from the validation images"
        )
        share = "no new image" if self.unfamiliar is None else f"{self.unfamiliar:.1%} unfamiliar"
        if self.n_images and self.not_tested is not None:
            share = f"unfamiliar: {self.not_tested}"
        messages = [
            f"batch {self.batch}, {counted(self.n_images, 'image')} ({self.n_total:,} so far): {state}; evidence "
            f"{self.evidence:.3g}, {share}"
        ]
        if self.n_repeated:
            messages.append(
                f"{counted(self.n_repeated, 'image')} left out: watched before, with the same name and content"
            )
        messages += [
            f"new mode: {mode.count} images alike, most predicted as '{visible(mode.looks_like)}', such as "
            f"{', '.join(map(visible, mode.names[:3]))}"
            for mode in self.modes
        ]
        if self.accuracy is not None:
            messages.append(
                f"{counted(self.n_labelled, 'label')} so far: {self.accuracy:.1%} correct ({self.accuracy_low:.1%} to "
                f"{self.accuracy_high:.1%}); {self.expected_accuracy:.1%} of the validation images were"
            )
        return messages


@dataclass
class WatchState:
    """What survives a restart. Images that wait for their labels are known by their identities."""

    model: str
    bound: float
    seed: int
    n_batches: int = 0
    n_images: int = 0
    alarm: bool = False
    occupancy: list[int] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    log_bets: dict[str, list[float | None]] = field(default_factory=dict)
    evidence: float = 1.0
    unfamiliar: list[list[float]] = field(default_factory=list)
    unfamiliar_names: list[str] = field(default_factory=list)
    unfamiliar_ids: list[str] = field(default_factory=list)
    unfamiliar_classes: list[int] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    predictions: dict[str, int] = field(default_factory=dict)
    waiting_names: dict[str, str] = field(default_factory=dict)
    n_labelled: int = 0
    n_correct: int = 0
    last_report: dict[str, Any] | None = None
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise LookalikeError(f"it has format {shown(self.format)}; this version reads {FORMAT}")
        counts = [self.n_batches, self.n_images, self.n_labelled, self.n_correct, *self.occupancy]
        if min(counts) < 0 or self.n_batches > self.n_images or self.n_correct > self.n_labelled:
            raise LookalikeError("its counts are impossible")
        lengths = {
            len(values)
            for values in (self.unfamiliar, self.unfamiliar_names, self.unfamiliar_ids, self.unfamiliar_classes)
        }
        widths = {len(point) for point in self.unfamiliar}
        if len(lengths) != 1 or len(widths) > 1 or set(self.scores) != set(self.log_bets):
            raise LookalikeError("its parts do not fit together")
        if set(self.predictions) != set(self.waiting_names) or len(set(self.seen)) > self.n_images:
            raise LookalikeError("its parts do not fit together")
        if any(len(scores) != self.n_images for scores in self.scores.values()) or sum(self.occupancy) != self.n_images:
            raise LookalikeError(f"it does not hold the scores of its {shown(self.n_images)} images")


def upgraded(values: Any) -> Any:
    """Returns the values of a state, with those of format 1 in today's form: its images are known by name alone."""
    if not isinstance(values, dict) or values.get("format") != 1 or not isinstance(values.get("predictions"), dict):
        return values
    ids = {name: image_id(name, b"") for name in values["predictions"]}
    names = values.get("unfamiliar_names")
    return values | {
        "format": FORMAT,
        "predictions": {ids[name]: k for name, k in values["predictions"].items()},
        "waiting_names": {own_id: name for name, own_id in ids.items()},
        "unfamiliar_ids": [""] * len(names) if isinstance(names, list) else [],
    }
