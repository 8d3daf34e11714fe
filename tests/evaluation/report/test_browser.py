"""The page in a real browser: no error in its console, no request, no sideways scrolling."""

import json
import os
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-pipe",
)


class Browser:
    """Chromium's DevTools protocol over its two pipes: JSON messages that end with a zero byte."""

    def __init__(self, profile):
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # The browser reads commands from descriptor 3 and writes to 4.
        command = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self.events, self._session = b"", 0, [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]
            self.events.append(found)

    def wait_for(self, method):
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression):
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"]["value"]

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def _next(self):
        while b"\0" not in self._buffer:
            chunk = os.read(self._read, 1 << 16)
            assert chunk, "the browser has gone"
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)


@pytest.fixture(params=[(1280, 900, False), (390, 844, True)], ids=["desktop", "phone"])
def page(request, report, tmp_path):
    if CHROMIUM is None:
        pytest.skip("needs a browser: Debian's chromium")
    browser = Browser(tmp_path / "profile")
    try:
        for domain in ("Page", "Network", "Runtime", "Log"):
            browser.call(f"{domain}.enable")
        width, height, mobile = request.param
        browser.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )
        browser.call("Page.navigate", url=(report / "report.html").as_uri())
        browser.wait_for("Page.loadEventFired")
        browser.width = width
        yield browser
    finally:
        browser.close()


def test_the_page_is_whole_quiet_and_offline(page):
    said = [
        event
        for event in page.events
        if event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    ]
    assert said == []
    requested = [
        event["params"]["request"]["url"][:60]
        for event in page.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    outside = [url for url in requested if not url.startswith(("file:", "data:"))]
    assert outside == [] and sum(url.startswith("file:") for url in requested) == 1
    pictures = page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0)")
    assert len(pictures) > 10 and all(pictures)
    # Wide tables scroll inside their frames; the page itself does not move sideways.
    assert page.evaluate("document.documentElement.scrollWidth") <= page.width
    assert page.evaluate("document.querySelectorAll('section').length") >= 8
