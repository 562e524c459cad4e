"""Renders the picture of a report in docs/how-to/evaluate.md, from the report of the demonstration.

    lookalike demo --output demo-output
    python tools/report_picture.py demo-output/report.html

Draws the top of the page, as far as the findings go that fit, and writes docs/assets/report.png with few colours, so
that it stays small. ``make report-picture`` does both. Needs Chromium.
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

_OUTPUT = Path(__file__).parents[1] / "docs" / "assets" / "report.png"
_WIDTH, _HEIGHT = 1100, 980  # pixels: the text is legible in the documentation's column
_COLOURS = 128
_LARGEST = 300_000  # bytes


def draw(report: Path, output: Path, chromium: str) -> int:
    """Writes the picture. Returns its size in bytes.

    Raises:
        SystemExit: If it is too large for the documentation.
    """
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        ends = page.eval_on_selector_all(
            ".findings li", "(rows) => rows.map((row) => row.getBoundingClientRect().bottom)"
        )
        height = max((end for end in ends if end <= _HEIGHT), default=_HEIGHT)  # no finding is cut
        pixels = page.screenshot(clip={"x": 0, "y": 0, "width": _WIDTH, "height": height})
        browser.close()
    Image.open(io.BytesIO(pixels)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(
        output, optimize=True
    )
    size = output.stat().st_size
    if size > _LARGEST:
        raise SystemExit(f"{output} has {size:,} bytes; at most {_LARGEST:,} fit")
    return size


def main() -> None:
    """Draws the picture that the documentation shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="the demonstration's report.html")
    parser.add_argument("--output", type=Path, default=_OUTPUT)
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    options = parser.parse_args()
    print(f"{options.output}: {draw(options.report, options.output, options.chromium):,} bytes")


if __name__ == "__main__":
    main()
