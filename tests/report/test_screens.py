"""What a reader sees on a desktop and on a phone of 390 pixels: nothing cut, cards aligned, drawings that enlarge."""

import pytest
import torch
from torch import nn

from lookalike import convert
from lookalike.report import write_report
from tests.small import bright_images

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1200, "height": 900}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A report with drawings of parts and ten classes, whose confusion table is the widest part of it."""
    torch.manual_seed(0)
    x, _ = bright_images(120)
    y = torch.arange(120) % 10
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))
    names = [f"a class {k}" for k in range(10)]
    model = convert(net, (x, y), n_prototypes=1, n_images=1, class_names=names, progress=False)
    path = tmp_path_factory.mktemp("screens") / "report.html"
    quick = {"n_maps": 0, "n_browse": 20, "n_images": 4, "n_steps": 2, "n_draws": 1, "progress": False}
    write_report(model, (x[:40], y[:40]), path, train=(x, y), **quick)
    return path.as_uri()


@pytest.fixture
def open_on(browser, address):
    """Opens the page on a screen."""
    contexts = []

    def opened(viewport):
        contexts.append(browser.new_context(viewport=viewport))
        tab = contexts[-1].new_page()
        tab.goto(address)
        return tab

    yield opened
    for context in contexts:
        context.close()


def test_drawings_of_parts_fit_a_phone_and_enlarge(open_on):
    tab = open_on(PHONE)
    rights = tab.eval_on_selector_all(".drawings img", "(all) => all.map((one) => one.getBoundingClientRect().right)")
    assert rights
    assert max(rights) <= PHONE["width"]
    is_loaded = """() => { const one = document.querySelector("#lightbox img");
        return one !== null && one.complete && one.naturalWidth > 0; }"""
    tab.click(".drawings button >> nth=0")
    tab.wait_for_function(is_loaded)
    natural, shown = tab.eval_on_selector("#lightbox img", "(one) => [one.naturalWidth, one.width]")
    assert shown == natural
    tab.wait_for_selector("#lightbox .sideways")
    tab.keyboard.press("Escape")
    tab = open_on(DESKTOP)
    tab.click(".drawings button >> nth=1")
    small = tab.eval_on_selector(".drawings img >> nth=1", "(one) => one.width")
    tab.wait_for_function(is_loaded)
    assert tab.eval_on_selector("#lightbox .drawn img", "(one) => one.width") > 1.5 * small


def test_a_confusion_table_of_ten_classes_and_the_radar_fit_a_phone(open_on):
    tab = open_on(PHONE)
    wide = "(all) => all.map((one) => one.scrollWidth - one.clientWidth)"
    assert max(tab.eval_on_selector_all(".scroll:has(.matrix)", wide)) <= 2
    assert tab.eval_on_selector_all("#charts .scroll.chart", wide)[0] <= 2
    assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_key_figures_begin_at_one_height(open_on):
    tab = open_on(DESKTOP)
    tops = tab.eval_on_selector_all(".key-figures b", "(all) => all.map((one) => one.getBoundingClientRect().top)")
    assert len(tops) >= 4
    assert max(tops) - min(tops) <= 1
