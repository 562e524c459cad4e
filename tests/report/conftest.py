"""One report and one tab for all tests of the report."""

import pytest

from tests.report.page import write_page


@pytest.fixture(scope="session")
def page(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def tab(browser, page):
    """One tab for all tests of a module; fails at the end on any message or request that should not have been."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    tab, said, asked = context.new_page(), [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: (said.append("alert"), dialog.dismiss()))
    tab.on("request", lambda request: asked.append(request.url))
    tab.set_default_timeout(30_000)
    yield tab
    context.close()
    assert said == []
    assert {url.split("#")[0] for url in asked if not url.startswith("data:")} == {page.as_uri()}


@pytest.fixture
def opened(tab, page):
    """The page as a reader finds it on a desktop."""
    tab.set_viewport_size({"width": 1200, "height": 900})
    tab.emulate_media(media="screen", color_scheme="light")
    tab.goto("about:blank")
    tab.goto(page.as_uri())
    return tab
