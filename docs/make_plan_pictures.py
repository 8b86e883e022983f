"""Makes the two pictures of a plan in docs/images from the real command.

    python docs/make_plan_pictures.py

Needs Chromium, pdftoppm and Pillow (the extra ``train``).
"""

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from planner.plan_file import read_plan
from planner.report.terminal import show_plan

IMAGES = Path(__file__).with_name("images")
WORDS = ("+experiment=mgm_lora", "planner.deadline_hours=24", "planner.budget=200")
_GAP_PX = 10


def main() -> None:
    """Plans, draws the terminal page as SVG and the first two sheets of paper as PNG."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        files = (f"report={place / 'report.html'}", f"plan={place / 'plan.json'}")
        command = [sys.executable, "-m", "planner", *WORDS, *files]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (IMAGES / "plan-terminal.svg").write_text(terminal_svg(place / "plan.json"))
        write_sheets(place, IMAGES / "plan-report.png")


def terminal_svg(plan: Path) -> str:
    """The plan as a terminal of 100 columns shows it, without fonts from elsewhere."""
    console = Console(
        width=100, force_terminal=True, record=True, file=io.StringIO(), color_system="truecolor"
    )
    show_plan(console, read_plan(plan))
    drawn = console.export_svg(title=f"python -m planner {' '.join(WORDS)}")
    drawn = re.sub(r"@font-face\s*\{.*?\}|<!--.*?-->", "", drawn, flags=re.DOTALL)
    return drawn.replace("Fira Code,", "DejaVu Sans Mono, Menlo, Consolas,").replace(
        "Fira Code", "monospace"
    )


def write_sheets(place: Path, target: Path) -> None:
    """Prints the page on paper and sets the first two sheets side by side."""
    from PIL import Image

    printed = place / "report.pdf"
    browser = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu"]
    browser += [f"--user-data-dir={place / 'browser'}", "--no-pdf-header-footer"]
    browser += [f"--print-to-pdf={printed}", f"file://{place / 'report.html'}"]
    subprocess.run(browser, check=True, timeout=60, capture_output=True)
    sheets = ["pdftoppm", "-r", "72", "-png", "-f", "1", "-l", "2", str(printed), f"{place}/sheet"]
    subprocess.run(sheets, check=True)
    left, right = (Image.open(path) for path in sorted(place.glob("sheet*.png")))
    size = (left.width + right.width + 3 * _GAP_PX, left.height + 2 * _GAP_PX)
    both = Image.new("RGB", size, "#8a929b")
    both.paste(left, (_GAP_PX, _GAP_PX))
    both.paste(right, (left.width + 2 * _GAP_PX, _GAP_PX))
    both.quantize(128).save(target, optimize=True)


if __name__ == "__main__":
    main()
