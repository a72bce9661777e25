"""Headless Chromium by its DevTools protocol over two pipes: no driver and no package is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
INSTALL = "apt-get install -y chromium"
LIMIT_S = 20.0
KEYS = {
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    "Tab": (9, ""),
    "ArrowUp": (38, ""),
    "ArrowDown": (40, ""),
    "ArrowLeft": (37, ""),
    "ArrowRight": (39, ""),
}


class Browser:
    """A browser of its own, with an empty profile; use it as a context manager."""

    def __init__(self, profile: Path) -> None:
        self._profile = profile
        self._ids = 0
        self._rest = b""
        self.events: list[dict] = []

    def __enter__(self) -> Browser:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        options = (
            "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run "
            "--disable-extensions --disable-background-networking --disable-component-update "
            "--disable-sync --hide-scrollbars --force-color-profile=srgb --remote-debugging-pipe"
        )
        # Chromium reads commands from descriptor 3 and writes to 4.
        start = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = [CHROMIUM, *options.split(), f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", start, "bash", *command],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self.send("Browser.close")
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def send(self, method: str, session: str | None = None, **params) -> dict:
        """One command; returns its result. What else arrives is kept in `events`."""
        self._ids += 1
        message = {"id": self._ids, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + LIMIT_S
        while (answer := self._receive(end)).get("id") != self._ids:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _receive(self, end: float) -> dict:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(end - time.monotonic(), 0))
            if not ready:
                raise TimeoutError("the browser does not answer")
            self._rest += os.read(self._in, 1 << 20)
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def page(
        self, width: int = 1280, height: int = 800, *, phone: bool = False, dark: bool = False
    ) -> Page:
        """A new page with storage of its own."""
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        return Page(self, attached["sessionId"], context, (width, height, phone, dark))


class Page:
    """One page; JavaScript, real input events, and what it asked for and complained about."""

    def __init__(self, browser: Browser, session: str, context: str, look: tuple) -> None:
        self._browser, self._session, self.context = browser, session, context
        width, height, phone, dark = look
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.send(f"{domain}.enable")
        scale = 2 if phone else 1
        self._kind = {"deviceScaleFactor": scale, "mobile": phone}
        self.resize(width, height)
        if phone:
            self.send("Emulation.setTouchEmulationEnabled", enabled=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def send(self, method: str, **params) -> dict:
        return self._browser.send(method, self._session, **params)

    def resize(self, width: int, height: int) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, **self._kind)

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def js(self, code: str):
        """The value of an expression, awaited."""
        given = self.send(
            "Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in given:
            raise RuntimeError(given["exceptionDetails"]["exception"].get("description", code))
        return given["result"].get("value")

    def wait(self, code: str, limit_s: float = LIMIT_S) -> None:
        """Until an expression is true."""
        end = time.monotonic() + limit_s
        condition = f"(() => {{ try {{ return Boolean({code}) }} catch {{ return false }} }})()"
        while not self.js(condition):
            assert time.monotonic() < end, (
                f"waited too long for {code}\n{self.js('document.body.innerText')}"
            )
            time.sleep(0.02)

    def click(self, selector: str) -> None:
        """A real click in the middle of an element."""
        where = json.dumps(selector)
        self.wait(f"document.querySelector({where})")
        self.js(f"document.querySelector({where}).scrollIntoView({{block: 'nearest'}})")
        box = self.js(
            f"(() => {{ const b = document.querySelector({where}).getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.move(*box)
        for kind in ("mousePressed", "mouseReleased"):
            at = {"type": kind, "x": box[0], "y": box[1], "button": "left", "clickCount": 1}
            self.send("Input.dispatchMouseEvent", **at)

    def move(self, x: float, y: float) -> None:
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def key(self, name: str, *, shift: bool = False) -> None:
        code, text = KEYS[name]
        pressed = {"key": name, "code": name, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **pressed)
        self.send("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def choose_file(self, selector: str, path: Path) -> None:
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def downloads_to(self, folder: Path) -> None:
        self._browser.send(
            "Browser.setDownloadBehavior",
            behavior="allow",
            downloadPath=str(folder),
            browserContextId=self.context,
        )

    def picture(self, path: Path) -> None:
        """A PNG of what is to be seen."""
        taken = self.send("Page.captureScreenshot", format="png", optimizeForSpeed=False)
        path.write_bytes(base64.b64decode(taken["data"]))

    def seen(self, method: str) -> list[dict]:
        """Parameters of all events of one kind so far."""
        self.js("0")  # takes in what has arrived
        return [
            e["params"]
            for e in self._browser.events
            if e.get("method") == method and e.get("sessionId") == self._session
        ]

    def requests(self) -> list[str]:
        """Every URL that the page asked for."""
        return [e["request"]["url"] for e in self.seen("Network.requestWillBeSent")]

    def complaints(self) -> list[str]:
        """Errors and warnings in the console, uncaught exceptions and refusals of the policy."""
        thrown = [e["exceptionDetails"] for e in self.seen("Runtime.exceptionThrown")]
        told = [t.get("exception", {}).get("description", t["text"]) for t in thrown]
        for event in self.seen("Runtime.consoleAPICalled"):
            if event["type"] in ("error", "warning", "assert"):
                told.append(str([a.get("value", a.get("description")) for a in event["args"]]))
        for event in self.seen("Log.entryAdded"):
            entry = event["entry"]
            if entry["level"] in ("error", "warning"):
                told.append(f"{entry['source']}: {entry['text']}")
        return told
