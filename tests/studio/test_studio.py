"""The studio: its server against strangers, and its page in a browser."""

import contextlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lookalike import LookalikeError, convert, load
from lookalike.cli import app
from lookalike.data import Preprocessing
from lookalike.editing import EDITS, Drop, open_session
from lookalike.encoder.specs import build_untrained
from lookalike.studio import Desk, StudioServer
from tests.processes import start_command
from tests.small import bright_images, small_network

NET = small_network()
HOSTILE = "<img src=x onerror=alert(1)>"
NAMES = ["ant", HOSTILE, "=cmd()"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio") / "m"
    prepared = Preprocessing((8, 8), (8, 8), mean=(0.0,), std=(1.0,))
    convert(NET, bright_images(90), n_prototypes=3, class_names=NAMES, preprocessing=prepared).save(folder)
    return folder


@pytest.fixture
def server(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "m")
    session = open_session(tmp_path / "m", bright_images(90), network=NET, who="me")
    with StudioServer(Desk(session, tmp_path / "m")) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


def ask(server, path, body=None, *, token=None, target=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    headers = {"Origin": server.origin, **headers}
    connection.request("GET" if body is None else "POST", target or f"/{token or server.token}/{path}", body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content, response.headers


def change(server, path, **values):
    status, content, _ = ask(server, f"api/{path}", json.dumps(values))
    return status, json.loads(content)


def test_strangers_learn_nothing(server):
    for path in ("", "api/state", "picture/train/0"):
        assert ask(server, path)[0] == 200
        for refused in (
            {"token": "x" * len(server.token)},
            {"Host": "evil.example"},
            {"Origin": "https://evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            assert ask(server, path, **refused)[:2] == (404, b"not found")
    for target in ("*", "/", "//[", "none"):  # without any token
        assert ask(server, "", target=target)[:2] == (404, b"not found")
    body = json.dumps({"revision": 0, "edit": {"edit": "drop", "prototypes": [0]}})
    assert ask(server, "api/edit", body, Origin="null")[0] == 404
    assert server.desk.session.history.head == 0
    assert server.server_address[0] == "127.0.0.1"


def test_the_page_may_load_nothing_from_elsewhere(server):
    _, page, headers = ask(server, "")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["Referrer-Policy"] == "no-referrer"
    assert b"http" not in page.replace(b"http-equiv", b"")
    assert ask(server, "../config.json")[0] == ask(server, "%2e%2e/desk.py")[0] == ask(server, "desk.py")[0] == 404


def test_an_edit_is_saved_before_it_is_answered(server):
    status, answer = change(server, "edit", revision=0, edit={"edit": "drop", "prototypes": [0]}, note="why")
    assert status == 200
    assert len(load(server.desk.folder, NET).prototypes) == len(answer["state"]["prototypes"]) == 8
    status, answer = change(server, "edit", revision=0, edit={"edit": "drop", "prototypes": [0]})
    assert status == 409
    assert "another tab" in answer["error"]
    assert change(server, "move", revision=1, to="undo")[0] == 200
    assert len(load(server.desk.folder, NET).prototypes) == 9


def test_the_gallery_in_the_folder_is_that_of_the_present_state(server, tmp_path):
    """It is drawn once for each state, also if an edit of the same number was taken back meanwhile."""
    desk, folder = server.desk, server.desk.folder
    galleries = {}

    def check(head):
        desk.session.model.save(tmp_path / "fresh", overwrite=True)
        galleries[head] = (folder / "gallery.png").read_bytes()
        assert galleries[head] == (tmp_path / "fresh" / "gallery.png").read_bytes()

    change(server, "edit", revision=0, edit={"edit": "drop", "prototypes": [0]})
    check("dropped")
    change(server, "move", revision=1, to="undo")
    check("undone")
    folder.rename(tmp_path / "aside")
    folder.write_text("a file in the folder's place")
    assert change(server, "edit", revision=2, edit={"edit": "drop", "prototypes": [1]})[0] == 400
    folder.unlink()
    (tmp_path / "aside").rename(folder)
    change(server, "edit", revision=2, edit={"edit": "rename", "prototype": 0, "title": "a name"})
    check("named")
    assert len(set(galleries.values())) == 3


def test_a_failed_save_changes_nothing(server, monkeypatch):
    desk = server.desk
    shutil.rmtree(desk.folder)
    desk.folder.write_text("a file in the folder's place")
    status, answer = change(server, "edit", revision=0, edit={"edit": "drop", "prototypes": [0]})
    assert status == 400
    assert "is a file" in answer["error"] or "not a folder" in answer["error"]
    assert (desk.session.history.revision, len(desk.session.snapshots)) == (0, 1)


@pytest.mark.parametrize(
    ("path", "values", "message"),
    [
        ("edit", {"revision": 0, "edit": {"edit": "drop", "prototypes": [99]}}, "prototype must be"),
        (
            "edit",
            {"revision": 0, "edit": {"edit": "add", "class_name": "ant", "image": "/etc/passwd"}},
            "names an edit",
        ),
        ("edit", {"revision": 0}, "names an edit"),
        ("move", {"revision": 0, "to": "undo"}, "no edit to undo"),
        ("move", {"revision": 0, "to": True}, "'to' is"),
        ("correct", {"revision": 0, "sample": 0, "label": "dog"}, "no class is called"),
    ],
)
def test_mistakes_are_one_line(server, path, values, message):
    status, answer = change(server, path, **values)
    assert status == 400
    assert message in answer["error"]


def test_a_refused_body_is_not_the_next_request(server):
    hidden = f"GET /{server.token}/api/state HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n"
    for path in ("x/api/edit", f"{server.token}/api/edit"):
        head = f"POST /{path} HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\nContent-Length: {len(hidden)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=5) as connection:
            connection.sendall((head + hidden).encode())
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(2**16):
                    answer += part
        assert answer.count(b"HTTP/1.1") == 1
        assert b"Connection: close" in answer


def test_the_page_shows_the_samples_that_judge(saved):
    x, y = bright_images(30)
    session = open_session(saved, bright_images(90), network=NET, validation=(x.flip(0), (y.flip(0) + 1) % 3))
    desk = Desk(session, saved)
    found = desk.wrong()
    assert (found["n"], found["part"], found["pictures"]) == (30, "validation", "validation")
    assert desk.picture("validation", 0) == desk.picture("train", 29) != desk.picture("train", 0)
    with pytest.raises(LookalikeError, match="part must be"):
        desk.picture("test", 0)


def test_the_test_part_is_opened_deliberately_and_counted(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "m")
    session = open_session(tmp_path / "m", bright_images(90), network=NET, test=bright_images(12), who="me")
    desk = Desk(session, tmp_path / "m")
    with pytest.raises(LookalikeError, match="say why"):
        desk.open_test({"revision": 0, "note": " "})
    assert desk.state()["openings"] == []
    desk.open_test({"revision": 0, "note": "release"})
    opened = open_session(tmp_path / "m", network=NET).history.openings
    assert [(opening.who, opening.note, opening.effect["n"]) for opening in opened] == [("me", "release", 12)]


@pytest.mark.parametrize("method", ["pca", "tsne", "umap"])
def test_the_map_lays_out_images_and_prototypes(server, method):
    if method == "umap":
        pytest.importorskip("umap")
    found = server.desk.map(method)
    points, prototypes = np.array(found["points"]), np.array(found["prototypes"])
    assert points.shape == (90, 2)
    labels = np.array(found["labels"])
    for j, row in enumerate(server.desk.state()["prototypes"]):
        nearest = np.linalg.norm(points - prototypes[j], axis=1).argmin()
        assert server.desk.session.state.class_names[labels[nearest]] == row["class"]
    with pytest.raises(LookalikeError, match="no map by 'som'"):
        server.desk.map("som")


def test_pictures_edits_and_other_searches_do_not_wait_for_a_search(tmp_path):
    """The search is held up by its first image; it ends with what it began with, whatever was edited meanwhile."""
    x, y = bright_images(90)

    class Held(torch.utils.data.Dataset):
        classes = tuple(NAMES)
        searching, go_on = threading.Event(), threading.Event()

        def __len__(self):
            return 90

        def __getitem__(self, index):
            if threading.current_thread().name == "search":
                self.searching.set()
                assert self.go_on.wait(20)
            return x[index], int(y[index])

    data = Held()
    convert(NET, data, n_prototypes=2).save(tmp_path / "m")
    desk = Desk(open_session(tmp_path / "m", data, network=NET, who="me"), tmp_path / "m")
    found = []
    search = threading.Thread(target=lambda: found.append(desk.shortcuts()), name="search")
    search.start()
    assert data.searching.wait(20)
    assert desk.picture("train", 3)
    assert len(desk.edit({"revision": 0, "edit": {"edit": "drop", "prototypes": [5]}})["state"]["prototypes"]) == 5
    assert set(desk.suspects()) == {"counts", "suspects", "notes"}
    assert not found
    data.go_on.set()
    search.join(60)
    assert (found[0]["n"], desk.shortcuts()["n"]) == (6, 5)


def test_kinds_of_suspects_are_those_that_are_listed(server):
    server.desk.session.snapshot.prototypes.purity[:] = 0.1
    found = server.desk.suspects()
    assert "impure" in server.desk._audit.counts()
    assert set(found["counts"]) == {row["kind"] for row in found["suspects"]}


def test_corrected_labels_go_to_a_file_of_the_model(server):
    assert change(server, "correct", revision=0, sample=4, label="=cmd()")[0] == 200
    assert (server.desk.folder / "corrected-labels.csv").read_text().splitlines()[1] == f"4,,{HOSTILE},'=cmd()"
    again = open_session(server.desk.folder, network=NET)
    assert again.history.corrections[0].corrected == "=cmd()"


def test_a_file_that_is_no_image_is_refused(server):
    status, content, _ = ask(server, "api/look", b"no image")
    assert (status, json.loads(content)["error"]) == (400, "the file cannot be used: not an image")
    assert ask(server, "api/look", b"", **{"Content-Length": str(2**30)})[0] == 400


def test_a_calibrated_model_says_its_doubt_of_wrong_predictions_and_dropped_images(tmp_path, browser):
    x, y = bright_images(90)
    y = torch.where(torch.arange(90) % 7 == 0, (y + 1) % 3, y)  # some labels are wrong, so some predictions are
    model = convert(NET, (x, y), n_prototypes=3, class_names=NAMES)
    model.calibrate((x[::2] + 0.01, y[::2]), coverage=0.8).save(tmp_path / "m")
    desk = Desk(open_session(tmp_path / "m", (x, y), network=NET, who="me"), tmp_path / "m")
    rows = desk.wrong()["samples"]
    assert {row["set"] for row in rows} <= {"one class", "several classes", "nothing I know"}
    assert all("80% coverage" in row["doubt"] for row in rows)
    doubts = desk.session.model.predict_set(x[[row["sample"] for row in rows]]).sizes
    assert [("nothing I know", "one class", "several classes")[min(size, 2)] for size in doubts] == [
        row["set"] for row in rows
    ]
    with StudioServer(desk) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        page = browser.new_page()
        page.goto(server.address)
        page.wait_for_selector(".proto")
        page.keyboard.press("3")
        kinds = page.get_by_label("The model says")
        one = sum(row["set"] == "one class" for row in rows)
        kinds.select_option(f"one class ({one})")
        assert page.locator("#panel .strip li").count() == one
        kinds.select_option(f"all ({len(rows)})")
        assert page.locator("#panel .strip li").count() == len(rows)
        page.close()
        server.shutdown()


@pytest.fixture
def tab(browser, server):
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    requests, problems = [], []
    context.on("request", lambda request: requests.append(request.url))
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: problems.append("a script of a name ran"))
    page.goto(server.address)
    page.wait_for_selector(".proto")
    yield page
    assert problems == []
    assert all(url.startswith((server.origin, "blob:")) for url in requests)
    context.close()


def by_button(name):
    return lambda tab: tab.get_by_role("button", name=name, exact=True).click()


def by_field(field, value, button):
    def act(tab):
        tab.get_by_label(field, exact=True).fill(value)
        by_button(button)(tab)

    return act


def merge(tab):
    tab.keyboard.press("Escape")
    for number in (4, 5):
        tab.locator(f".proto:has([data-prototype='{number}']) input").check()
    by_button("Merge")(tab)


def move_to_another_class(tab):
    tab.get_by_label("Move to class").select_option(index=0)
    by_button("Move")(tab)


def restrict(tab):
    tab.get_by_text("Restrict it to a part").click()
    by_button("Restrict")(tab)


def add_what_is_in_view(tab):
    tab.keyboard.press("Escape")
    tab.get_by_role("tab", name="Map").click()
    tab.locator("canvas").press("Enter")
    by_button("Add a prototype from them")(tab)


def add_an_image(tab):
    tab.keyboard.press("Escape")
    tab.get_by_role("tab", name="This looks like…").click()
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 90, dtype=np.uint8)).save(buffer, format="PNG")
    tab.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
    by_button("Add it as a prototype")(tab)


def take_out_a_part(tab):
    tab.keyboard.press("Escape")
    tab.get_by_role("tab", name="Suspects").click()
    by_button("Look for shortcuts")(tab)
    tab.get_by_role("button", name="Take the ").first.click()


BY_PAGE = {
    "rename": by_field("Name", HOSTILE, "Save name"),
    "describe": by_field("Description", "a bright one", "Save description"),
    "pin": by_button("Pin"),
    "drop": by_button("Drop"),
    "merge": merge,
    "split": by_button("Split"),
    "move": move_to_another_class,
    "show": lambda tab: tab.get_by_role("button", name="show by this").nth(1).click(),
    "restrict": restrict,
    "add": add_what_is_in_view,
    "add an image": add_an_image,
    "erase": take_out_a_part,
}


def state_of(session):
    state = session.state
    return state.keys.tolist(), state.annotations, state.shown, session.snapshot.prototypes.nearest.tolist()


def test_every_edit_by_the_page_with_undo_and_redo(tab, server):
    def wait_for(text):
        """Waits frame by frame; ``expect`` looks again only after up to a second."""
        tab.locator("#status", has_text=text).wait_for(timeout=15_000)

    session = server.desk.session
    material = session.material
    shown = session.snapshot.prototypes.nearest[:, 0].tolist()
    number = next(j for j in (4, 3, 5) if not material.is_held_out(shown[j]))  # those that judge are not restricted
    before = state_of(session)
    assert {edit.split(" ", 1)[0] for edit in BY_PAGE} == set(EDITS)
    for name, act in BY_PAGE.items():
        tab.keyboard.press("1")
        tab.locator(f"[data-prototype='{number}']").click()
        act(tab)
        wait_for("Done")
        after = state_of(session)
        assert after != before, name
        assert session.log()[-1]["edit"]["edit"] == name.split(" ")[0]
        tab.locator("#undo").click()
        wait_for("is at edit 0")
        assert state_of(session) == before, name
        tab.locator("#redo").click()
        wait_for(f"is at edit {len(session.log())}")
        assert state_of(session) == after, name
        tab.locator("#undo").click()
        wait_for("is at edit 0")


def test_the_page_works_by_keyboard(tab, server):
    expect = pytest.importorskip("playwright.sync_api").expect
    session = server.desk.session
    before = session.state.keys.clone()
    assert tab.locator(".proto").count() == 9
    assert HOSTILE in tab.locator("#panel").inner_text()
    tab.locator("[data-prototype='0']").focus()
    tab.keyboard.press("x")
    tab.keyboard.press("d")
    expect(tab.locator(".proto")).to_have_count(8)
    tab.keyboard.press("u")
    expect(tab.locator(".proto")).to_have_count(9)
    assert torch.equal(session.state.keys, before)
    tab.keyboard.press("r")
    expect(tab.locator(".proto")).to_have_count(8)
    for key, text in (
        ("2", "training images by the two main axes"),
        ("3", "wrong"),
        ("4", "notes go|no training image stands"),
        ("6", "nothing is ever lost"),
    ):
        tab.keyboard.press(key)
        expect(tab.locator("#panel")).to_contain_text(re.compile(text, re.IGNORECASE))
    assert tab.locator("[role=tab][aria-selected=true]").inner_text() == "Log"


def test_a_view_that_waits_for_its_data_does_not_replace_a_later_one(tab):
    expect = pytest.importorskip("playwright.sync_api").expect
    waiting = []
    tab.route("**/api/wrong", lambda route: waiting.append(route))
    tab.keyboard.press("3")
    expect(tab.locator("#panel")).to_contain_text("Looking")
    tab.keyboard.press("1")
    expect(tab.locator(".proto")).to_have_count(9)
    with tab.expect_response("**/api/wrong"):
        waiting[0].continue_()
    tab.wait_for_timeout(100)  # for the page to deal with the response
    assert tab.locator(".proto").count() == 9


def test_two_tabs_at_once(tab, server):
    expect = pytest.importorskip("playwright.sync_api").expect
    other = tab.context.new_page()
    other.goto(server.address)
    other.wait_for_selector(".proto")
    server.desk.edit({"revision": 0, "edit": Drop((0,)).to_dict()})
    other.locator("[data-prototype='1']").click()
    other.get_by_role("button", name="Drop", exact=True).click()
    expect(other.locator("#status")).to_contain_text("another tab")
    assert other.locator(".proto").count() == 8
    other.close()


def test_of_two_edits_at_the_same_moment_one_is_made(server):
    answers = []

    def drop(number):
        answers.append(change(server, "edit", revision=0, edit={"edit": "drop", "prototypes": [number]})[0])

    threads = [threading.Thread(target=drop, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 409, 409, 409]
    assert len(load(server.desk.folder, NET).prototypes) == 8


def test_the_page_says_that_its_server_is_gone(tab, server):
    page = tab.context.new_page()
    page.goto(server.address)
    page.route("**/api/edit", lambda route: route.abort("connectionrefused"))
    page.locator("[data-prototype='1']").click()
    page.get_by_role("button", name="Drop", exact=True).click()
    page.locator("#status", has_text="does not answer. All edits that this page has confirmed are in").wait_for()
    page.close()


def test_the_command_judges_on_the_validation_images(converted, network_file, image_folder, tmp_path, monkeypatch):
    shutil.copytree(image_folder / "test" / "bee", tmp_path / "validation" / "ant")
    for name in ("bee", "cat"):
        shutil.copytree(image_folder / "test" / name, tmp_path / "validation" / name)
    found, at_termination = {}, signal.getsignal(signal.SIGTERM)

    def look(address):
        try:
            for name in ("wrong", "state"):
                with urllib.request.urlopen(f"{address}api/{name}", timeout=60) as answer:
                    found[name] = json.load(answer)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("webbrowser.open", lambda address: threading.Thread(target=look, args=[address]).start())
    options = ["--validation", str(tmp_path / "validation"), "--network", f"{network_file}:make", "--who", "me"]
    try:
        result = CliRunner().invoke(app, ["studio", str(converted), str(image_folder), *options])
    finally:
        signal.signal(signal.SIGTERM, at_termination)
    assert result.exit_code == 0, result.output
    assert "Stopped; all edits are saved." in result.output
    assert (found["wrong"]["part"], found["wrong"]["n"]) == ("validation", 3)  # the bees in the folder of ants


@pytest.mark.slow
def test_a_killed_server_loses_nothing(converted, network_file, image_folder):
    network = f"{network_file}:make"
    studio = start_command("studio", converted, image_folder, "--no-browser", "--json", "--network", network)
    try:
        line = next(line for line in studio.printed if '"address"' in line)
        port, token = re.search(r"127\.0\.0\.1:(\d+)/([\w-]+)/", line).groups()
        answered = 0

        def edit_on():
            nonlocal answered
            for number in range(10_000):
                connection = http.client.HTTPConnection("127.0.0.1", int(port))
                body = {"revision": number, "edit": {"edit": "rename", "prototype": 0, "title": f"name {number}"}}
                headers = {"Origin": f"http://127.0.0.1:{port}"}
                try:
                    connection.request("POST", f"/{token}/api/edit", json.dumps(body), headers)
                    assert connection.getresponse().status == 200
                except (OSError, http.client.HTTPException):
                    return
                answered = number + 1

        thread = threading.Thread(target=edit_on)
        thread.start()
        while answered < 5 and thread.is_alive():
            time.sleep(0.01)
    finally:
        studio.send_signal(signal.SIGKILL)
    thread.join()
    studio.finish()
    again = open_session(converted, network=build_untrained(network))
    assert len(again.history.entries) - 1 in (answered, answered + 1)
    assert again.state.annotations.names[0] == f"name {again.history.head - 1}"
