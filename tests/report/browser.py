"""A page in a real browser: Debian's Chromium, driven through choreographer, which Plotly's kaleido needs anyway."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROGRAM = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
_PATIENCE_S = 20.0
_KEEP_ERRORS = """window.errors = [];
addEventListener("error", event => errors.push(event.message));
addEventListener("unhandledrejection", event => errors.push(String(event.reason)));
addEventListener("securitypolicyviolation", event => errors.push(`${event.violatedDirective} ${event.blockedURI}`));"""
_KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), " ": (32, " ")}


class Page:
    """One page of a headless Chromium.

    Args:
        width: of its window in CSS pixels.
        height: of its window.
        is_dark: whether the reader asks for dark pages.
    """

    def __init__(self, *, width: int = 1280, height: int = 900, is_dark: bool = False) -> None:
        from choreographer import Browser

        self._loop = asyncio.Runner()
        self._browser = Browser(path=PROGRAM, headless=True, enable_gpu=False, enable_sandbox=os.geteuid() != 0)
        self._loop.run(self._browser.open())
        self._tab = self._loop.run(self._browser.create_tab("about:blank"))
        self._tell("Page.addScriptToEvaluateOnNewDocument", source=_KEEP_ERRORS)
        self.set_window(width=width, height=height)
        self.set_dark(is_dark)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.run(self._browser.close())
        self._loop.close()

    def open(self, file: Path) -> None:
        """Open a file. Figures are drawn when they come into view; `show` waits for one."""
        self._tell("Page.enable")
        self._tell("Page.navigate", url=file.resolve().as_uri())
        self.wait("document.readyState === 'complete' && typeof Figures === 'object'")

    def show(self, figure: str) -> None:
        """Scroll to a figure, and wait until it is drawn."""
        place = f"document.querySelector('[data-figure={json.dumps(figure)}]')"
        self.ask(f"{place}.scrollIntoView({{block: 'center'}})")
        self.wait(f"{place}.dataset.drawn")

    def set_window(self, *, width: int, height: int = 900) -> None:
        """Resize the window."""
        self._tell(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def set_dark(self, is_dark: bool) -> None:
        """Ask for dark or for light pages, as the reader's setting does."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
        self._tell("Emulation.setEmulatedMedia", features=features)

    def ask(self, expression: str) -> Any:
        """The value of an expression of JavaScript; what it throws fails the test."""
        answer = self._tell("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a condition in JavaScript holds."""
        until = (
            f"new Promise((done, failed) => {{ const end = Date.now() + {1000 * _PATIENCE_S:.0f};"
            f"const look = () => {{ if ({condition}) done(true); else if (Date.now() > end) failed('never'); "
            "else setTimeout(look, 20); }; look(); })"
        )
        assert self.ask(until), condition

    def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse."""
        x, y = self._middle(selector)
        self.move(x, y)
        self._click(x, y)

    def hover(self, figure: str, trace: str, index: int) -> str:
        """Move the mouse to a point of a figure. Returns the text that appears."""
        label = "document.querySelector('.hoverlayer')?.textContent"
        self.move(1, 1)
        self.wait(f"!{label}")
        self.move(*self._point(figure, trace, index))
        self.wait(label)
        return str(self.ask(label))

    def click_point(self, figure: str, trace: str, index: int, *, with_shift: bool = False) -> None:
        """Click a point of a figure; 0.6 s after the last click, or it is a double-click."""
        self.hover(figure, trace, index)
        self.ask("new Promise(done => setTimeout(done, 600))")
        self._click(*self._point(figure, trace, index), with_shift=with_shift)

    def _click(self, x: float, y: float, *, with_shift: bool = False) -> None:
        place = {"x": x, "y": y, "button": "left", "clickCount": 1, "modifiers": 8 if with_shift else 0}
        self._tell("Input.dispatchMouseEvent", type="mousePressed", **place)
        self._tell("Input.dispatchMouseEvent", type="mouseReleased", **place)

    def move(self, x: float, y: float) -> None:
        """Move the mouse to a place in the window."""
        self._tell("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        """Press a key where the focus is."""
        code, text = _KEYS[key]
        names = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self._tell("Input.dispatchKeyEvent", type="keyDown", text=text, **names)
        self._tell("Input.dispatchKeyEvent", type="keyUp", **names)

    def type(self, text: str) -> None:
        """Type a text where the focus is."""
        self._tell("Input.insertText", text=text)

    def _point(self, figure: str, trace: str, index: int) -> tuple[float, float]:
        """Where a point of a figure is in the window, after scrolling there."""
        place = f"document.querySelector('[data-figure={json.dumps(figure)}]')"
        x, y = self.ask(
            f"(() => {{ const place = {place}; place.scrollIntoView({{block: 'center'}});"
            f"const trace = place.data.find(one => one.name.endsWith({json.dumps(trace)}));"
            "const {left, top} = place.getBoundingClientRect(); const {xaxis, yaxis} = place._fullLayout;"
            f"return [left + xaxis._offset + xaxis.d2p(trace.x[{index}]),"
            f"top + yaxis._offset + yaxis.d2p(trace.y[{index}])]; }})()"
        )
        return float(x), float(y)

    def picture(self, *, whole: bool = False) -> bytes:
        """The window, or the whole page, as PNG."""
        return base64.b64decode(
            self._tell("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))["data"]
        )

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        width, height = self.ask("[innerWidth, document.documentElement.scrollHeight]")
        return {"clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}}

    def _middle(self, selector: str) -> tuple[float, float]:
        x, y = self.ask(
            f"(() => {{ const node = document.querySelector({json.dumps(selector)});"
            "node.scrollIntoView({block: 'center'}); const box = node.getBoundingClientRect();"
            "return [box.left + box.width / 2, box.top + box.height / 2]; })()"
        )
        return float(x), float(y)

    def _tell(self, command: str, **parameters: Any) -> dict[str, Any]:
        answer = self._loop.run(asyncio.wait_for(self._tab.send_command(command, parameters), 2 * _PATIENCE_S))
        assert "error" not in answer, answer
        return dict(answer["result"])
