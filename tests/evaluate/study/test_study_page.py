"""The page of a study in a real browser: what people rate arrives once each, whatever happens on the way."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from page_browser import Browser, Tab, until
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from study_server import Running, running

from v2meow.evaluate.study.design import QUESTIONS
from v2meow.evaluate.study.order import plan, rater_of

pytestmark = pytest.mark.slow
SHOWN = "!document.getElementById('{}').hidden"
OPEN = "!document.querySelector('#form input').disabled"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


class _Forgetful:
    """An application whose first answer to every rating is lost, although the rating was stored."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._heard: set[bytes] = set()
        self.lost = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""

        async def listening() -> Message:
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            return message

        async def answering(message: Message) -> None:
            if scope["type"] == "http" and scope["method"] == "POST" and body not in self._heard:
                self._heard.add(body)
                self.lost += 1
                raise ConnectionError("the line broke before the answer")
            await send(message)

        await self._app(scope, listening, answering)


def _click(tab: Tab, name: str) -> None:
    tab.run(f"document.getElementById('{name}').click()")


def _press(tab: Tab, key: str) -> None:
    code = {"Enter": 13, " ": 32}.get(key, ord(key[0].upper()))
    values = {"key": key, "text": "\r" if key == "Enter" else key, "windowsVirtualKeyCode": code}
    tab.ask("Input.dispatchKeyEvent", type="keyDown", **values)
    tab.ask("Input.dispatchKeyEvent", type="keyUp", **values)


def _open(browser: Browser, server: Running, token: str) -> Tab:
    tab = browser.open(f"{server.url}/?rater={token}")
    tab.ask("Emulation.setFocusEmulationEnabled", enabled=True)  # one of several tabs would load no video
    tab.until(f"{SHOWN.format('welcome')} || {SHOWN.format('done')}")
    return tab


def _hear_both(tab: Tab) -> None:
    for side in ("left", "right"):
        tab.until(f"document.getElementById('{side}').readyState >= 3")
        _click(tab, f"hear-{side}")
        tab.until(f"document.getElementById('{side}-heard').value === 1")
    tab.until(OPEN)


def _rate(tab: Tab, choices: dict[str, int]) -> None:
    """One pair, by hand."""
    _hear_both(tab)
    for question, choice in choices.items():
        tab.run(f"document.querySelector('input[name={question}][value=\"{choice}\"]').click()")
    _click(tab, "next")


def _rate_by_keys(tab: Tab, choices: dict[str, int]) -> None:
    """One pair, without a pointer."""
    for side, key in (("left", "a"), ("right", "b")):
        tab.until(f"document.getElementById('{side}').readyState >= 3")
        _press(tab, key)
        tab.until(f"document.getElementById('{side}-heard').value === 1")
    for choice in choices.values():
        _press(tab, str(choice + 3))
    _press(tab, "Enter")


def _choices(rater: int, place: int) -> dict[str, int]:
    return {question: (3 * rater + place + 2 * number) % 5 - 2 for number, question in enumerate(QUESTIONS)}


def _saved(tab: Tab) -> None:
    tab.until("document.getElementById('saved').textContent === 'All your ratings are saved.'", 30)


def test_three_raters_at_once_reload_in_the_middle_and_every_answer_arrives_once(browser, study_folder, tmp_path):
    """With answers of the server lost on the way, each rating is sent twice: none may be missing or count double."""
    forgetful: list[_Forgetful] = []

    def around(app: ASGIApp) -> ASGIApp:
        forgetful.append(_Forgetful(app))
        return forgetful[0]

    with running(study_folder, tmp_path / "r.sqlite", around=around) as server:
        pairs = len(server.study.pairs)
        tabs = [_open(browser, server, f"rater-number-{number}") for number in range(3)]

        def work(number: int) -> None:
            tab = tabs[number]
            _click(tab, "start")
            for place in range(pairs):
                rate = _rate_by_keys if number == 0 else _rate
                tab.until(f"document.getElementById('count').textContent === '{place + 1} of {pairs}'")
                rate(tab, _choices(number, place))
                if place == 1:
                    tab.ask("Page.reload")
                    tab.until(f"document.readyState === 'complete' && {SHOWN.format('welcome')}")
                    assert tab.run("document.getElementById('start').textContent") == "Go on"
                    _click(tab, "start")
            tab.until(f"{SHOWN.format('done')} && {SHOWN.format('thanks')}", 30)
            assert tab.run("document.getElementById('thanks').textContent") == "code 7Q"

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(work, range(3)))
        stored = {(one.rater, one.pair, one.question): one.choice for one in server.ratings()}
        assert len(server.ratings()) == len(stored) == 3 * pairs * len(QUESTIONS)
        assert forgetful[0].lost == len(stored)
        for number in range(3):
            rater = rater_of(server.study, f"rater-number-{number}")
            for place, shown in enumerate(plan(server.study, rater)):
                for question, choice in _choices(number, place).items():
                    assert stored[rater, shown.pair.id, question] == choice
        assert all(one.heard_left_s >= 0.2 and one.heard_right_s >= 0.2 for one in server.ratings())
        for tab in tabs:
            tab.close()


def test_ratings_outlive_a_broken_network_a_closed_tab_and_a_server_that_is_started_again(browser, served):
    """The page keeps what it could not send, sends it when it can, and never shows that pair again."""
    pairs = len(served.study.pairs)
    tab = _open(browser, served, "wanderer")
    _click(tab, "start")
    _hear_both(tab)
    tab.ask("Network.enable")
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    tab.ask("Network.emulateNetworkConditions", offline=True, **offline)
    _answer_and_go_on(tab)
    tab.until("document.getElementById('saved').textContent.startsWith('2 ratings wait for the connection')")
    assert served.ratings() == []
    tab.close()

    tab = _open(browser, served, "wanderer")
    assert tab.run("document.getElementById('start').textContent") == "Go on"
    _saved(tab)
    assert len(served.ratings()) == 2
    _click(tab, "start")
    assert tab.run("document.getElementById('count').textContent") == f"2 of {pairs}"
    _hear_both(tab)
    served.stop()
    _answer_and_go_on(tab)
    tab.until("document.getElementById('saved').textContent.startsWith('2 ratings wait')")
    tab.until(SHOWN.format("alert"))  # the next video cannot be loaded either
    served.start()
    _saved(tab)
    _click(tab, "alert-action")
    _rate(tab, {"fit": 0, "music": 0})
    until(lambda: len(served.ratings()) == 6, 20, "the third pair")
    found = [(one.pair, one.question) for one in served.ratings()]
    order = [shown.pair.id for shown in plan(served.study, rater_of(served.study, "wanderer"))]
    assert sorted(found) == sorted((pair, question) for pair in order[:3] for question in QUESTIONS)
    tab.close()


def _answer_and_go_on(tab: Tab) -> None:
    for question in QUESTIONS:
        tab.run(f"document.querySelector('input[name={question}][value=\"2\"]').click()")
    _click(tab, "next")


def test_answers_are_closed_until_both_were_heard_and_the_page_fits_a_phone(browser, served):
    """Who has heard one side alone cannot compare; on a phone nothing may be off the screen or too small to touch."""
    tab = _open(browser, served, "phone-owner")
    tab.size(390, 844)
    _click(tab, "start")
    assert not tab.run(OPEN)
    _click(tab, "hear-left")
    tab.until("document.getElementById('hint').textContent === 'Listen to B, too.'")
    assert not tab.run(OPEN)
    _click(tab, "hear-right")
    tab.until(OPEN)
    assert tab.run("document.getElementById('left').paused && !document.getElementById('right').paused")
    assert tab.run("document.documentElement.scrollWidth <= 390")
    small = "[...document.querySelectorAll('button, .scale label')].filter(x => x.offsetParent && x.offsetHeight < 44)"
    assert tab.run(f"{small}.length") == 0
    unnamed = "(x) => !(x.labels?.[0] ?? x).textContent.trim() && !x.ariaLabel"
    assert tab.run(f"[...document.querySelectorAll('button, input')].filter({unnamed}).length") == 0
    assert tab.complaints == [], json.dumps(tab.complaints)
    tab.close()


def test_who_is_not_invited_is_told_so(browser, study_folder, tmp_path: Path):
    with running(study_folder, tmp_path / "r.sqlite", invited=["somebody-else"]) as server:
        tab = browser.open(server.url)
        tab.until(SHOWN.format("alert"))
        assert "not an invitation" in tab.run("document.getElementById('alert-text').textContent")
        assert tab.run("document.getElementById('welcome').hidden")
        tab.close()
