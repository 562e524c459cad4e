"""Thresholds of the verdict: the values at which its sentences turn from good to bad."""

from dataclasses import dataclass

from lookalike._core import checks


@dataclass(frozen=True)
class Thresholds:
    """The values at which a sentence of the verdict turns from good to bad. All are ours.

    Attributes:
        agreement: Share of equal predictions that is asked for. None asks for ``least_agreement``, for the agreement of
            two trainings of the black box that err independently (at most 0.97), and for ``good_agreement`` to be good.
        least_agreement: With less than this share of equal predictions, no model can stand for its black box, however
            often that errs itself. Without effect if ``agreement`` is given.
        good_agreement: Only at least this share of equal predictions is called good. Without effect if ``agreement`` is
            given.
        least_accuracy: A model without a black box that is right less often should not be relied on.
        good_accuracy: One that is right less often is to be taken with care.
        lost_points: A loss of this many points of accuracy is mentioned, overall and for a class.
        overlap: With at least this share of training samples nearer to another class's prototype, classes overlap.
        auroc_gain: The area under the relevance-ordering curve must exceed the random order's by this much.
        least_images: With fewer images in a run, nothing is said about heat-maps.
        enough_images: With fewer images in a run, what is good of heat-maps is called a hint.
        calibration: With at least this expected calibration error, probabilities should not be read as chances.
        unchanged: With at least this rank correlation, maps of a randomised model count as unchanged.
        alike: With at least this D_dvs, prototypes are nearly alike to the model itself.
    """

    agreement: float | None = None
    least_agreement: float = 0.5
    good_agreement: float = 0.9
    least_accuracy: float = 0.5
    good_accuracy: float = 0.8
    lost_points: float = 1.0
    overlap: float = 0.05
    auroc_gain: float = 0.02
    least_images: int = 10
    enough_images: int = 100
    alike: float = 0.98
    calibration: float = 0.05
    unchanged: float = 0.5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "agreement" or value is not None:
                checks.number(name, value)
