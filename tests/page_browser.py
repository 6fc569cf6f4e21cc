"""A headless Chromium, driven through its DevTools protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
)


class Browser:
    """One Chromium with a fresh profile in `folder`; downloads lie in `folder / "downloads"`."""

    def __init__(self, folder: Path) -> None:
        if CHROMIUM is None:
            pytest.skip("no Chromium: the page is tested where `chromium` is installed")
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        profile = folder / "profile"
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        with (folder / "chromium.log").open("w") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        ports = profile / "DevToolsActivePort"
        until(lambda: ports.is_file() and ports.read_text().count("\n"), 30, "Chromium to start")
        self._port = int(ports.read_text().splitlines()[0])

    def open(self, url: str, before: str = "") -> "Tab":
        """A new tab; the script `before` runs in it before the page's own."""
        address = f"http://127.0.0.1:{self._port}/json/new?about:blank"
        tab = Tab(httpx.put(address).json()["webSocketDebuggerUrl"])
        tab.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        tab.ask("Page.addScriptToEvaluateOnNewDocument", source=before)
        tab.ask("Page.navigate", url=url)
        tab.until("document.readyState === 'complete'")
        return tab

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)


class Tab:
    """One page. `complaints` are the errors and warnings of its console, and broken requests that it did not expect."""

    def __init__(self, address: str) -> None:
        self._socket = connect(address, max_size=None)
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        self.ask("Page.close")
        self._socket.close()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask the browser; its answer."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        about = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(about["exceptionDetails"]))
        if message.get("method") == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(about["args"]))
        if message.get("method") == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited, as after a click of a person."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, (script, answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = 20.0) -> None:
        """Wait until an expression is true."""
        until(lambda: self.run(script), seconds, script)

    def give(self, selector: str, file: Path) -> None:
        """Choose a file in a file field."""
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.ask("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def size(self, width: int, height: int) -> None:
        """Look at the page as on a screen of so many pixels."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def screenshot(self, path: Path) -> None:
        """What is seen of all the page, as PNG."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


def until(holds: Any, seconds: float, what: str) -> None:
    """Wait until `holds()` is true. AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for: {what}"
        time.sleep(0.05)
