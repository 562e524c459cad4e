"""Measures the page of an exported model in Chromium: its size, how long it loads, and how long an answer takes.

    npm install onnxruntime-web
    LOOKALIKE_STAMPS=FOLDER python tools/exported_page.py node_modules/onnxruntime-web [SCREENSHOTS]

Converts EfficientNet-Lite0 on the stamps, exports it in float32 and int8, drops test photographs, and compares the
answers with Python's. Prints a table for docs/how-to/export.md.
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from playwright.sync_api import Page, sync_playwright

from lookalike import convert, explain
from lookalike.data import MaskedFiles
from lookalike.experiments.photographs import prepared
from lookalike.export import quantise, write_page
from lookalike.model import PrototypeModel

N_PHOTOGRAPHS, N_CALIBRATION = 12, 100
SCREENS = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


def answers(tab: Page, page: Path, photographs: list[Path]) -> dict[str, Any]:
    """Opens a page, drops photographs, and returns the answers with the seconds that everything took."""
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    started = time.perf_counter()
    tab.goto(page.as_uri())
    tab.locator("#status", has_text="Ready.").wait_for()
    loaded, seconds, found = time.perf_counter() - started, [], []
    for photograph in photographs:
        started = time.perf_counter()
        tab.set_input_files("#file", photograph)
        tab.locator("#status", has_text=f"{photograph.name}: answered").wait_for()
        seconds.append(time.perf_counter() - started)
        found.append(json.loads(tab.get_attribute("body", "data-answer") or "null"))
    others = [url for url in asked if url != page.as_uri() and not url.startswith(("data:", "blob:"))]
    return {"loaded": loaded, "first": seconds[0], "answer": median(seconds[1:]), "found": found, "others": others}


def compared(found: list[dict[str, Any]], model: PrototypeModel, photographs: list[Path]) -> tuple[float, int]:
    """Returns the largest difference of a probability from Python's, and how many have the same prototypes."""
    expected = explain(model, photographs)
    pairs = list(zip(found, expected, strict=True))
    difference = max(
        abs(a - b) for answer, one in pairs for a, b in zip(answer["probabilities"], one.probabilities, strict=True)
    )
    return difference, sum(a["nearest"] == [near.prototype for near in b.likenesses] for a, b in pairs)


def main(runtime: Path, shots: Path | None) -> None:
    """Prints the table."""
    loaded, bundle = prepared("EfficientNet-Lite0", 0)
    assert isinstance(bundle.test, MaskedFiles)
    model = convert(loaded, bundle.train, n_prototypes=3, seed=0, progress=False)
    photographs = [bundle.test.root / file for file in bundle.test.files[:N_PHOTOGRAPHS]]
    inputs = torch.stack([bundle.train[i][0] for i in range(min(N_CALIBRATION, len(bundle.train)))])
    pixels = model.to_pixels(inputs)
    assert pixels is not None
    print("| network | screen | page | ready after | first answer | an answer | same prototypes | probabilities |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        model.export(Path(folder) / "float32", pixels=True)
        quantise(Path(folder) / "float32", Path(folder) / "int8", pixels.numpy(), precision="int8")
        program = shutil.which("chromium") or shutil.which("google-chrome")
        chromium = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for precision in ("float32", "int8"):
            page = write_page(Path(folder) / precision, runtime)
            for screen, size in SCREENS.items():
                tab = chromium.new_page(viewport=size)  # type: ignore[arg-type]
                found = answers(tab, page, photographs)
                difference, n_same = compared(found["found"], model, photographs)
                assert not found["others"], found["others"]
                if shots is not None:
                    tab.screenshot(path=shots / f"{precision}-{screen}.png", full_page=True)
                tab.close()
                print(
                    f"| {precision} | {screen} | {page.stat().st_size / 1e6:.1f} MB | {found['loaded']:.1f} s | "
                    f"{found['first']:.2f} s | {found['answer']:.2f} s | {n_same} of {len(photographs)} | "
                    f"± {difference:.0e} |",
                    flush=True,
                )
        chromium.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
