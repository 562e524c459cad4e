"""The report as a file: what is in it, and when none is written."""

import base64
import copy
import hashlib
import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from lookalike import convert, evaluate, explain
from lookalike._core.errors import LookalikeError
from lookalike.data import Batches
from lookalike.embedding import embed
from lookalike.metrics import Scorecard
from lookalike.report import write_report
from lookalike.report.pictures import picture
from lookalike.report.prototypes import _shown_images
from lookalike.report.words import breakable
from tests.report.page import Named, data_of
from tests.small import bright_images

QUICK = {"n_images": 6, "n_steps": 3, "n_draws": 1, "progress": False}


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


def test_names_and_descriptions_of_prototypes_are_shown_as_text(page):
    text = page.read_text()
    assert "“name &lt;img src=x onerror=alert(1)&gt;”" in text
    assert "said &lt;b&gt;of it&lt;/b&gt;" in text
    assert "from 0.0% to 50.0% of the width" in text
    assert data_of(page)["prototypes"][0]["title"].startswith("name <img")


def test_says_how_every_number_was_computed(page):
    text = page.read_text()
    for what in (
        "images as",
        "n_steps 3",
        "found by k-means",
        "epsilon-plus-flat",
        "1 time, with ",
        "torch ",
        "the original (",
    ):
        assert what in text


def test_how_it_was_made_is_said_in_words_and_fingerprints_are_folded_away(page):
    text = page.read_text(encoding="utf-8")
    made = re.search(r"<h3>How it was made</h3>(.*?)<details>(.*?)</details>", text, re.DOTALL)
    words, folded = (re.sub(r"<[^>]+>", "", part) for part in made.groups())
    assert not re.search(r"[0-9a-f]{16}|\b[a-z]+_[a-z]+\b|0\.\d{5}", words)
    for said in (
        "150 images",
        "90 images, from which the prototypes were made",
        "6 prototypes, 2 for each class; centres of groups of training images, found by k-means (KMEx)",
        "the nearer their embeddings, the more alike two images are (l2)",
        "the class of the prototype that the image is most like; probabilities with a temperature of ",
        "answers on all 150 test images; explanations on 6 of them, whose pixels turn to noise in 3 steps, compared "
        "with 1 random order",
    ):
        assert said in words
    assert len(re.findall(r"[0-9a-f]{32}", folded)) >= 4
    assert "n_steps 3" in folded


def test_every_similarity_and_clusterer_has_words():
    from lookalike.conversion.clustering import CLUSTERERS
    from lookalike.model.similarity import SIMILARITIES
    from lookalike.report.made import CLUSTERERS_IN_WORDS, SIMILARITIES_IN_WORDS

    for registry, words in ((SIMILARITIES, SIMILARITIES_IN_WORDS), (CLUSTERERS, CLUSTERERS_IN_WORDS)):
        own = {name for name in registry if registry[name].__module__.startswith("lookalike.")}
        assert own == set(words)


def test_a_photograph_stays_small():
    x = torch.linspace(0, 6, 224)
    smooth = (127 + 120 * torch.sin(x[:, None] + 2 * x)[..., None].expand(-1, -1, 3)).byte().numpy()
    assert 2000 * len(picture(smooth)) < 40e6


def test_only_its_own_script_may_run(page):
    """The policy names the hashes of the one script and the one style, so that nothing slipped in would run."""
    text = page.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)[1].replace("&#39;", "'")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "unsafe-inline" not in rules["script-src"]
    for tag, rule in (("script", "script-src"), ("style", "style-src-elem")):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
        assert len(inline) == 1
        digest = base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_nothing_is_left_half_written(net, blobs, tmp_path):
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    path = tmp_path / "report.html"
    path.write_text("<!doctype html>mine")
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
    assert path.read_text() == "<!doctype html>mine"
    assert list(tmp_path.iterdir()) == [path]


def test_many_test_images_show_the_telling_ones_first(net, blobs, tmp_path):
    x, y = blobs
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    wrong = y.clone()
    wrong[10] = (wrong[10] + 1) % 3
    write_report(sem, (x, wrong), tmp_path / "r.html", n_browse=20, **QUICK)
    shown = data_of(tmp_path / "r.html")["samples"]
    assert len(shown) == 20
    assert any(one["label"] != one["predicted"] for one in shown)


def test_the_black_box_shown_is_the_one_that_was_given(net, blobs, tmp_path):
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    torch.manual_seed(2)  # with others its outputs look like the classes in another order, and nothing is shown
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    write_report(sem, blobs, tmp_path / "r.html", black_box=other, **QUICK)
    with torch.no_grad():
        assert [one["original"] for one in data_of(tmp_path / "r.html")["samples"]] == other(blobs[0]).argmax(
            1
        ).tolist()


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
        card = write_report(sem, blobs, path, rule=rule, n_browse=4, only=("faithfulness", "sparseness"), **QUICK)
        pages[rule] = path.read_text(encoding="utf-8")
        assert card.info["options"]["rule"] == (rule or "neuralized")
        assert ">sparseness</a> of maps" in pages[rule]
    assert re.search(r"noise of 1% leaves a correlation of -?[01]\.\d\d", pages["share"])
    assert 'Heat-maps start by the rule <a class="term" href="#key-rule">share</a>' in pages["share"]
    assert "leaves a correlation" not in pages[None]
    assert "more like this prototype than like the strongest prototype of another class" in pages[None]


def test_the_entries_are_those_of_explain(net, blobs, tmp_path):
    x, y = blobs
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    write_report(sem, (x[:9], (y[:9] + 1) % 3), tmp_path / "r.html", n_maps=2, only=("faithfulness",), **QUICK)
    samples = data_of(tmp_path / "r.html")["samples"]
    for entry, one in zip(samples, explain(sem, x[:9], labels=(y[:9] + 1) % 3), strict=True):
        assert entry["sentence"].split(". The original")[0] == one.sentence().split(". The original")[0]
        assert [near["prototype"] for near in entry["near"]] == [near.prototype for near in one.shown]
        assert entry["unfamiliar"] == one.unfamiliar
    mapped = [entry for entry in samples if entry["near"][0]["map"]]
    assert len(mapped) == 2
    assert all(near["map"] for entry in mapped for near in entry["near"])
    assert "heat-maps were made for 2 of the 9" in (tmp_path / "r.html").read_text(encoding="utf-8").lower()


def test_a_scorecard_of_another_model_is_refused(net, blobs, tmp_path):
    sem, other = (convert(net, blobs, n_prototypes=n, progress=False) for n in (1, 2))
    card = evaluate(sem, blobs, only=("faithfulness",), progress=False)
    with pytest.raises(LookalikeError, match="the scorecard is of another model"):
        write_report(other, blobs, tmp_path / "r.html", card=card, **QUICK)
    write_report(sem, blobs, tmp_path / "r.html", card=card, n_browse=3, **QUICK)
    with pytest.raises(LookalikeError, match="the scorecard is of other test data"):
        write_report(sem, (blobs[0][:30], blobs[1][:30]), tmp_path / "s.html", card=card, **QUICK)
    with pytest.raises(LookalikeError, match="nothing is measured: leave out only and sanity"):
        write_report(sem, blobs, tmp_path / "s.html", card=card, only=("diversity",), sanity=True)


def test_intended_use_command_and_date_are_told(net, blobs, tmp_path, monkeypatch):
    sem = convert(net, blobs, n_prototypes=1, progress=False)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    options = {"n_browse": 3, "only": ("faithfulness",), **QUICK}
    pages = []
    for path in (tmp_path / "a.html", tmp_path / "b.html"):
        write_report(sem, blobs, path, intended_use="To sort <b>blobs</b>.", command="lookalike report m d", **options)
        pages.append(path.read_bytes())
    text = pages[0].decode()
    assert pages[0] == pages[1]  # the same to the byte
    assert "To sort &lt;b&gt;blobs&lt;/b&gt;." in text
    assert "<dd>lookalike report m d</dd>" in text
    assert "<dd>1970-01-01</dd>" in text
    write_report(sem, blobs, tmp_path / "c.html", **options)
    assert "Not stated by whoever made this report" in (tmp_path / "c.html").read_text(encoding="utf-8")


def test_the_table_of_classes_names_all_that_tie():
    from lookalike.metrics import faithfulness_of_predictions
    from lookalike.report.classes import _class_rows

    found = faithfulness_of_predictions(torch.tensor([1, 2, 1]), torch.tensor([0, 0, 1]), n_classes=3)
    details = {
        "faithfulness": [found.to_dict()],
        "embedding": [{"classes": [{"label": 0, "overlap": 0.1, "rival": 2}]}],
    }
    rows = _class_rows(Scorecard({}, details, ["ant", "bee", "cat"]))
    assert [row["mistaken_for"] for row in rows] == ["bee and cat", None, None]
    assert [row["rival"] for row in rows] == ["cat", None, None]


def test_an_axis_of_the_radar_that_a_finding_warns_of_is_marked():
    from lookalike.report.charts import _warned_axes

    paired = {"value": 0.0, "low": -0.11, "high": 0.11}
    runs = {"accuracy": [0.9], "accuracy_difference": [0.0], "diversity": [0.5]}
    card = Scorecard(runs, {"faithfulness": [{"difference": paired, "per_class": []}]}, ["a", "b"])
    assert card.axes()["accuracy"] == 1.0  # at the rim, though no loss is excluded
    warned = _warned_axes(card)
    assert list(warned) == ["accuracy"]
    assert "−11.0 to +11.0 points" in warned["accuracy"]


def test_what_stands_out_on_a_map_is_what_a_reader_sees():
    import numpy as np

    from lookalike.plots.heatmap import what_stands_out

    relevance = np.zeros((20, 20))
    assert what_stands_out(relevance, 1.0) == "blank"
    relevance[:5] = -0.5
    assert what_stands_out(relevance, 1.0) == "against"
    relevance[10] = 0.5
    assert what_stands_out(relevance, 1.0) == "part"
    assert what_stands_out(relevance, 100.0) == "blank"  # pale beside the other maps of its image


def test_no_line_is_drawn_around_pixels_that_are_not_seen():
    """A black line pointed to nothing on maps that are all blue."""
    import numpy as np

    from lookalike.plots.heatmap import paint

    photograph = np.full((80, 80, 3), (250, 250, 200), np.uint8)
    relevance = np.zeros((80, 80))
    relevance[20:40, 20:40] = 0.01
    assert (paint(relevance, 0.01, photograph).max(-1) < 40).any()
    relevance[50:] = -1
    assert not (paint(relevance, 1.0, photograph).max(-1) < 40).any()


def test_the_banner_is_in_the_words_of_the_weightiest_finding(page):
    text = page.read_text(encoding="utf-8")
    banner = re.search(r'<p class="overall (\w+)"><b>(.*?)\.</b>', text)
    first = re.search(r'<ul class="findings">\s*<li(?: id="[\w-]+")? class="(\w+)"><b>(.*?)</b>', text)
    assert banner.groups() == first.groups()


def test_what_few_images_show_of_heat_maps_is_neither_called_good_nor_green(net, blobs, tmp_path):
    """30 images, the number of a report, stood in green below "Good"."""
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    test = (blobs[0] + 0.01, sem.predict(blobs[0]))
    measured = evaluate(sem, test, only=("faithfulness",), progress=False)
    areas = {"model": [0.5, 0.6] * 15, "random": [0.3] * 30}
    runs = {"accuracy": [1.0], "auroc": [0.55], "auroc_random": [0.3]}
    details = {
        **measured.details,
        "robustness": [{"areas": areas, "curves": {"model": [1.0], "random": [1.0]}, "fractions": [0.0]}],
    }
    card = Scorecard(runs, details, measured.class_names, info=measured.info)
    write_report(sem, test, tmp_path / "r.html", card=card, n_maps=0, **QUICK)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert re.search(
        r'<li id="finding-pixels" class="hint"><b>Good so far</b><span>On 30 images, its heat-maps point to', text
    )
    level, word, banner = re.search(r'<p class="overall (\w+)"><b>(.*?)\.</b>(.*?)</p>', text).groups()
    assert "good" not in (level, word.lower())
    assert "pixels that it needs on 30 images. So few images give a hint, no proof." in banner
    rule = re.search(r"\.overall\.hint \{(.*?)\}", text)[1]
    assert "good" not in rule


def test_figures_of_training_images_are_called_so_and_not_taken_for_accuracy(page):
    text = page.read_text(encoding="utf-8")
    for section, said in (
        ("prototypes", "Purity is of training images"),
        ("classes", "It is of training images alone"),
    ):
        shown = re.search(rf'<section id="{section}".*?</section>', text, re.DOTALL)[0]
        assert said in shown
        assert "says nothing of how many test images are classified correctly" in shown


def test_wrong_answers_on_unfamiliar_images_stand_beside_the_others(page, net, blobs, tmp_path):
    entries = data_of(page)["samples"]
    wrong = [entry["predicted"] != entry["label"] for entry in entries]
    strange = [bool(entry["unfamiliar"]) for entry in entries]
    n_both = sum(map(all, zip(wrong, strange, strict=True)))
    figures = re.search(r'<ul class="key-figures">.*?</ul>', page.read_text(encoding="utf-8"), re.DOTALL)[0]
    assert 'data-show="unfamiliar"' in figures
    said = f"<b>{n_both} of {sum(strange)}</b> answers on unfamiliar images are wrong; of the others, "
    assert f"{said}{sum(wrong) - n_both} of {len(entries) - sum(strange)}" in figures
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    write_report(sem, (blobs[0][:9], blobs[1][:9]), tmp_path / "r.html", only=("faithfulness",), n_maps=0, **QUICK)
    assert "<b>0 of 9</b> test images are unfamiliar" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("ant/a_b-c.jpg", 'ant/<wbr>a_<wbr>b-<wbr>c<wbr><span class="nowrap">.jpg</span>'),
        ("photos.v2/daffodil.jpeg, 8.42", 'photos.<wbr>v2/<wbr>daffodil<wbr><span class="nowrap">.jpeg,</span> 8.42'),
        ("<b>/x", "&lt;b&gt;/<wbr>x"),
        ("image 3 (cat).", "image 3 (cat)."),
    ],
)
def test_names_of_files_wrap_after_separators_and_never_inside_the_extension(text, markup):
    assert str(breakable(text)) == markup


class Read(torch.utils.data.TensorDataset):
    """Images that count how often each is read."""

    def __init__(self, *tensors):
        super().__init__(*tensors)
        self.n_read = 0

    def __getitem__(self, index):
        self.n_read += 1
        return super().__getitem__(index)


@pytest.mark.parametrize(("only", "passes"), [(("faithfulness",), 0), (("transparency",), 1), (("embedding",), 1)])
def test_training_images_are_embedded_once_if_a_figure_needs_them(only, passes, net, blobs, tmp_path):
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    train = Read(*blobs)
    write_report(sem, blobs, tmp_path / "page.html", train=train, only=only, n_maps=0, **QUICK)
    assert passes * len(train) <= train.n_read < (passes + 1) * len(train)  # a few are read for pictures


def test_a_page_without_any_axis_has_no_radar(net, blobs, tmp_path):
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    for only, has_radar in (("calibration", False), ("diversity", True)):
        write_report(sem, blobs, tmp_path / f"{only}.html", only=(only,), n_maps=0, **QUICK)
        page = (tmp_path / f"{only}.html").read_text(encoding="utf-8")
        assert ("to compare models with" in page) is has_radar


def test_a_scorecard_with_another_original_is_refused(net, blobs, tmp_path):
    sem = convert(net, blobs, n_prototypes=1, progress=False)
    torch.manual_seed(7)
    other = copy.deepcopy(net)
    torch.nn.init.normal_(other[-1].weight)
    card = evaluate(sem, blobs, black_box=other, only=("faithfulness",), progress=False)
    with pytest.raises(LookalikeError, match="a comparison with another original"):
        write_report(sem, blobs, tmp_path / "r.html", card=card, **QUICK)
    write_report(sem, blobs, tmp_path / "r.html", card=card, black_box=other, **QUICK)


def test_a_tile_shows_the_image_whose_name_stands_below(tmp_path):
    x, y = bright_images(90)
    data = Named(x, y)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    sem = convert(net, data, n_prototypes=4, similarity="dot", progress=False)
    train = Batches(data)
    shown = _shown_images(sem, train, embed(sem, train, progress=False))
    for j, entry in enumerate(shown):
        number = int(sem.prototypes.nearest[j, 0])
        pixels = sem.to_pixels(x[number : number + 1])[0].numpy()
        assert entry["images"][0]["source"] == picture(pixels)
