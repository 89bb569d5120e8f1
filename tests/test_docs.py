"""What the documentation shows: each page's Python runs from top to bottom, links lead somewhere,
pictures can be drawn again.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")


def blocks(text: str) -> list[tuple[int, str]]:
    """The Python blocks of a page, each with the line on which it begins."""
    return [(text.count("\n", 0, match.start(1)), match.group(1)) for match in BLOCK.finditer(text)]


def run(text: str, name: str) -> dict[str, object]:
    """Execute the blocks of a page in one namespace; tracebacks show the page's own lines."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, block in blocks(text):
        exec(compile("\n" * line + block, name, "exec"), namespace)
    return namespace


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks(page.read_text(encoding="utf-8"))],
    ids=lambda page: page.name,
)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    assert run(page.read_text(encoding="utf-8"), str(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    targets = [
        target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target
    ]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_picture_of_the_frames_can_be_drawn_again(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "docs" / "figures" / "frames.py"), str(tmp_path)],
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    drawn, kept = (folder / "frames.png" for folder in (tmp_path, ROOT / "docs"))
    # width and height; fonts differ between machines
    assert drawn.read_bytes()[16:24] == kept.read_bytes()[16:24]


def test_a_page_that_fails_says_in_which_line() -> None:
    page = (
        "# Title\n\n```python\nx = 1\n```\n\ntext\n\n```python\nassert x == 2\n```\n\n```\nnot"
        " python\n```\n"
    )
    assert [line for line, _ in blocks(page)] == [3, 9]
    with pytest.raises(AssertionError) as failure:
        run(page, "page.md")
    assert failure.traceback[-1].lineno == 9  # counted from 0: line 10 of the page
