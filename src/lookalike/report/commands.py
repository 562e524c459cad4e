"""The commands of the program that a report tells its reader to type, ready to be copied."""

import shlex
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Commands:
    """Commands about a page's own model and data; words in capitals stand for what the page does not know.

    Attributes:
        model: Folder of the model.
        data: Test data of the page, or the folder that the model was converted with.
        training_data: Folder that the model was converted with.
        network: Value of ``--network`` that the model needs; None without.
        labels: Value of ``--labels`` that the data need; None without.
        split_seed: Value of ``--split-seed`` that divides the data; None takes the model's.
        skips_errors: Whether the data hold images that cannot be read, and are passed over.
        large_images: Whether images of any size are read.
        is_audited: Whether an audit takes the model; it compares whole images, and takes no model of patches.
    """

    model: str = "MODEL"
    data: str = "DATA"
    training_data: str = "DATA"
    network: str | None = None
    labels: str | None = None
    split_seed: int | None = None
    skips_errors: bool = False
    large_images: bool = False
    is_audited: bool = True

    def with_own_training_data(self) -> "Commands":
        """Returns the commands for data that hold the training images, too."""
        return replace(self, training_data=self.data)

    def audit(self, output: str = "suspects.html") -> str | None:
        """Returns the command that lists duplicates and probably wrong labels; None of a model that it refuses."""
        if not self.is_audited:
            return None
        return self._line("audit", self.data, "--model", self.model, "-o", output, *self._of_files())

    def evaluate(self, *options: str) -> str:
        """Returns the command that measures the model on the page's test images."""
        return self._line("evaluate", self.model, self.data, *options, *self._of_data())

    def report(self, *options: str, output: str = "new-report.html") -> str:
        """Returns the command that makes the page again."""
        return self._line("report", self.model, self.data, *options, "-o", output, *self._of_data())

    def convert(self, *options: str, output: str = "new-model") -> str:
        """Returns the command that converts the model's network again, with other options."""
        return self._line("convert", self.model, self.training_data, *options, "-o", output, *self._of_files())

    def evaluate_on(self, data: str) -> str:
        """Returns the command that measures the model on other images."""
        return self._line("evaluate", self.model, data)

    def calibrate(self, data: str, output: str = "calibrated-model") -> str:
        """Returns the command that calibrates the model on images that it has not seen."""
        return self._line("calibrate", self.model, data, "-o", output)

    def studio(self) -> str:
        """Returns the command that opens the model to change its prototypes."""
        return self._line("studio", self.model, self.training_data, *self._of_files())

    def _of_data(self) -> list[str]:
        seed = [] if self.split_seed is None else ["--split-seed", str(self.split_seed)]
        return [*self._of_files(), *seed, *(["--large-images"] if self.large_images else [])]

    def _of_files(self) -> list[str]:
        labels = [] if self.labels is None else ["--labels", self.labels]
        return [*labels, *(["--on-error", "skip"] if self.skips_errors else [])]

    def _line(self, *words: str) -> str:
        needed = [] if self.network is None else ["--network", self.network]
        return shlex.join(["lookalike", *words, *needed])
