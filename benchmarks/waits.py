"""How long people wait for a command on photographs, beyond importing torch.

    python benchmarks/waits.py [--folder FOLDER] [--only predict,explain,convert,report] [--threads N]

Converts EfficientNet-Lite0 on 218 photographs of 224² and reports on 78 others: the stamps (LOOKALIKE_STAMPS, see the
data set's page), and mirrored copies until there are enough. The network's head is fitted to the training photographs,
so there is a black box, as a user has one. FOLDER keeps the photographs and the model for further runs.

Prints Markdown: seconds on the clock, which mean something on an idle machine only; and processor time, user and system
of all threads, which a shared machine hardly changes. On n idle cores, the wait is between processor time / n and
processor time. All packages are compiled to bytecode first, as pip does when it installs them: to import modules that
are not takes as long as some commands.
"""

import argparse
import compileall
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import lookalike
from common import machine, table

N_TRAIN, N_TEST = 218, 78
SPEC = "timm:tf_efficientnet_lite0"
COMMANDS = ("predict", "explain", "convert", "report")


class Wait(NamedTuple):
    """What a command took, in seconds."""

    clock: float
    user: float
    system: float

    @property
    def processor(self) -> float:
        """User and system time."""
        return self.user + self.system


def wait_for(command: Sequence[str]) -> Wait:
    """Runs a command and returns what it took."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    clock, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Wait(clock, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)


def prepare(folder: Path) -> None:
    """Writes the photographs, and EfficientNet-Lite0 with a head for their classes; does nothing if they are there."""
    if (folder / "network.safetensors").exists():
        return
    import torch
    from sklearn.linear_model import LogisticRegression

    from lookalike import embed
    from lookalike.data import load_data
    from lookalike.encoder.packaged import load_efficientnet_lite0
    from lookalike.saved import write_tensors

    write_photographs(folder / "photographs")
    loaded = load_efficientnet_lite0()
    bundle = load_data(str(folder / "photographs"), loaded.preprocessing)
    store = embed(loaded.model, bundle.train, progress=False)
    fitted = LogisticRegression(C=0.01, max_iter=2000).fit(store.embeddings, store.labels)
    weights = {name: tensor.contiguous() for name, tensor in loaded.model.state_dict().items()}
    weights["classifier.weight"] = torch.from_numpy(fitted.coef_).float().contiguous()
    weights["classifier.bias"] = torch.from_numpy(fitted.intercept_).float().contiguous()
    write_tensors(weights, folder / "network.safetensors")


def write_photographs(folder: Path) -> None:
    """Writes the stamps as JPEG files on white, then mirrored ones, until there are enough of both parts."""
    from PIL import Image, ImageOps

    from lookalike.data import load_stamps

    bundle = load_stamps()
    for part, files, n_wanted in (("train", bundle.train, N_TRAIN), ("test", bundle.test, N_TEST)):
        for number in range(n_wanted):
            turn, row = divmod(number, len(files.files))
            picture = Image.open(files.files[row]).convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
            picture = ImageOps.mirror(picture) if turn % 2 else picture
            picture = picture.resize((640, 480)) if turn == 0 else picture.resize((600, 500 + turn))
            target = folder / part / files.classes[files.labels[row]]
            target.mkdir(parents=True, exist_ok=True)
            picture.save(target / f"{files.files[row].stem}_{turn}.jpg", quality=90)


def main() -> None:
    """Runs all and prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", default=",".join(COMMANDS))
    given = parser.parse_args()
    for package in (Path(lookalike.__file__).parent, sysconfig.get_path("purelib")):
        compileall.compile_dir(package, quiet=2, workers=0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        prepare(folder)
        rows = measure(folder, given.only.split(","))
    print(f"# Waits\n\n{machine()}\n")
    headers = ["", "on the clock", "beyond torch", "user", "system", "processor time beyond torch"]
    print(table(f"EfficientNet-Lite0 at 224², {N_TRAIN} and {N_TEST} photographs", headers, rows))


def measure(folder: Path, only: list[str]) -> list[list[str]]:
    """Runs the commands; returns the rows of the table."""
    photographs, test = str(folder / "photographs"), folder / "photographs" / "test"
    image = str(next(iter(sorted(test.rglob("*.jpg")))))
    lookalike = [sys.executable, "-m", "lookalike"]
    convert = [*lookalike, "convert", SPEC, photographs, "--weights", str(folder / "network.safetensors")]
    if not (folder / "model").exists():
        wait_for([*convert, "-o", str(folder / "model")])
    model, output = str(folder / "model"), folder / "output"
    commands = {
        "convert": [*convert, "-o", str(output)],
        "predict": [*lookalike, "predict", model, image],
        "explain": [*lookalike, "explain", model, image, "-o", str(output)],
        "report": [*lookalike, "report", model, photographs, "-o", str(output)],
    }
    torch = wait_for([sys.executable, "-c", "import torch, torchvision"])
    rows = [
        ["import torch, torchvision", f"{torch.clock:.1f} s", "", f"{torch.user:.1f} s", f"{torch.system:.1f} s", ""]
    ]
    for name in only:
        wait = wait_for(commands[name])
        clock, processor = wait.clock - torch.clock, wait.processor - torch.processor
        cells = (wait.clock, clock, wait.user, wait.system, processor)
        rows.append([name, *(f"{seconds:.1f} s" for seconds in cells)])
        if output.is_dir():
            shutil.rmtree(output)
        output.unlink(missing_ok=True)
    return rows


if __name__ == "__main__":
    main()
