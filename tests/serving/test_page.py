"""The page for people in a real browser, from a video to its files, and each thing that can go wrong on the way."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
from local_server import LocalServer, Loop, local_server
from page_browser import Browser, Tab, until

from serving import keys
from v2meow import bundle
from v2meow.files import write_json
from v2meow.media import Reader, read_wav, write_video

SECONDS = 6.0  # more than a window: sound comes while the next one is still made
SHOWN = "!document.getElementById('{}').hidden"
# Watches the page from outside: what came over the line and when, what was handed to the loudspeaker, how loud it was.
WATCH = """
window.told = []; window.heard = []; window.loudest = 0; window.moved = 0;
const ask = window.fetch;
window.fetch = async (...request) => {
  const answer = await ask(...request);
  if (request[1]?.method === "POST" && answer.ok) {
    const reader = answer.clone().body.pipeThrough(new TextDecoderStream()).getReader();
    (async () => {
      for (let rest = ""; ;) {
        const { done, value } = await reader.read();
        if (done) return;
        const lines = (rest + value).split("\\n");
        rest = lines.pop();
        for (const line of lines) window.told.push(JSON.parse(line).event);
      }
    })().catch(() => {});
  }
  return answer;
};
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (when) {
  window.context = this.context;
  window.heard.push({ late: this.context.currentTime - when, samples: [...this.buffer.getChannelData(0)] });
  return start.call(this, when);
};
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (to, ...more) {
  if (to instanceof AudioDestinationNode) {
    const ear = new AnalyserNode(this.context);
    connect.call(this, ear);
    const wave = new Float32Array(ear.fftSize);
    setInterval(() => {
      ear.getFloatTimeDomainData(wave);
      window.loudest = Math.max(window.loudest, ...wave.map(Math.abs));
    }, 50);
  }
  return connect.call(this, to, ...more);
};
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.moved += entry.value;
}).observe({ type: "layout-shift" });
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def sunrise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A silent video of a disc that moves."""
    y, x = np.mgrid[:180, :320]
    still = np.stack((60 + x // 4, 40 + y // 3, np.full_like(x, 120)), axis=-1).astype(np.uint8)

    def pictures() -> Iterator[np.ndarray]:
        for number in range(round(10 * SECONDS)):
            picture = still.copy()
            picture[(x - 20 - 7 * number) ** 2 + (y - 90) ** 2 < 900] = (240, 200, 90)
            yield picture

    path = tmp_path_factory.mktemp("videos") / "sunrise.mp4"
    write_video(path, pictures(), 10, np.zeros(round(SECONDS * 16_000), np.float32), 16_000)
    return path


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Tab]]:
    tabs: list[Tab] = []

    def open_page(server: LocalServer, before: str = "") -> Tab:
        tabs.append(browser.open(server.url, before))
        tabs[-1].size(1280, 800)
        return tabs[-1]

    yield open_page
    for tab in tabs:
        tab.close()


def _click(tab: Tab, selector: str) -> None:
    tab.run(f"document.querySelector({json.dumps(selector)}).click()")


def _text(tab: Tab, name: str) -> str:
    return tab.run(f"document.getElementById('{name}').textContent")


def _make(tab: Tab, video: Path) -> None:
    tab.give("#file", video)
    tab.until("document.getElementById('name').textContent")
    _click(tab, "#form [type=submit]")


def _saved(browser: Browser, tab: Tab, take: int, kind: str) -> Path:
    """The file that a click on a take's button downloads."""
    before = set(browser.downloads.iterdir())
    _click(tab, f"#takes .take:nth-of-type({take}) .files button[title$='({kind.upper()})']")
    until(lambda: {p for p in set(browser.downloads.iterdir()) - before if p.suffix == f".{kind}"}, 20, f"a {kind}")
    return (set(browser.downloads.iterdir()) - before).pop()


def _address(file: Path, server: LocalServer) -> str:
    """Where the service has the file of that name: v2meow-ID-TAKE.KIND."""
    _, beginning, take = file.stem.split("-")
    name = next(record.id for record in server.service.spool.records() if record.id.startswith(beginning))
    return f"/v1/generations/{name}/takes/{take}?format={file.suffix[1:]}"


def test_a_video_becomes_music_that_is_heard_as_it_comes_compared_and_saved(
    loop: Loop, settings, browser, opened, sunrise, limits
):
    """The whole way with the model that comes with the package: one break in it, and people have nothing."""
    with local_server(loop, settings(models=[{"name": "nano"}])) as server:
        tab = opened(server, WATCH)
        tab.give("#file", sunrise)
        tab.until("document.getElementById('video').videoWidth === 320 && !document.getElementById('video').paused")
        _click(tab, "[name=takes][value='2']")
        tab.run("window.moved = 0")
        _click(tab, "#form [type=submit]")
        tab.until("window.loudest > 0")
        position = "Number(document.getElementById('seek').value)"
        in_step = f"Math.abs(document.getElementById('video').currentTime - {position}) < 0.15"
        tab.until(f"{position} > 0.5 && {in_step}", 3.0)
        tab.until(SHOWN.format("done-actions"))
        told = tab.run("window.told")
        assert (told[0], told[-1]) == ("begun", "done")
        assert "progress" in told[told.index("audio") :], "sound came only when all was made"
        for stage in ("semantic", "coarse", "fine"):
            assert tab.run(f"document.getElementById('{stage}').value") == 1.0
        assert tab.run("window.moved") < 0.02
        tab.until("document.getElementById('play').getAttribute('aria-label') === 'Play again'")
        assert tab.run("window.context.currentTime") > SECONDS
        assert tab.run("document.getElementById('video').currentTime") == pytest.approx(SECONDS, abs=0.3)

        wav = _saved(browser, tab, 1, "wav")
        with server.client() as client:
            assert wav.read_bytes() == client.get(_address(wav, server)).content
        played = np.concatenate([part["samples"] for part in tab.run("window.heard")])
        assert all(part["late"] <= 0 for part in tab.run("window.heard"))
        np.testing.assert_allclose(played, read_wav(wav)[0], atol=1e-4)

        tab.run("const seek = document.getElementById('seek'); seek.value = 2; seek.dispatchEvent(new Event('input'))")
        tab.run("window.heard = []")
        _click(tab, "#takes .take:nth-of-type(2) input")
        assert tab.run(position) == pytest.approx(2.0, abs=0.02)
        _click(tab, "#play")
        tab.until(f"{position} > 2.2")
        other = read_wav(_saved(browser, tab, 2, "wav"))[0]
        np.testing.assert_allclose(tab.run("window.heard")[0]["samples"], other[2 * 16_000 :], atol=1e-4)
        assert not np.array_equal(other, read_wav(wav)[0])

        video, about = _saved(browser, tab, 2, "mp4"), _saved(browser, tab, 2, "json")
        assert _saved(browser, tab, 2, "ogg").read_bytes()[:4] == b"OggS"
        with Reader(limits) as reader:
            assert reader.probe(video).audio is not None
        assert json.loads(about.read_text())["seed"] == int(_text(tab, "takes").rsplit("seed ", 1)[1].split("MP4")[0])

        _click(tab, "#another")
        tab.until("document.querySelectorAll('.take').length === 3 && " + SHOWN.format("done-actions"))
        tab.until("[...document.querySelectorAll('.take')].every((take) => !take.querySelector('button').disabled)")
        assert tab.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(loop: Loop, settings, opened, clip, scheme):
    """A page that scrolls sideways hides its buttons; one that is not dark at night blinds."""
    with local_server(loop, settings()) as server:
        tab = opened(server)
        tab.size(360, 740)
        tab.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        wide = "document.documentElement.scrollWidth"
        assert tab.run(wide) <= 360
        _click(tab, "summary")
        _make(tab, clip)
        tab.until(SHOWN.format("done-actions"))
        assert tab.run(wide) <= 360
        light = tab.run("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
        assert (light > 200) == (scheme == "light")
        unnamed = "[...document.querySelectorAll('input:not([hidden]), textarea, select')]"
        assert tab.run(f"{unnamed}.filter((one) => !one.labels.length && !one.ariaLabel).map((one) => one.id)") == []


def test_a_broken_video_is_told_of_and_another_can_be_chosen(loop: Loop, settings, opened, clip, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video" * 500)
    with local_server(loop, settings()) as server:
        tab = opened(server)
        _make(tab, broken)
        tab.until(SHOWN.format("alert"))
        assert _text(tab, "alert-title") == "This video cannot be used"
        assert _text(tab, "alert-action") == "Choose another video"
        assert tab.run(SHOWN.format("no-picture"))
        _make(tab, clip)
        tab.until(SHOWN.format("done-actions"))
        assert not tab.run(SHOWN.format("alert"))


def test_sound_that_is_late_is_waited_for_and_none_is_skipped(loop: Loop, settings, browser, opened, long_clip):
    """Over a line at two thirds of the music's rate: the picture stands still, too, until there is more."""
    with local_server(loop, settings()) as server:
        tab = opened(server, WATCH)
        tab.run("document.getElementById('seconds').value = 3")
        tab.ask("Network.enable")
        slow = {"offline": False, "latency": 0, "uploadThroughput": -1, "downloadThroughput": 28_000}
        tab.ask("Network.emulateNetworkConditions", **slow)
        _make(tab, long_clip)
        waiting = "document.getElementById('frame').classList.contains('waiting')"
        tab.until(f"window.heard.length && {waiting} && document.getElementById('video').paused")
        position, come = tab.run(
            "[Number(document.getElementById('seek').value), window.heard[0].samples.length / 16000]"
        )
        assert position == pytest.approx(come, abs=0.01), "it stands elsewhere than where the sound ran out"
        tab.until("document.getElementById('play').getAttribute('aria-label') === 'Play again'")
        sound = read_wav(_saved(browser, tab, 1, "wav"))[0]
        played = np.concatenate([part["samples"] for part in tab.run("window.heard")])
        np.testing.assert_allclose(played, sound, atol=1e-4)


def test_a_model_that_follows_no_words_says_so(loop: Loop, settings, opened, clip, tmp_path):
    """The music can still be made from the picture alone."""
    parts = tiny_bundle.parts(tmp_path / "parts")
    write_json(tmp_path / "parts/encoders/joint/metrics.json", {"follows_text": False})
    bundle.assemble(parts, tmp_path / "bundle")
    with local_server(loop, settings(models=[{"name": str(tmp_path / "bundle")}])) as server:
        tab = opened(server)
        tab.run("document.getElementById('prompt').value = 'slow bells <b>loud</b>'")
        _make(tab, clip)
        tab.until(SHOWN.format("alert"))
        assert _text(tab, "alert-title") == "The model cannot follow these words"
        _click(tab, "#alert-action")
        assert tab.run("document.activeElement.id") == "prompt"
        tab.run("document.getElementById('prompt').value = ''")
        _click(tab, "#form [type=submit]")
        tab.until(SHOWN.format("done-actions"))


def test_cancelling_frees_the_service_and_gives_the_form_back(loop: Loop, settings, opened, long_clip):
    """Music that nobody waits for must not hold a place."""
    with local_server(loop, settings()) as server:
        tab = opened(server)
        _make(tab, long_clip)
        until(lambda: server.service.gate.inside == 1, 20, "the generation to begin")
        _click(tab, "#cancel")
        until(server.free, 10, "the service to be free")
        assert tab.run(SHOWN.format("form")) and not tab.run(SHOWN.format("alert"))
        assert {record.status for record in server.service.spool.records()} <= {"cancelled"}


def test_a_full_service_is_waited_for(loop: Loop, settings, opened, clip):
    """It says so, and goes on by itself once there is room."""
    with local_server(loop, settings(limits={"running": 1, "waiting": 0})) as server:
        tab, place = opened(server), server.service.gate.place(1, 10.0)
        loop.run(place.__aenter__())
        try:
            _make(tab, clip)
            tab.until("document.getElementById('countdown').textContent.startsWith('In ')")
            assert "tries again by itself" in _text(tab, "status")
        finally:
            loop.run(place.__aexit__(None, None, None))
        tab.until(SHOWN.format("done-actions"))


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(loop: Loop, settings, browser, opened, clip, tmp_path):
    """Downloads need it, too."""
    file = tmp_path / "keys.json"
    secret = keys.create(file, "ann", per_minute=60, concurrent=2, days=None)
    with local_server(loop, settings(keys=str(file))) as server:
        tab = opened(server)
        _make(tab, clip)
        for given in ("v2m_wrong", secret):
            tab.until("document.getElementById('key-dialog').open")
            tab.run(f"document.getElementById('key').value = {json.dumps(given)}")
            _click(tab, "#key-form [value=use]")
        tab.until(SHOWN.format("done-actions"))
        assert _saved(browser, tab, 1, "wav").read_bytes()[:4] == b"RIFF"
        assert tab.run("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
        assert secret not in tab.run("document.documentElement.outerHTML")
        _click(tab, "#forget-key")
        assert tab.run("sessionStorage.length") == 0


def test_a_connection_that_breaks_in_the_middle_is_told_of_and_the_same_music_made_again(
    loop: Loop, settings, opened, long_clip
):
    with local_server(loop, settings()) as server:
        tab = opened(server, WATCH)
        _make(tab, long_clip)
        tab.until("window.told.includes('audio')")
        loop.run(_cut(server))
        tab.until(SHOWN.format("alert"))
        assert _text(tab, "alert-title") == "The connection broke"
        tab.run("window.told = []")
        _click(tab, "#alert-action")
        tab.until("window.told.includes('audio')")
        _click(tab, "#cancel")
        assert len({record.order.seed for record in server.service.spool.records()}) == 1


async def _cut(server: LocalServer) -> None:
    """End all connections of the server as a broken line does."""
    for connection in list(server._server.server_state.connections):
        connection.transport.abort()


def test_the_page_may_load_nothing_from_elsewhere(loop: Loop, settings):
    with local_server(loop, settings()) as server, server.client() as client:
        for path in ("/", "/app.js", "/style.css"):
            answer = client.get(path).raise_for_status()
            assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "http" not in answer.text.replace("http-equiv", "")
