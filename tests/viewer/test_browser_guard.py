import pytest

pytest.importorskip("dash")

from digipath.viewer import server
from digipath.viewer.desk import Desk
from digipath.viewer.opened import Opened
from digipath.viewer.shelf import Shelf

READY = "img.leaflet-tile-loaded"


@pytest.fixture
def guarded(library):
    """A desk, and a server of it that asks for a token."""
    desk = Desk(shelf=Shelf([library]), opened=Opened(), reviewer="someone")
    running = server.serve(desk, host="127.0.0.1", port=0, token="the-right-one")
    yield desk, running.url
    running.stop()


def of(desk):
    [item] = [item for item in desk.shelf.items() if (item.name, item.kind) == ("slide", "result")]
    return item


def test_the_pages_run_under_their_policy_and_ask_nobody_else_for_anything(guarded, page):
    desk, url = guarded
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.wait_for_selector("table")
    assert "token" not in page.url  # nor is it left in the history that the page can see
    base = url.partition("?")[0]
    page.goto(f"{base}view/{of(desk).id}")
    page.wait_for_selector(READY)
    page.wait_for_load_state("networkidle")
    assert not [text for text in said if "Content Security Policy" in text or "Refused" in text], said
    assert {one for one in asked if not one.startswith(("data:", "blob:", base))} == set()


def test_scripts_that_are_not_from_here_do_not_run(guarded, page):
    _, url = guarded
    page.goto(url)
    page.wait_for_selector("table")
    page.evaluate("""() => {
        const script = document.createElement('script');
        script.textContent = 'window.ran = true';
        document.body.append(script);
    }""")
    assert page.evaluate("window.ran") is None


def test_without_the_token_a_browser_sees_nothing(guarded, page):
    desk, url = guarded
    base = url.partition("?")[0]
    for path in ("", f"view/{of(desk).id}", f"tiles/{of(desk).id}/slide/0/0/0"):
        answer = page.goto(base + path)
        assert answer.status == 401 and "token" in page.inner_text("body")


def test_another_page_can_neither_change_nor_read_anything(guarded, page, start_server, library):
    _, url = guarded
    page.goto(url)
    page.wait_for_selector("table")
    places = [one.partition("?")[0] + "_dash-update-component" for one in (url, start_server(library))]
    page.route("http://elsewhere.localhost/", lambda route: route.fulfill(body="<p>another page</p>"))
    page.goto("http://elsewhere.localhost/")
    answers = []
    page.on("response", lambda answer: answers.append(answer.status))
    for place in places:
        for options in ("{}", "{method: 'POST', mode: 'no-cors', body: '{}'}"):
            told = page.evaluate(f"place => fetch(place, {options}).then(() => 'read', () => 'refused')", place)
            assert told == "refused"
    assert not [status for status in answers if status < 400]
