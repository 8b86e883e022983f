"""The page in a real browser: nothing is fetched, nothing overlaps, it prints."""

import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from plans import ALL

from planner.report.html import render_html

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium or google-chrome here: the page is looked at in a browser"
)

# Runs around the page, in a frame of every width: the page itself allows no script.
HARNESS = """<!DOCTYPE html><body><script>
const found = {};
const boxes = (root) => [...root.querySelectorAll("text")].map((node) => {
  const r = node.getBoundingClientRect();
  return {text: node.textContent, left: r.left, right: r.right, top: r.top, bottom: r.bottom};
});
const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 4 && b.top < a.bottom - 4;
function look(width) {
  return new Promise((done) => {
    const frame = document.createElement("iframe");
    frame.style.cssText = `width:${width}px;height:900px;border:0`;
    frame.onload = () => {
      const page = frame.contentDocument, touching = [], outside = [];
      for (const chart of page.querySelectorAll("svg[role=img]")) {
        const labels = boxes(chart), edge = chart.getBoundingClientRect();
        labels.forEach((a, i) => {
          if (a.left < edge.left - 1 || a.right > edge.right + 1 || a.bottom > edge.bottom + 1) outside.push(a.text);
          labels.slice(i + 1).forEach((b) => { if (meet(a, b)) touching.push([a.text, b.text]); });
        });
      }
      found[width] = {
        wide: page.documentElement.scrollWidth, touching, outside, loaded: frame.contentWindow.performance
          .getEntriesByType("resource").map((entry) => entry.name), text: page.body.innerText.length,
      };
      frame.remove();
      done();
    };
    frame.src = "page.html";
    document.body.append(frame);
  });
}
(async () => {
  for (const width of [360, 400, 768, 1280]) await look(width);
  document.body.innerHTML = "<pre id=found></pre>";
  document.getElementById("found").textContent = JSON.stringify(found);
})();
</script></body>"""


def browse(tmp_path: Path, *words: str) -> str:
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", *words,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture
def site(tmp_path) -> Iterator[tuple[str, Path, list[str]]]:
    """A server that keeps what was asked of it; all names in the world lead to it."""
    asked: list[str] = []
    root = tmp_path / "site"
    root.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def log_message(self, *args):
            asked.append(f"{self.headers.get('Host')}{self.path}")

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", root, asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ALL)
def test_nothing_overlaps_or_sticks_out_at_any_width(tmp_path, site, name):
    host, root, _ = site
    (root / "page.html").write_text(render_html(ALL[name]()), encoding="utf-8")
    (root / "look.html").write_text(HARNESS)
    dom = browse(tmp_path, "--virtual-time-budget=8000", "--dump-dom", f"http://{host}/look.html")
    found = json.loads(re.search(r'<pre id="found">(.*)</pre>', dom)[1].replace("&amp;", "&").replace("&gt;", ">").replace("&lt;", "<"))  # fmt: skip
    assert set(found) == {"360", "400", "768", "1280"}
    for width, page in found.items():
        assert page["wide"] <= int(width), "the page must not scroll sideways"
        assert page["touching"] == []
        assert page["outside"] == []
        assert page["loaded"] == []
        assert page["text"] > 1000


def test_the_browser_fetches_nothing_but_the_page(tmp_path, site):
    host, root, asked = site
    (root / "page.html").write_text(render_html(ALL["hostile"]()), encoding="utf-8")
    (root / "leaky.html").write_text('<img src="http://elsewhere.example/pixel.png">')
    rules = f"--host-resolver-rules=MAP *.example {host}"
    browse(tmp_path, rules, "--dump-dom", f"http://{host}/leaky.html")
    assert any("pixel.png" in line for line in asked), "the server must see what a page loads"
    asked.clear()
    browse(tmp_path, rules, "--dump-dom", f"http://{host}/page.html")
    assert asked == [f"{host}/page.html"]


@pytest.mark.parametrize("name", ["small", "large", "infeasible"])
def test_page_prints_on_a_few_sheets(tmp_path, name):
    page, paper = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(render_html(ALL[name]()), encoding="utf-8")
    browse(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={paper}", page.as_uri())
    sheets = len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes()))
    assert 2 <= sheets <= 6
