"""The report, opened in a browser as a reader would."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from lookalike import convert
from lookalike._core.errors import LookalikeError
from lookalike.report import write_report
from lookalike.report.pictures import picture

HOSTILE = "<img src=x onerror=alert(1)>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUICK = {"n_images": 6, "n_steps": 3, "n_draws": 1, "progress": False}


class Named(torch.utils.data.Dataset):
    """Images with names of classes and files that must not be taken for markup."""

    classes = (HOSTILE, "b'\"</script>", "c")

    def __init__(self, x, y):
        self.x, self.y = x, y
        self.paths = [f"folder/{HOSTILE}{i}.png" for i in range(len(y))]

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return self.x[index], int(self.y[index])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(24, 3),
    )  # fmt: skip
    y = torch.arange(240) % 3
    x = 0.3 * torch.randn(240, 1, 8, 8)
    for k, (row, column) in enumerate([(0, 0), (0, 4), (4, 0)]):
        x[y == k, :, row : row + 4, column : column + 4] += 2
    y[::10] = (y[::10] + 1) % 3  # wrong labels, for wrong predictions
    train, test = Named(x[:90], y[:90]), Named(x[90:], y[90:])
    sem = convert(net, train, n_prototypes=2, progress=False)
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(sem, test, path, train=train, title=f"A report on {HOSTILE}", **QUICK)
    return path


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, page):
    """The page on a desktop; fails on any message of the console or request for anything else."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    tab, said, asked = context.new_page(), [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: (said.append("alert"), dialog.dismiss()))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    yield tab
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]


def test_gallery_opens_by_click(opened):
    opened.click("button.prototype >> nth=1")
    assert opened.is_visible("dialog[open]")
    assert "Prototype 1 of class" in opened.inner_text("dialog h3")
    assert opened.locator("dialog img").count() > 3
    opened.click("dialog button")
    assert not opened.is_visible("dialog[open]")


def test_gallery_opens_by_keyboard(opened):
    opened.focus("button.prototype >> nth=0")
    opened.keyboard.press("Enter")
    assert opened.is_visible("dialog[open]")
    opened.keyboard.press("Escape")
    assert not opened.is_visible("dialog[open]")
    assert opened.evaluate("document.activeElement.dataset.number") == "0"  # back where it was


def test_browsing_by_click_and_by_keyboard(opened):
    assert opened.locator(".sample").count() == 120
    opened.click("#more")
    assert opened.locator(".sample").count() == 150
    assert not opened.is_visible("#more")
    opened.click(".sample >> nth=4")
    first = opened.inner_text("#detail h3")
    assert opened.locator("#detail .pair").count() == 3
    opened.keyboard.press("ArrowRight")
    second = opened.inner_text("#detail h3")
    assert second != first
    assert opened.get_attribute(".sample >> nth=5", "aria-pressed") == "true"
    opened.keyboard.press("ArrowLeft")
    assert opened.inner_text("#detail h3") == first
    opened.click("#detail .pair button >> nth=0")
    assert opened.is_visible("dialog[open]")


def test_filters(opened):
    opened.check("input[value=wrong]")
    n = int(opened.inner_text("output").split()[0])
    assert 0 < n < 150
    assert opened.locator(".sample").count() == n == opened.locator(".sample.wrong").count()
    opened.click(".sample >> nth=0")
    assert "Wrong." in opened.inner_text("#detail")
    opened.check("input[value=right]")
    assert int(opened.inner_text("output").split()[0]) == 150 - n
    opened.check("input[value=all]")
    opened.select_option("select", "2")
    assert int(opened.inner_text("output").split()[0]) < 150


def test_names_show_as_text(opened):
    assert HOSTILE in opened.inner_text("h1")
    assert HOSTILE in opened.inner_text("#prototypes")
    opened.click(".sample >> nth=0")
    assert HOSTILE in opened.inner_text("#detail")
    assert opened.locator("img[src=x]").count() == 0


def test_on_a_phone_nothing_sticks_out(browser, page):
    tab = browser.new_context(viewport={"width": 390, "height": 844}).new_page()
    tab.goto(page.as_uri())
    tab.click(".sample >> nth=0")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_dark_mode_turns_page_and_charts(browser, page):
    tab = browser.new_context(color_scheme="dark").new_page()
    tab.goto(page.as_uri())
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(22, 24, 27)"
    ink = tab.evaluate("getComputedStyle(document.querySelector('svg.figure text')).fill")
    assert min(map(int, re.findall(r"\d+", ink))) > 150


def test_print_hides_what_cannot_be_used_on_paper(browser, page):
    tab = browser.new_page()
    tab.goto(page.as_uri())
    tab.emulate_media(media="print")
    assert not tab.is_visible("nav")
    assert not tab.is_visible(".filters")
    assert tab.is_visible(".verdict")


class Checker(HTMLParser):
    def __init__(self):
        super().__init__()
        self.images, self.links, self.figures = [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs)
        if tag == "svg" and attrs.get("class") == "figure":
            self.figures.append(attrs)
        self.links += [attrs[name] for name in ("src", "href", "action", "xlink:href") if name in attrs]


def test_works_offline_and_for_those_who_do_not_see_it(page):
    text = page.read_text()
    found = Checker()
    found.feed(text)
    assert all(link.startswith(("data:", "#")) for link in found.links)
    assert not re.search(r"@import|url\((?!#)", text)
    assert all(image.get("alt") for image in found.images)
    assert len(found.figures) == 5
    assert all(len(figure["aria-label"]) > 20 for figure in found.figures)


def test_says_how_every_number_was_computed(page):
    text = page.read_text()
    for what in (
        "images as",
        "n_steps 3",
        "composite epsilon-plus-flat",
        "runs and seeds",
        "torch ",
        "black box (SHA-256)",
    ):
        assert what in text


def test_size_stays_small():
    noise = torch.randint(0, 256, (224, 224, 3), dtype=torch.uint8).numpy()
    per_image = len(picture(noise)) + 3 * len(picture(noise, 72))
    assert 1000 * per_image < 25e6  # pure noise; photographs take less than half of it


def test_nothing_is_left_half_written(net, blobs, tmp_path):
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(LookalikeError, match="exists already"):
        write_report(sem, blobs, path)
    with pytest.raises(LookalikeError, match="is a folder"):
        write_report(sem, blobs, tmp_path)
    with pytest.raises(LookalikeError, match="does not exist"):
        write_report(sem, blobs, tmp_path / "no" / "report.html")
    data = (torch.randn(40, 4), torch.arange(40) % 2)
    flat = convert(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), data, progress=False)
    with pytest.raises(LookalikeError, match="a report shows test images"):
        write_report(flat, data, path, overwrite=True, progress=False)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_many_test_images_show_the_telling_ones_first(net, blobs, tmp_path):
    x, y = blobs
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    wrong = y.clone()
    wrong[10] = (wrong[10] + 1) % 3
    write_report(sem, (x, wrong), tmp_path / "r.html", n_browse=20, **QUICK)
    data = re.search(r'id="data">(.*?)</script>', (tmp_path / "r.html").read_text())[1]
    shown = json.loads(data)["samples"]
    assert len(shown) == 20
    assert any(one["true"] != one["predicted"] for one in shown)


def test_the_black_box_shown_is_the_one_that_was_given(net, blobs, tmp_path):
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    torch.manual_seed(2)  # with others its outputs look like the classes in another order, and nothing is shown
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    write_report(sem, blobs, tmp_path / "r.html", black_box=other, **QUICK)
    data = json.loads(re.search(r'id="data">(.*?)</script>', (tmp_path / "r.html").read_text())[1])
    with torch.no_grad():
        assert [one["black_box"] for one in data["samples"]] == other(blobs[0]).argmax(1).tolist()


def test_a_model_without_images_and_one_in_bfloat16(blobs, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ).bfloat16()
    sem = convert(net, blobs, n_prototypes=2, n_images=0, progress=False)
    write_report(sem, blobs, tmp_path / "r.html", **QUICK)
    assert "no image" in (tmp_path / "r.html").read_text()


def test_the_rule_of_heat_maps_is_told_and_share_with_its_stability(net, blobs, tmp_path):
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    pages = {}
    for rule in (None, "share"):
        path = tmp_path / f"{rule}.html"
        card = write_report(sem, blobs, path, rule=rule, only=("faithfulness", "sparseness"), **QUICK)
        pages[rule] = path.read_text(encoding="utf-8")
        assert card.info["options"]["rule"] == (rule or "neuralized")
        assert "sparseness of maps" in pages[rule]
    assert re.search(r"noise of 1% leaves a correlation of -?[01]\.\d\d on the first 32 images", pages["share"])
    assert "Heat-maps start by the rule <em>share</em>" in pages["share"]
    assert "leaves a correlation" not in pages[None]
    assert "rule <em>neuralized</em>: red pixels speak for this prototype" in pages[None]
