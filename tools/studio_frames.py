"""Measures how smoothly the studio scrolls through 10,000 images, in Chromium.

    python tools/studio_frames.py [--prototypes 10000] [--seconds 6] [--speed 2000] [--chromium /usr/bin/chromium]

Opens the page of a model of 10 classes with that many prototypes in all, each with an image of 64 × 64 pixels, and
scrolls through it by ``requestAnimationFrame``. Prints JSON: frames a second, the 95th percentile of the time between
frames in milliseconds, how long the page took to show the first prototypes, and, per second of scrolling, the CPU
seconds of the page's own thread (scripts, styles, layout), of the whole browser, and of the server: those depend little
on what else the machine is doing. Chromium draws without a GPU here, which is most of the browser's time.
"""

import argparse
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from playwright.sync_api import CDPSession, sync_playwright
from torch import Tensor, nn

from lookalike import convert
from lookalike.data import Preprocessing
from lookalike.editing import EditSession
from lookalike.studio import Desk, StudioServer

_CLASSES = 10
_SIDE = 64
_SCROLL = """([seconds, speed]) => new Promise((done) => {
  const times = [], begin = performance.now();
  const step = (now) => {
    times.push(now);
    window.scrollTo(0, (now - begin) / 1000 * speed);
    if (now - begin < 1000 * seconds) requestAnimationFrame(step);
    else done(times);
  };
  requestAnimationFrame(step);
})"""


def _cpu_of_descendants() -> float:
    """Returns the CPU seconds of all processes that this one started, directly or not; Linux only."""
    parents, seconds = {}, {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(status.parent.name)
        parents[pid], seconds[pid] = int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(seconds[pid] for pid in family - {os.getpid()})


def _cpu_seconds(inspector: CDPSession) -> dict[str, float]:
    """Returns the CPU seconds so far of the page's main thread, the browser, and the server, which is this process."""
    metrics = {metric["name"]: metric["value"] for metric in inspector.send("Performance.getMetrics")["metrics"]}
    return {"page": metrics["TaskDuration"], "browser": _cpu_of_descendants(), "server": time.process_time()}


class _Means(nn.Module):
    """A network whose embedding is the picture in 8 × 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.AvgPool2d(8), nn.Flatten())
        self.head = nn.Linear(192, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(x))


class _Noise(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Pictures of coloured noise, made when they are read."""

    classes = tuple(f"class {k}" for k in range(_CLASSES))

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        coarse = torch.from_numpy(np.random.default_rng(index).random((3, 8, 8), dtype=np.float32))
        return coarse.repeat_interleave(8, 1).repeat_interleave(8, 2), index % _CLASSES


def _desk(n: int, folder: Path) -> Desk:
    data = _Noise(n)
    x = torch.stack([data[i][0] for i in range(200)])
    model = convert(
        _Means(), (x, torch.arange(200) % _CLASSES), n_prototypes=1, class_names=list(data.classes), progress=False,
        preprocessing=Preprocessing.square(_SIDE, mean=(0.0,) * 3, std=(1.0,) * 3),
    )  # fmt: skip
    z = np.stack([data[i][0][:, ::8, ::8].flatten().numpy() for i in range(n)])
    labels = np.arange(n) % _CLASSES
    model = _with_all_as_prototypes(model, z, labels)
    session = EditSession(model, data, embeddings=None, who="tool", progress=False)
    return Desk(session, folder)


def _with_all_as_prototypes(model: Any, z: np.ndarray, labels: np.ndarray) -> Any:
    """Returns the model with each sample as a prototype."""
    from lookalike.conversion.survey import survey
    from lookalike.model import Origin, PrototypeModel, Prototypes

    order = np.argsort(labels, kind="stable")
    prototypes = Prototypes(torch.from_numpy(z[order]), torch.from_numpy(labels[order]), model.class_names)
    surveyed = survey(prototypes, model.similarity, z, labels, indices=np.arange(len(z)), n_nearest=4)
    return PrototypeModel(
        model.encoder, surveyed, model.similarity, model.classifier, preprocessing=model.preprocessing,
        origin=Origin(value_range=model.value_range),
    )  # fmt: skip


def main() -> None:
    """Measures, and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prototypes", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--speed", type=float, default=2000, help="pixels a second")
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, StudioServer(_desk(options.prototypes, Path(folder) / "m")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            began = time.perf_counter()
            page.goto(server.address)
            page.wait_for_selector(".proto img")
            opened = time.perf_counter() - began
            page.wait_for_timeout(500)
            inspector = page.context.new_cdp_session(page)
            inspector.send("Performance.enable", {"timeDomain": "threadTicks"})
            before = _cpu_seconds(inspector)
            times = np.array(page.evaluate(_SCROLL, [options.seconds, options.speed]))
            cpu = {who: seconds - before[who] for who, seconds in _cpu_seconds(inspector).items()}
            height = page.evaluate("document.documentElement.scrollHeight")
            browser.close()
        server.shutdown()
    gaps = np.diff(times)
    print(
        json.dumps(
            {
                "prototypes": options.prototypes,
                "opened_s": round(opened, 2),
                "page_px": height,
                "frames_per_second": round(1000 * len(gaps) / float(gaps.sum()), 1),
                "gap_median_ms": round(float(np.median(gaps)), 1),
                "gap_95_ms": round(float(np.percentile(gaps, 95)), 1),
                "cpu_per_second": {who: round(1000 * seconds / float(gaps.sum()), 2) for who, seconds in cpu.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
