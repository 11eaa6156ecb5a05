"""The page in a real Chromium: no console error, nothing fetched, nothing wider than the window."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from run_maker import RunMaker

from voxbench.reports.pages.report import write_report

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no chromium is installed (Debian: apt-get install chromium)")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--log-level=0",
]
# Stands in a page around the report and tells, as its title, what the report looks like from inside.
PROBE = """<!DOCTYPE html><title>probe</title>
<iframe id="it" width="{width}" height="900" src="{page}"></iframe>
<script>document.getElementById("it").addEventListener("load", () => {{
  const doc = document.getElementById("it").contentDocument;
  const images = [...doc.images];
  document.body.dataset.seen = JSON.stringify({{
    overflow: doc.documentElement.scrollWidth - doc.documentElement.clientWidth,
    images: images.length,
    broken: images.filter((image) => !image.complete || image.naturalWidth === 0).length,
    unnamed: images.filter((image) => !image.alt).length,
    dead: [...doc.querySelectorAll("nav a")].filter((a) => !doc.querySelector(a.getAttribute("href"))).length,
    headline: doc.querySelector(".headline").textContent,
  }});
}});</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    methods = {"residual": 1.5, "byol": 1.15, "supervised": 0.9}
    maker = RunMaker(
        methods=methods, fractions=(0.1, 1.0), fail=lambda m, f, k, s: "no" if m + str(k) == "byol1" else ""
    )
    return write_report(maker.write(tmp_path_factory.mktemp("page") / "run")).page


def chromium(profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def console_lines(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if "CONSOLE" in line]


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_in_chromium(page: Path, tmp_path: Path, width: int) -> None:
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(width=width, page=page.as_uri()), encoding="utf-8")
    flags = ["--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom", probe.as_uri()]
    done = chromium(tmp_path / "profile", *flags)
    assert console_lines(done.stderr) == []
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, "the page did not load"
    seen = json.loads(found.group(1).replace("&quot;", '"'))
    assert seen["images"] >= 8
    assert (seen["overflow"], seen["broken"], seen["unnamed"], seen["dead"]) == (0, 0, 0, 0)
    assert seen["headline"].startswith("With 10 % of the labels")


@needs_chromium
def test_a_console_error_would_be_seen(tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text("<script>nowhere()</script>", encoding="utf-8")
    done = chromium(tmp_path / "profile", "--dump-dom", broken.as_uri())
    assert any("nowhere is not defined" in line for line in console_lines(done.stderr))


@needs_chromium
def test_prints(page: Path, tmp_path: Path) -> None:
    pdf = tmp_path / "page.pdf"
    done = chromium(tmp_path / "profile", "--no-pdf-header-footer", f"--print-to-pdf={pdf}", page.as_uri())
    assert console_lines(done.stderr) == []
    assert pdf.read_bytes().startswith(b"%PDF")


def test_nothing_is_fetched(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    sources = re.findall(r'\b(?:src|href)="([^"]{1,40})', text)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"@import|url\(|<script|<link rel=.stylesheet", text)


def test_errors_are_escaped(make_run: Callable[..., Path]) -> None:
    run = make_run(methods={"byol": 1.2}, fail=lambda m, f, k, s: "<script>alert(1)</script>" if k == 0 else "")
    text = write_report(run).page.read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
