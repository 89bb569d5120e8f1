"""What the documentation shows: each page's Python runs from top to bottom, links lead somewhere,
pictures can be drawn again.
"""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")
ANCHOR = re.compile(r"\]\(([^)\s#]*)#([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FILE = re.compile(r"`((?:inrreg|graphreg|experiments|tests|docs)/[\w./]*)`")
MODULE = re.compile(r"`((?:inrreg|graphreg)(?:\.\w+)+)")


def page_name(page: Path) -> str:
    """``docs/evidence/presets.md``, to tell it from ``docs/presets.md``."""
    return page.relative_to(ROOT).as_posix()


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
    ids=page_name,
)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    assert run(page.read_text(encoding="utf-8"), str(page))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    targets = [
        target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target
    ]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def anchors(text: str) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_to_headings_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [
        (page.parent / name if name else page, anchor) for name, anchor in ANCHOR.findall(text)
    ]
    assert [
        f"{target}#{anchor}"
        for target, anchor in targets
        if "://" not in str(target) and anchor not in anchors(target.read_text(encoding="utf-8"))
    ] == []


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    first, *others = dotted.split(".")
    found: object = importlib.import_module(first)
    for depth, name in enumerate(others, 2):
        module = ".".join(dotted.split(".")[:depth])
        is_package = hasattr(found, "__path__")
        if is_package and importlib.util.find_spec(module) is not None:
            found = importlib.import_module(module)
        elif hasattr(found, name):
            found = getattr(found, name)
        else:
            return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_files_and_modules_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [name for name in FILE.findall(text) if not (ROOT / name).exists()] == []
    assert [name for name in MODULE.findall(text) if not resolves(name)] == []


def test_new_names_of_the_changelog_exist() -> None:
    """Each row of its tables is an old name and what it is called now."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    rows = [line.split("|")[2:] for line in text.splitlines() if line.startswith("| `")]
    names = [name for cells in rows for name in MODULE.findall("|".join(cells))]
    assert len(names) > 80
    assert [name for name in names if not resolves(name)] == []


def test_a_wrong_name_is_found() -> None:
    assert resolves("inrreg.core.grid.Grid")
    assert resolves("inrreg.register")
    assert not resolves("inrreg.core.grid.Attic")
    assert not resolves("inrreg.attic")
    assert anchors("# A `b` (c)\n\n## Two, three\n") == {"a-b-c", "two-three"}


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
