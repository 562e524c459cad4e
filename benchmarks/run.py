"""All benchmarks, one after the other, on one Markdown page.

python benchmarks/run.py [--quick] [-o FILE] [NAME ...]
"""

import argparse
import subprocess
import sys
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import machine

ALL = ("startup", "fingerprints", "reading", "embedding", "costs", "convert", "large", "relevance", "evaluate")


def main() -> None:
    """Runs them and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="fewer samples and repeats")
    parser.add_argument("-o", "--output", type=Path, help="the page; standard output otherwise")
    arguments = parser.parse_args()
    names = arguments.names or ALL
    unknown = [name for name in names if name not in ALL]
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]!r}; there are {', '.join(ALL)}")
    command = " ".join(["python benchmarks/run.py", *(["--quick"] if arguments.quick else []), *arguments.names])
    parts = [
        "# Performance",
        f"{date.today().isoformat()}, {machine()}.\n\n```sh\n{command}\n```",
        "Everything is timed side by side in one run, in turn, and shown as medians and as ratios of neighbours: "
        "seconds depend on the machine, ratios much less.",
    ]
    for name in names:
        print(name, file=sys.stderr, flush=True)
        script = Path(__file__).with_name(f"{name}.py")
        options = ["--quick"] if arguments.quick else []
        found = subprocess.run([sys.executable, str(script), *options], check=True, text=True, stdout=subprocess.PIPE)
        lines = [line for line in found.stdout.splitlines() if line != machine() and not line.startswith("<!--")]
        parts.append("\n".join(f"#{line}" if line.startswith("#") else line for line in lines).strip())
        page = "\n\n".join(parts) + "\n"
        if arguments.output is not None:
            arguments.output.write_text(page, encoding="utf-8")
    if arguments.output is None:
        print(page)


if __name__ == "__main__":
    main()
