"""A headless Chromium for the tests, told what to do over WebDriver's HTTP; no library is needed."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

_SECONDS = 300


class Browser:
    """One window of ``width`` pixels; ``close`` ends it."""

    def __init__(self, width: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL)
        self._base = f"http://127.0.0.1:{port}"
        try:
            self._wait()
            options = {
                "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
                "mobileEmulation": {
                    "deviceMetrics": {"width": width, "height": 900, "pixelRatio": 1, "mobile": False, "touch": False}
                },
            }
            wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
            self._base += f"/session/{self._call('POST', '/session', wanted)['sessionId']}"
        except BaseException:
            self._driver.kill()
            raise

    def open(self, page: Path) -> None:
        self._call("POST", "/url", {"url": page.resolve().as_uri()})

    def run(self, script: str) -> Any:
        """What a piece of JavaScript returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": []})

    def command(self, name: str, **parameters: Any) -> Any:
        """A command of Chrome's developer tools."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def pdf(self) -> bytes:
        return base64.b64decode(self.command("Page.printToPDF")["data"])

    def errors(self) -> list[str]:
        """What the page complained about."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def close(self) -> None:
        try:
            self._call("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait()

    def _wait(self) -> None:
        for _ in range(_SECONDS):
            try:
                self._call("GET", "/status")
                return
            except OSError:
                time.sleep(0.2)
        raise TimeoutError("chromedriver does not answer")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return json.loads(answer.read())["value"]


def needs_browser() -> None:
    """Skip the test where there is no Chromium or no driver of it."""
    if not shutil.which("chromedriver") or not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no Chromium with its driver (Debian: apt install chromium chromium-driver)")
