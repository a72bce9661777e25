"""The page of a report: what is in it, and that it is one file and safe."""

from __future__ import annotations

import base64
import html
import json
import re
from html.parser import HTMLParser

import pytest
from browser import CHROMIUM, INSTALL, Browser

from ling.errors import UsageError
from ling.train.log import read_metrics
from ling.train.report.page import page, report
from ling.train.report.runs import read_run, read_runs


def data_of(text):
    (found,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)
    return json.loads(found)


class Elements(HTMLParser):
    """Names and attributes of all elements; every one that opens must close."""

    VOID = ("meta", "input", "br", "link", "img")

    def __init__(self, text):
        super().__init__()
        self.found, self._open = [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def test_values_are_those_of_the_log(run_folder):
    folder = run_folder()
    (run,) = data_of(page(read_runs([folder])))
    rows = read_metrics(folder / "metrics.jsonl")
    for key in ("loss", "mtp_loss", "grad_norm", "tokens_per_s", "lr", "mfu"):
        curve = run["series"][key]
        assert curve["x"] == [r["step"] for r in rows]
        assert curve["y"] == pytest.approx([r[key] for r in rows], rel=1e-6)
    parts = run["series"]["grad_norms/experts"]["y"]
    assert parts == [r["grad_norms"]["experts"] for r in rows]
    assert run["skipped"] == [3]


def test_loads_are_there_by_span_layer_and_expert(run_folder):
    (run,) = data_of(page(read_runs([run_folder()])))
    loads = run["loads"]
    codes = base64.b64decode(loads["codes"])
    assert (loads["layers"], loads["experts"]) == (["1", "2"], 3)
    assert len(codes) == len(loads["spans"]) * 6
    # 3, 0 and 9 of a mean of 4; then each the mean.
    assert list(codes[:6]) == [118, 0, 156, 128, 128, 128]
    assert loads["peak"][0] == [2.25, 1.0]
    assert loads["dead"][0] == [1, 0]


def test_the_page_is_one_file_that_asks_for_nothing(run_folder):
    text = page(read_runs([run_folder("a"), run_folder("b")]))
    elements = Elements(text).found
    addresses = [
        v for _, a in elements for k, v in a.items() if k in ("src", "href", "data", "action")
    ]
    assert addresses == []
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", text)
    policy = next(a["content"] for t, a in elements if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert "@@" not in text


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "</script><b>", "a&b\"'", "@@DATA@@", "é –"]
)
def test_a_name_with_html_in_it_is_text(run_folder, name):
    run = read_run(run_folder(), "plain")
    run.recipe = {"model": "plain"}
    plain = Elements(page([run])).found
    run.name, run.recipe = name, {"model": name}
    text = page([run])
    assert Elements(text).found == plain
    assert data_of(text)[0]["name"] == name
    assert html.escape(name) in text


def test_a_long_run_makes_a_small_page(run_folder):
    text = page([read_run(run_folder(steps=30_000), "a")])
    assert len(text) < 600_000
    (run,) = data_of(text)
    assert len(run["series"]["loss"]["x"]) == 800
    assert run["series"]["loss"]["hi"][0] == 5.0


def test_a_folder_without_a_log_leaves_no_page(run_folder, tmp_path):
    target = tmp_path / "page.html"
    with pytest.raises(UsageError, match=r"no metrics\.jsonl"):
        report([run_folder(), tmp_path], target)
    assert not target.exists()


def test_a_run_that_is_named_twice_is_there_once(run_folder, tmp_path):
    folder = run_folder()
    count = report([folder, folder / "."], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert count == len(text.encode())
    assert len(data_of(text)) == 1


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason=f"no Chromium ({INSTALL})")
def test_a_browser_draws_every_curve_without_an_error(run_folder, tmp_path):
    report([run_folder("<img src=x onerror=alert(1)>"), run_folder("b")], tmp_path / "page.html")
    curves = "document.querySelector('svg.chart').querySelectorAll('path').length"
    with Browser(tmp_path / "profile") as browser:
        shown = browser.page(dark=True)
        shown.open(f"file://{tmp_path}/page.html")
        every = "[...document.querySelectorAll('svg.chart')]"
        assert shown.js(f"{every}.length") >= 12
        assert shown.js(f"{every}.every(s => s.querySelector('path, circle'))")
        assert shown.js("document.querySelectorAll('img').length") == 0
        assert shown.js(curves) == 2
        shown.click("#runs button")
        assert shown.js(curves) == 1
        shown.click("#log")
        assert shown.js(curves) == 1
        chart = "document.querySelector('svg.chart')"
        shown.js(f"{chart}.scrollIntoView({{block: 'center'}})")
        box = shown.js(f"(b => [b.x, b.y])({chart}.getBoundingClientRect())")
        shown.move(box[0] + 200, box[1] + 60)
        shown.wait("document.querySelector('.tip:not([hidden])').innerText.includes('step ')")
        shown.resize(360, 740)
        assert shown.js("document.documentElement.scrollWidth") <= 360
        assert shown.complaints() == []
        assert shown.requests() == [f"file://{tmp_path}/page.html"]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason=f"no Chromium ({INSTALL})")
def test_fp8_is_shown_of_the_runs_that_have_it_and_its_cosines_are_told_apart(run_folder, tmp_path):
    part = "gradients/experts"
    fp8 = run_folder("fp8", fp8_underflow={part: 2e-4}, fp8_cosine={part: 0.99964})
    log = fp8 / "metrics.jsonl"
    log.write_text(log.read_text().replace("0.99964", "0.999655", 5))
    report([run_folder("bf16"), fp8], tmp_path / "page.html")
    with Browser(tmp_path / "profile") as browser:
        shown = browser.page()
        shown.open(f"file://{tmp_path}/page.html")
        chart = "[...document.querySelectorAll('svg.chart')].at(-1)"
        assert "Cosine" in shown.js(f"{chart}.getAttribute('aria-label')")
        assert shown.js(f"{chart}.querySelectorAll('path').length") == 1
        marks = shown.js(
            f"[...{chart}.querySelectorAll('text[text-anchor=end]')].map(t => t.textContent)"
        )
        assert len(marks) == len(set(marks)) > 1
        assert all(0.9996 < float(mark) < 0.9997 for mark in marks)
        assert shown.complaints() == []
