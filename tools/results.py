"""Brings tables and figures of experiments into the documentation.

    python tools/results.py experiments
    python tools/results.py experiments-resnet34 --suffix=-resnet34
    python tools/results.py                                            # pages anew, from the data that are there

Each page says between which two comments a result stands: ``<!-- result: accuracy -->`` … ``<!-- end -->``. What was
there is replaced by the experiment's date, machine, tables and figures; what is written around it stays,
but for numbers that a comment explains (tools/prose_figures.py): they are computed anew.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from PIL import Image

from lookalike.experiments import describe, read_findings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.prose_figures import computed

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = DOCS / "results"
FIGURES = DOCS / "assets" / "results"
LONG = 50_000  # characters
BLOCK = re.compile(r"(<!-- result: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="what 'lookalike reproduce -o' wrote")
    parser.add_argument("--suffix", default="", help="added to each experiment's name on the pages")
    arguments = parser.parse_args()
    if arguments.folder is not None:
        if not list(arguments.folder.glob("*.json")):
            parser.error(f"{str(arguments.folder)!r} holds no experiment's JSON")
        wanted = {match[1] for page in PAGES.glob("*.md") for match in BLOCK.findall(page.read_text(encoding="utf-8"))}
        for name in sorted(wanted):
            source = arguments.folder / f"{name.removesuffix(arguments.suffix)}.json"
            if name.endswith(arguments.suffix) and source.exists():
                take(name, source)
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        text = BLOCK.sub(lambda found: found[1] + block(found[2]) + found[3], text)
        page.write_text(computed(text), encoding="utf-8")


def take(name: str, source: Path) -> None:
    """Copies an experiment's JSON, without its options and what is long in it, and its figures."""
    values = json.loads(source.read_text(encoding="utf-8"))
    data = PAGES / "data" / f"{name}.json"
    for old in json.loads(data.read_text(encoding="utf-8")).get("figures", []) if data.exists() else []:
        (FIGURES / old).unlink(missing_ok=True)
    FIGURES.mkdir(parents=True, exist_ok=True)
    drawn, values["figures"] = values["figures"], []
    for file in drawn:
        values["figures"].append(f"{name}{file.removeprefix(source.stem)}")
        shrink(source.parent / file, FIGURES / values["figures"][-1])
    if len(json.dumps(values["details"])) > LONG:
        values["details"] = {}
    del values["cells"]
    data.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def shrink(source: Path, target: Path) -> None:
    """Copies a picture with 256 colours, which takes about half the space."""
    with Image.open(source) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)


def block(name: str) -> str:
    """Returns date, machine, table, remarks and figures of a result."""
    path = PAGES / "data" / f"{name}.json"
    if not path.exists():
        return "*not run yet*\n"
    values, found = json.loads(path.read_text(encoding="utf-8")), read_findings(path)
    lines = [describe(values["measured"], values["plan"]["seeds"])]
    paired = found.to_paired_markdown(values["experiment"], len(values["plan"]["seeds"]), values.get("test_images", {}))
    lines += [found.to_markdown(), *([paired] if paired else []), *found.remarks]
    lines += [f"![{Path(file).stem}](../assets/results/{file})" for file in values.get("figures", [])]
    return "\n" + "\n\n".join(lines) + "\n\n"


if __name__ == "__main__":
    main()
