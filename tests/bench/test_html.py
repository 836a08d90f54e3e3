"""The HTML report: whole, safe, small, and opened by a real browser without a network."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.bench.example_results import MODEL, TARGET, preset_run, run, step
from tgi.bench.html import render
from tgi.bench.results import Ratio, Run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "link", "br", "path", "circle", "rect"}


class Page(HTMLParser):
    """The elements of a page, checked for being closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data + "\n"

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def compared() -> Run:
    steps = tuple(step(streams, target=target) for streams in (1, 8) for target in (0, 1))
    ratios = (
        Ratio(load="8 streams", metric="output_token_rate", statistic="median", a=100.0, b=112.0, ratio=1.12,
              low=1.08, high=1.15, better="B"),
        Ratio(load="8 streams", metric="ttft_ms", statistic="median", a=100.0, b=101.0, ratio=1.01, low=0.9, high=1.1,
              better=None),
    )  # fmt: skip
    other = replace(TARGET, url="http://127.0.0.1:3001", server="tgi 3.3.5")
    return replace(run(steps, targets=(TARGET, other)), comparison=ratios, verdict="B is 1.12 times as fast")


RUNS: dict[str, Sequence[Run]] = {
    "streams": (run(),), "preset": (preset_run(),), "compared": (compared(),), "several": (run(), preset_run()),
    "bare": (replace(run(tuple(replace(s, traces=(), samples=(), roofs=()) for s in run().steps)), roof=None),),
    "empty": (replace(run(), steps=()),),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_page_is_well_formed_and_needs_nothing_else(name: str) -> None:
    text = render(*RUNS[name])
    page = Page(text)
    assert page.open == []
    assert len(text.encode()) < 1_000_000
    for tag, attributes in page.elements:
        assert tag not in ("script", "img", "iframe", "object")
        for key in ("src", "href", "xlink:href"):
            assert not (attributes.get(key) or "data:").startswith(("http", "//", "file"))
        if tag == "svg" and "aria-hidden" not in attributes:
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
    assert "@import" not in text
    assert "url(" not in text
    assert "prefers-color-scheme:dark" in text
    assert page.count("caption") == page.count("table")


def test_a_page_says_how_to_measure_again() -> None:
    page = Page(render(run()))
    for words in (run().command, "AMD EPYC-Milan", "tgi 4.0.0", str(MODEL.hash), str(MODEL.revision), MODEL.id,
                  "ttft=500", "2 of 40 requests failed", "Linux"):  # fmt: skip
        assert words in page.words, words
    assert re.search(r"Seed\s+0\s", page.words)


def test_the_figures_are_those_of_the_result() -> None:
    page = Page(render(run()))
    for done in run().steps:
        assert done.summary.ttft_ms is not None
        assert f"{done.summary.ttft_ms.p99:.2f} ms" in page.words
        assert f"{done.summary.output_token_rate:.2f}" in page.words
    assert "1 stream: 81.2 tokens/s at" in page.words.replace("http://127.0.0.1:3000, ", "")  # on hovering
    assert page.count("svg") >= 4 * 3 + 6


def test_a_comparison_leads_with_its_verdict() -> None:
    words = Page(render(compared())).words
    assert words.index("B is 1.12 times as fast") < words.index("Throughput and latency by load")
    assert "1.120 (1.080 to 1.150)" in words
    assert "http://127.0.0.1:3001" in words


def test_what_others_wrote_is_text_and_nothing_else() -> None:
    evil = '<script>alert("1")</script>'
    target = replace(TARGET, url=evil, server=evil, model=replace(MODEL, id=evil, hash=evil))
    first = step(2)
    label = replace(first, load=replace(first.load, label=evil))
    text = render(replace(run((label,), targets=(target,)), command=evil, notes=(evil,), verdict=evil))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert Page(text).open == []


def test_a_long_sweep_with_many_requests_stays_below_a_megabyte() -> None:
    long = step(8)
    traces = tuple(replace(trace, number=number) for number, trace in enumerate(long.traces * 25))
    samples = tuple(replace(sample, at_s=0.25 * number) for number, sample in enumerate(long.samples * 100))
    steps = tuple(
        replace(long, load=replace(long.load, label=f"{n} streams"), traces=traces, samples=samples) for n in range(64)
    )
    assert len(render(run(steps)).encode()) < 1_000_000


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_without_a_network_draws_it_without_complaint(scheme: str, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    page, picture = tmp_path / "report.html", tmp_path / "report.png"
    page.write_text(render(compared()), encoding="utf-8")
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9", "--enable-logging=stderr", "--v=0",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,800", f"--screenshot={picture}",
        *(["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []),
    ]  # fmt: skip
    done = subprocess.run([CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=False)
    assert picture.stat().st_size > 10_000, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr
