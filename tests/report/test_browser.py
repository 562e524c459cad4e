"""The report in a browser, as a reader uses it: on a desktop and a phone, in light and dark, on paper."""

import re

import pytest

from tests.report.page import HOSTILE, data_of

WIDTHS = {"desktop": (1200, 900), "phone": (390, 844)}


def n_found(tab):
    return int(tab.inner_text("output").split()[0])


def chosen_tile(tab):
    return tab.locator(".sample[aria-expanded=true]")


@pytest.fixture(params=WIDTHS)
def on(request, opened):
    width, height = WIDTHS[request.param]
    opened.set_viewport_size({"width": width, "height": height})
    return opened


@pytest.fixture(scope="module")
def samples(page):
    return data_of(page)["samples"]


def test_the_sentence_over_all_comes_first(opened):
    assert "of their answers are the same" in opened.inner_text("main section:first-of-type h2 + .overall")
    levels = opened.eval_on_selector_all(".findings li", "nodes => nodes.map(node => node.className)")
    order = ["bad", "caution", "hint", "good", "info"]
    assert levels == sorted(levels, key=order.index)


def test_the_detail_opens_where_the_eye_is(on):
    for position in (4, 70):
        tile = on.locator(".sample").nth(position)
        tile.scroll_into_view_if_needed()
        tile.click()
        box, detail = tile.bounding_box(), on.locator(".detail").bounding_box()
        assert 0 <= box["y"] < on.viewport_size["height"]
        assert 0 < detail["y"] - box["y"] - box["height"] < 40  # right below the image's own row
        assert detail["y"] < on.viewport_size["height"] - 100
        tile.click()
        assert on.locator(".detail").count() == 0


def test_browsing_by_keyboard(opened):
    opened.click(".sample >> nth=0")
    name = opened.inner_text(".detail h3")
    opened.keyboard.press("ArrowRight")
    assert opened.inner_text(".detail h3") != name
    opened.keyboard.press("ArrowLeft")
    assert opened.inner_text(".detail h3") == name
    opened.keyboard.press("ArrowDown")
    tops = opened.eval_on_selector_all(".sample", "nodes => nodes.map(node => node.offsetTop)")
    columns = tops.count(tops[0])
    assert chosen_tile(opened).evaluate("tile => [...document.querySelectorAll('.sample')].indexOf(tile)") == columns
    opened.keyboard.press("Escape")
    assert opened.locator(".detail").count() == 0
    assert opened.evaluate("document.activeElement.className").startswith("sample")


def test_more_images_are_drawn_on_request(opened):
    assert opened.locator(".sample").count() == 120
    opened.click("#more")
    assert opened.locator(".sample").count() == 150
    assert not opened.is_visible("#more")


def test_filters_show_what_they_say(opened, samples):
    def shown():
        return opened.eval_on_selector_all(".sample", "nodes => nodes.map(node => node.title)")

    disagreeing = [one for one in samples if one["original"] != one["predicted"]]
    for kind, expected in {
        "wrong": [one for one in samples if one["label"] != one["predicted"]],
        "disagreeing": disagreeing,
        "unfamiliar": [one for one in samples if one["unfamiliar"]],
    }.items():
        opened.select_option("[name=kind]", kind)
        assert n_found(opened) == len(expected) > 0
        assert shown() == [one["name"] for one in expected][:120]
    opened.click("#show-all")
    opened.select_option("[name=label]", "2")
    opened.select_option("[name=predicted]", "0")
    assert n_found(opened) == sum(one["label"] == 2 and one["predicted"] == 0 for one in samples)
    opened.click("#show-all")
    opened.fill("[name=name]", "14.PNG")
    assert shown() == [one["name"] for one in samples if "14.png" in one["name"]]
    opened.click("#show-all")
    assert n_found(opened) == 150


def test_choices_of_filters_are_not_cut_off(on):
    """The text "another answer than the original" ended in the middle of a word."""
    for name in ("kind", "sort"):
        select = on.locator(f"[name={name}]")
        room = select.evaluate(
            """node => { const style = getComputedStyle(node), pen = document.createElement("canvas").getContext("2d");
            pen.font = style.font;
            const texts = [...node.options].map(option => pen.measureText(option.textContent).width);
            return node.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight)
                - Math.max(...texts); }"""
        )
        assert room >= 0
    labels = on.locator(".filters label").all()
    assert all(
        label.bounding_box()["x"] + label.bounding_box()["width"] <= on.viewport_size["width"] for label in labels
    )


def test_nothing_floats_over_the_text(on):
    """A button "Sections" covered lines on a phone."""
    floating = "nodes => nodes.filter(node => getComputedStyle(node).position === 'fixed' && node.offsetParent).length"
    fixed = "nodes => nodes.filter(node => getComputedStyle(node).position === 'fixed').map(node => node.className)"
    assert on.eval_on_selector_all("body *:not(dialog):not(dialog *)", fixed) == []
    assert on.eval_on_selector_all("main *", floating) == 0
    links = on.locator(".to-contents a")
    assert links.count() == on.locator("main > section").count() - 1
    if on.viewport_size["width"] < 500:
        links.nth(3).click()
        assert on.evaluate("location.hash") == "#contents"


@pytest.mark.parametrize("way", ["pointer", "keys"])
def test_closing_a_dialog_leaves_a_frame_only_for_who_uses_keys(on, way):
    opener = on.locator("button.prototype").nth(1)
    opener.scroll_into_view_if_needed()
    if way == "pointer":
        opener.click()
        on.click("#dialog .close")
    else:
        opener.focus()
        on.keyboard.press("Enter")
        on.keyboard.press("Escape")
    assert opener.evaluate("node => node === document.activeElement")
    assert opener.evaluate("node => getComputedStyle(node).outlineStyle") == ("none" if way == "pointer" else "solid")


def test_names_of_files_are_not_broken_inside_the_extension(on, samples):
    on.click(".sample >> nth=0")
    tails = on.locator(".detail .nowrap")
    assert tails.all_inner_texts().count(".png") >= 1
    heights = on.eval_on_selector_all(".nowrap", "nodes => nodes.map(node => node.getClientRects().length)")
    assert set(heights) <= {0, 1}
    assert on.inner_text(".detail h3") == samples[0]["name"]


def test_no_similarity_is_a_bare_negative_number(opened, samples):
    for index in range(6):
        opened.locator(".sample").nth(index).click()
        for text in opened.locator(".detail .look > .caption").all_inner_texts():
            assert not re.search(r"[-−]\d", text.replace("-\n", ""))
        assert any("distance " in text for text in opened.locator(".detail .look > .caption").all_inner_texts())
        opened.locator(".detail button:has-text('Close')").click()


def test_the_order_by_probability_and_name(opened, samples):
    for order, expected in {
        "unsure": sorted(samples, key=lambda one: one["probability"]),
        "sure": sorted(samples, key=lambda one: -one["probability"]),
    }.items():
        opened.select_option("[name=sort]", order)
        opened.click(".sample >> nth=0")
        assert f"{100 * expected[0]['probability']:.1f}%" in opened.inner_text(".answer")
    opened.select_option("[name=sort]", "name")
    numbers = opened.eval_on_selector_all(".sample", "nodes => nodes.map(n => Number(/(\\d+)\\.png/.exec(n.title)[1]))")
    assert numbers == list(range(120))  # 2 before 10


def test_a_cell_of_the_matrix_shows_its_images(on, samples):
    cells = on.locator(".matrix td.other button")
    cell = cells.nth(0)
    n, row, column = int(cell.inner_text()), cell.get_attribute("data-row"), cell.get_attribute("data-column")
    cell.click()
    assert on.locator("#viewer .sample").count() == n
    assert n == sum(one["label"] == int(row) and one["predicted"] == int(column) for one in samples)
    on.click("#viewer .sample >> nth=0")
    assert "Wrong." in on.inner_text("#viewer .answer")
    on.click("#viewer button:has-text('all of them')")
    on.click("#viewer button:has-text('Filter the list')")
    assert n_found(on) == n
    assert on.locator("#browse").bounding_box()["y"] < on.viewport_size["height"] / 2


@pytest.mark.parametrize("way", ["button", "Escape"])
@pytest.mark.parametrize(
    "opener",
    ["#mistakes a >> nth=6", ".matrix button.cell >> nth=1", "button[data-show=wrong]", "button.prototype >> nth=3"],
)
def test_close_returns_to_where_the_reader_was(on, opener, way):
    target = on.locator(opener)
    target.scroll_into_view_if_needed()
    target.focus()
    before = on.evaluate("[window.scrollY, document.activeElement.outerHTML]")
    on.keyboard.press("Enter")
    assert on.evaluate("window.scrollY") == before[0]  # it opens over the place, not somewhere else
    box = on.locator("dialog[open]").bounding_box()
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= on.viewport_size["height"]
    if way == "Escape":
        on.keyboard.press("Escape")
    else:
        on.click("dialog[open] .close")
    assert on.locator("dialog[open]").count() == 0
    assert on.evaluate("[window.scrollY, document.activeElement.outerHTML]") == before


def test_closing_an_image_of_the_list_returns_to_its_tile(on):
    tile = on.locator(".sample").nth(40)
    tile.scroll_into_view_if_needed()
    top = on.evaluate("window.scrollY")
    tile.click()
    on.click(".detail button:has-text('Close')")
    assert on.evaluate("window.scrollY") == top
    assert tile.evaluate("node => node === document.activeElement")


def test_a_click_anywhere_on_a_row_of_errors_opens_its_image(on, samples):
    wrong = [one for one in samples if one["label"] != one["predicted"]]
    rows = on.locator("#mistakes tr[data-image]")
    assert rows.count() == len(wrong)
    for index in (0, 3):
        pictures = rows.nth(index).locator("img")
        assert pictures.count() == 2
        assert pictures.nth(0).get_attribute("src") == wrong[index]["image"]
        number = wrong[index]["near"][0]["prototype"]
        tile = on.locator(f'button.prototype[data-number="{number}"] img')
        assert pictures.nth(1).get_attribute("src") == tile.get_attribute("src")
    rows.nth(3).locator("td").nth(3).click()
    assert on.inner_text("#viewer .detail h3") == wrong[3]["name"]
    on.keyboard.press("ArrowRight")
    assert on.inner_text("#viewer .detail h3") == wrong[4]["name"]


def test_frames_of_a_wrong_and_unfamiliar_image_are_both_seen_and_explained(opened, samples):
    """The frame of a disagreeing image replaced that of an unfamiliar one."""
    index, _ = next((k, one) for k, one in enumerate(samples) if one["unfamiliar"])
    opened.click("#more")
    tile = opened.locator(".sample").nth(index)
    tile.evaluate("node => node.classList.add('wrong', 'disagreeing')")
    style = (
        "(node) => { const s = getComputedStyle(node); return [s.borderTopStyle, s.outlineStyle, s.borderTopColor]; }"
    )
    frame, inner = tile.evaluate(style), tile.locator("img").evaluate(style)
    assert frame[0] == "dashed"
    assert inner[0] == "dotted"
    assert frame[2] == opened.locator(".frames .swatch.wrong").evaluate(style)[2]
    for name in ("disagreeing", "unfamiliar"):
        swatch = opened.locator(f".frames .swatch.{name}").evaluate(style)
        assert {"dashed", "dotted"} & {swatch[0], swatch[1]} == {"dashed" if name == "disagreeing" else "dotted"}
    for kind in ("for", "against", "half", "contrast", "selected"):
        assert opened.locator(f".swatch.{kind}").count() == 1  # each is explained once


def test_a_map_without_a_part_is_not_called_this_part_here(opened, samples):
    shown = {near["shows"] for one in samples for near in one["near"]}
    assert shown <= {"part", "against", "blank", None}
    checked = set()
    for index, one in enumerate(samples[:20]):
        kinds = [near["shows"] for near in one["near"]]
        opened.locator(".sample").nth(index).click()
        looks = opened.locator(".detail .look")
        for position, kind in enumerate(kinds):
            text = looks.nth(position).inner_text()
            assert ("this part here" in text) == (kind == "part")
            checked.add(kind)
        opened.locator(".detail button:has-text('Close')").click()
    assert "part" in checked


def test_a_figure_on_unfamiliar_images_opens_all_of_them_and_says_so(opened, samples):
    n = sum(bool(one["unfamiliar"]) for one in samples)
    opened.click(".key-figures [data-show=unfamiliar]")
    assert opened.inner_text("#viewer-title") == f"All {n} unfamiliar test images, correct and wrong"
    assert opened.locator("#viewer .sample").count() == n
    opened.keyboard.press("Escape")


def test_a_button_for_the_errors_of_classes_shows_no_others(opened, samples):
    rows = [one["row"] for one in samples if one["label"] == 1 and one["predicted"] != 1]
    opened.evaluate("""() => {
      const button = document.querySelector("[data-show=wrong]");
      button.dataset.labels = "1";
    }""")
    opened.click("[data-show=wrong]")
    assert 0 < opened.locator("#viewer .sample").count() == len(rows)
    opened.keyboard.press("Escape")


def test_the_definition_of_unfamiliar_is_the_same_everywhere(opened, samples):
    """The glossary's: it was "every prototype" in the key and "the nearest" beside an image."""
    definition = "farther from its nearest prototype than every training image behind that prototype"
    assert definition in opened.inner_text("#reading")
    assert definition in opened.inner_text(".frames")
    opened.select_option("[name=kind]", "unfamiliar")
    opened.click(".sample >> nth=0")
    assert definition in opened.inner_text(".answer")


def test_the_key_of_frames_is_one_column_on_a_phone(opened):
    opened.set_viewport_size({"width": 390, "height": 844})
    first, second = (opened.locator(f".frames {name}").first.bounding_box() for name in ("dt", "dd"))
    assert second["y"] >= first["y"] + first["height"]
    assert second["width"] > 300


@pytest.mark.parametrize("width", [390, 700, 1100])
def test_the_menu_is_whole(opened, width):
    opened.set_viewport_size({"width": width, "height": 844})
    for link in opened.locator(".contents a").all():
        box = link.bounding_box()
        assert box["x"] >= 10
        assert box["x"] + box["width"] <= width - 10


def test_what_goes_on_beyond_the_edge_of_a_phone_says_so(opened):
    opened.set_viewport_size({"width": 390, "height": 844})
    are_told = """() => {
        const regions = [...document.querySelectorAll(".scroll")].map((node) => [
            node.scrollWidth > node.clientWidth + 2,
            node.previousElementSibling?.matches(".sideways:not([hidden])") ?? false]);
        return regions.some(([isCut]) => isCut) && regions.every(([isCut, isTold]) => isCut === isTold); }"""
    opened.wait_for_function(are_told)


def test_text_of_charts_is_legible_on_a_phone(opened):
    opened.set_viewport_size({"width": 390, "height": 844})
    sizes = opened.eval_on_selector_all(
        "#charts svg.figure text",
        """nodes => nodes.map((node) => { const turned = node.getScreenCTM();
        return parseFloat(getComputedStyle(node).fontSize) * Math.hypot(turned.a, turned.b); })""",
    )
    assert len(sizes) > 20
    assert min(sizes) >= 7.9


def test_a_wrong_image_is_shown_beside_its_true_class(opened, samples):
    wrong = next(one for one in samples if one["label"] != one["predicted"])
    opened.click(f'#mistakes a[href="#image-{wrong["row"]}"]')
    assert opened.inner_text(".detail h3") == wrong["name"]
    assert "Wrong." in opened.inner_text(".answer")
    assert "which it is" in opened.inner_text("#viewer .look.contrast")
    assert opened.locator(".look .pair img").count() == 2 * len(wrong["near"])  # both maps of each prototype
    assert opened.locator('.originals img[alt*="original"]').count() == 1


def test_links_open_images_and_prototypes(on, page, samples):
    on.goto(f"{page.as_uri()}#image-140")  # not among those drawn at first
    assert on.inner_text(".detail h3") == samples[140]["name"]
    assert chosen_tile(on).bounding_box()["y"] < on.viewport_size["height"]
    on.goto(f"{page.as_uri()}#prototype-3")
    assert on.inner_text("dialog[open] h2").startswith("Prototype 3 of class")


def test_what_is_not_shown_of_heat_maps_is_said_beside_them_with_the_way_to_the_finding(opened, page, samples):
    said = data_of(page)["reservations"]
    assert "from so few images" in said["text"]
    row = next(one["row"] for one in samples if one["label"] != one["predicted"] and one["near"][0]["map"])
    opened.click(f'#mistakes a[href="#image-{row}"]')
    assert opened.inner_text("#viewer .reservation").startswith(said["text"])
    opened.click("#viewer .reservation a")
    assert opened.locator("dialog[open]").count() == 0
    assert opened.evaluate("location.hash") == f"#{said['anchor']}"
    box = opened.locator(f"#{said['anchor']}").bounding_box()
    assert 0 <= box["y"] < opened.viewport_size["height"]


def test_an_image_says_how_its_maps_differ_from_the_parts_where_there_are_any(opened):
    said = "divides the lead over another class among the places of the image"
    opened.click(".sample >> nth=0")
    assert said not in opened.inner_text(".detail")  # this page has no section on parts
    opened.evaluate(
        """document.querySelector("main").insertAdjacentHTML("beforeend", '<section id="parts"></section>')"""
    )
    opened.click(".sample >> nth=1")
    assert said in opened.inner_text(".detail")


def test_prototypes_beside_an_image_are_counted_without_a_gap(opened, samples):
    for index, one in enumerate(samples[:20]):
        opened.locator(".sample").nth(index).click()
        heads = opened.eval_on_selector_all(
            ".detail .look", "nodes => nodes.map(node => node.querySelector('.caption').textContent)"
        )
        assert [near["rank"] for near in one["near"]][:3] == [1, 2, 3]
        assert heads[0].startswith("1. looks most like")
        assert heads[1].startswith("2. looks like")
        assert heads[2].startswith("3. looks like")
        opened.locator(".detail button:has-text('Close')").click()


def test_back_goes_to_the_place_before_and_opens_nothing_that_was_closed(on, page):
    on.goto(f"{page.as_uri()}#classes")
    on.evaluate("""() => document.querySelector("#classes").insertAdjacentHTML("beforeend",
      '<a id="trial" href="#prototype-3">no. 3</a>')""")
    on.click("#trial")
    assert on.inner_text("dialog[open] h2").startswith("Prototype 3 of class")
    on.click("#dialog a:has-text('link to this prototype')")
    on.wait_for_url(lambda url: url.endswith("#prototype-3"))  # the page's policy forbids functions of a text
    on.keyboard.press("Escape")
    on.wait_for_url(lambda url: "#" not in url.rstrip("#"))
    on.evaluate("location.hash = '#browse'")
    on.go_back()
    assert on.locator("dialog[open]").count() == 0
    on.go_back()
    assert on.evaluate("location.hash") == "#classes"
    assert on.locator("dialog[open]").count() == 0


def test_an_image_that_was_closed_leaves_the_address(opened, page):
    opened.goto(f"{page.as_uri()}#image-140")
    opened.click(".detail button:has-text('Close')")
    assert opened.evaluate("location.hash") == ""


def test_the_sign_of_the_line_on_heat_maps_is_seen_in_the_dark(opened):
    opened.emulate_media(color_scheme="dark")
    look = "node => [getComputedStyle(node).borderTopColor, getComputedStyle(node).boxShadow]"
    line, ring = opened.locator(".frames .swatch.half").evaluate(look)
    assert line == "rgb(26, 26, 26)"
    assert "rgb(255, 255, 255)" in ring  # the page is as dark as the line


def test_dialogs_open_at_their_head_and_close_by_escape(on):
    button = on.locator("button.prototype").nth(1)
    button.focus()
    on.keyboard.press("Enter")
    assert on.locator("#dialog").evaluate("node => node.scrollTop") == 0
    assert on.evaluate("document.activeElement.id") == "dialog-title"
    assert on.locator("#dialog img").count() > 3
    on.click("#dialog .zoom >> nth=0")
    assert on.is_visible("#lightbox img")
    on.keyboard.press("ArrowRight")
    assert on.inner_text("#lightbox h2").startswith("Picture 2 of")
    on.keyboard.press("Escape")
    assert not on.is_visible("#lightbox")
    assert on.is_visible("#dialog")
    on.keyboard.press("Escape")
    assert not on.is_visible("#dialog")
    assert on.evaluate("document.activeElement.dataset.number") == "1"  # back where it was


def test_what_a_prototype_decides(opened, samples):
    opened.click("button.prototype >> nth=2")
    opened.click("button:has-text('Show what it decides')")
    n_decided = sum(one["near"][0]["prototype"] == 2 for one in samples)
    assert opened.locator("#viewer .sample").count() == n_decided
    assert f"decides {n_decided}" in opened.inner_text("button.prototype >> nth=2")
    opened.click("#viewer button:has-text('Filter the list')")
    assert n_found(opened) == n_decided


def test_two_prototypes_side_by_side(on):
    on.click("button.prototype >> nth=0")
    on.select_option("#dialog select", "3")
    heads = on.locator("#dialog .columns h3").all_inner_texts()
    assert heads[0].startswith(f"Prototype 0 “name {HOSTILE}” of class")
    assert heads[1].startswith("Prototype 3 of class")
    first, second = (on.locator("#dialog .columns > *").nth(k).bounding_box() for k in (0, 1))
    if on.viewport_size["width"] > 1000:
        assert first["y"] == second["y"]
    else:
        assert first["x"] == second["x"]


def test_names_show_as_text(opened):
    assert HOSTILE in opened.inner_text("h1")
    assert HOSTILE in opened.inner_text("#prototypes")
    opened.click(".sample >> nth=0")
    assert HOSTILE in opened.inner_text(".detail")
    opened.click("button.prototype >> nth=0")
    assert HOSTILE in opened.inner_text("#dialog h2")
    assert opened.locator("img[src=x]").count() == 0


def test_nothing_sticks_out(on):
    on.click(".sample >> nth=0")
    assert on.evaluate("document.documentElement.scrollWidth") <= on.viewport_size["width"]
    for row in on.locator("tbody tr").all()[:3]:  # with two pictures; none is torn apart into a column of words
        assert row.bounding_box()["height"] < 200


def test_dark_mode_turns_page_and_charts(opened):
    def brightness(colour):
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    opened.emulate_media(color_scheme="dark")
    assert brightness(opened.evaluate("getComputedStyle(document.body).backgroundColor")) < 40
    texts = opened.eval_on_selector_all("svg.figure text", "nodes => nodes.map(node => getComputedStyle(node).fill)")
    assert texts
    assert min(map(brightness, texts)) > 150


def test_on_paper_tables_are_whole(opened):
    opened.emulate_media(media="print", color_scheme="dark")
    assert not opened.is_visible("nav")
    assert not opened.is_visible(".filters")
    assert opened.is_visible(".overall")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    opened.set_viewport_size({"width": 690, "height": 1000})  # the printable width of A4
    overflow = "nodes => nodes.filter(n => getComputedStyle(n).overflowX !== 'visible' || n.scrollWidth > 690).length"
    assert opened.eval_on_selector_all(".scroll", overflow) == 0


def test_on_paper_nothing_is_folded_away(opened):
    folded = "document.querySelectorAll('details:not([open])').length"
    before = opened.evaluate(folded)
    assert before > 0
    opened.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert opened.evaluate(folded) == 0
    opened.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert opened.evaluate(folded) == before
