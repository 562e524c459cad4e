"""Takes pictures of the studio's views, desktop and phone, light and dark, and checks them with axe-core.

    npm pack axe-core@4 && tar xzf axe-core-*.tgz
    python tools/studio_screens.py --axe package/axe.min.js --pictures FOLDER [--classes 3 1000]

Prints a line of JSON for each view: whether the page is wider than the screen, and what axe-core finds. Look at the
pictures. "shortcuts" is the list of suspects after the search for shortcuts, "focus" a tab that has the keyboard's
focus. Takes a minute for 3 classes and some for 1,000.
"""

import argparse
import json
import re
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Page, sync_playwright
from torch import nn

from lookalike import convert
from lookalike.data import Preprocessing
from lookalike.editing import EditSession
from lookalike.studio import Desk, StudioServer

_SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1200, "height": 900}},
    "phone-dark": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}
_TABS = ("Prototypes", "Map", "Wrong", "Suspects", "This looks like…", "Log")
_VIEWS = (*_TABS, "dialog", "shortcuts", "focus")
_FIND = "axe.run().then((found) => found.violations.map((one) => [one.id, one.impact, one.nodes[0].html]))"


def _session(n_classes: int) -> EditSession:
    """Returns a session with edits, on pictures of noise: each class has a level of its own, the first one a mark.

    Three pictures have the label of another class.
    """
    torch.manual_seed(0)
    y = torch.arange(20 * n_classes + 20) % n_classes
    y[-20:] = 0  # of many prototypes, those with most images are tried
    x = 0.3 * torch.rand(len(y), 1, 8, 8) + torch.rand(n_classes, 1, 8, 8)[y]
    x[y == 0, :, :2, :2] = 1
    y[4:7] = (y[4:7] + 1) % n_classes
    network = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, n_classes))
    prepared = Preprocessing((8, 8), (8, 8), mean=(0.0,), std=(1.0,))
    names = [f"a class with the long name {k}" for k in range(n_classes)]
    model = convert(network, (x, y), n_prototypes=2, class_names=names, preprocessing=prepared, progress=False)
    session = EditSession(model, (x, y), who="someone", test=(x[:12], y[:12]), progress=False)
    session.rename(0, "a bright corner")
    session.drop(3, note="a doubt")
    return session


def _show(page: Page, view: str) -> None:
    """Shows one of the views."""
    tab = {"dialog": "Prototypes", "shortcuts": "Suspects", "focus": "Wrong"}.get(view, view)
    page.get_by_role("tab", name=tab).click()
    if view == "dialog":
        page.locator(".proto .tile").first.click()
    elif view == "shortcuts":
        page.get_by_role("button", name="Look for shortcuts").click()
        page.get_by_text(re.compile("Parts that go with a class|No part of")).wait_for(timeout=600_000)
    elif view == "focus":
        page.keyboard.press("ArrowRight")


def _look_at(page: Page, axe: str, folder: Path, name: str) -> None:
    """Looks at each view."""
    page.wait_for_selector(".proto img")
    page.evaluate(axe)
    for view in _VIEWS:
        _show(page, view)
        page.wait_for_timeout(1500)
        page.screenshot(path=str(folder / f"{name}-{view.split()[0].lower()}.png"), full_page=view == "shortcuts")
        is_wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        print(
            json.dumps({"screen": name, "view": view, "too_wide": is_wide, "found": page.evaluate(_FIND)}), flush=True
        )
        page.keyboard.press("Escape")


def main() -> None:
    """Looks at all screens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axe", type=Path, required=True, help="axe.min.js of the package axe-core")
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--classes", type=int, nargs="+", default=[3, 1000])
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.pictures.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        for n_classes in options.classes:
            with tempfile.TemporaryDirectory() as folder:
                desk = Desk(_session(n_classes), Path(folder) / "m")
                with StudioServer(desk) as server:
                    threading.Thread(target=server.serve_forever, daemon=True).start()
                    for screen, values in _SCREENS.items():
                        page = browser.new_context(bypass_csp=True, **values).new_page()  # the policy stops axe, too
                        page.set_default_timeout(300_000)
                        page.goto(server.address)
                        axe = options.axe.read_text(encoding="utf-8")
                        _look_at(page, axe, options.pictures, f"{n_classes}-{screen}")
                        page.close()
                    server.shutdown()
        browser.close()


if __name__ == "__main__":
    main()
