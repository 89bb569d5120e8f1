"""The house stands as docs/architecture.md draws it: arrows point down, one owner of each convention, nothing too long to read."""

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch

from inrreg.image import Points
from inrreg.separable import basis

ROOT = Path(__file__).parent.parent
PACKAGES = ("inrreg", "graphreg")

FLOORS = [
    {"errors", "space", "threads"},
    {"banded", "distances", "image", "interpolation", "kernels", "masks", "matrix", "separable", "sampling", "windows", "fields", "checkpoint", "training"},
    {"warp", "sites", "step", "transforms", "similarity", "penalties", "optimisation", "features"},
    {"registration", "refinement", "bidirectional", "start", "alignment", "pyramid", "pair", "stage", "guarded", "metamorphosis", "graphreg"},
    {"presets", "io", "report", "evaluation", "phantoms", "checks", "measure", "settings", "result", "judge", "pairs", "contrasts", "lesions", "memory", "amortised"},
    {"recipes", "plan", "demo", "doctor", "console", "cli", "cohort", "__main__"},
]
"""Rooms from the ground up: a room may use those of its own floor and of the floors below."""

UPWARD_ON_PURPOSE = {
    ("inrreg/image.py", "io"): "Image.to_sitk hands an image to SimpleITK where the user holds it; imported when called, and io alone knows LPS",
}

GRAPHREG_USERS = {"presets", "recipes", "cli"}
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
HEAVY = ("SimpleITK", "nibabel", "matplotlib", "networkx", "tyro", "rich", "scipy.ndimage", "pydicom", "numba")


def room(module: str) -> str:
    """``inrreg.io.itk`` -> ``io``, ``graphreg.graph`` -> ``graphreg``, ``inrreg`` itself -> ``inrreg``."""
    parts = module.split(".")
    return parts[0] if parts[0] == "graphreg" or len(parts) == 1 else parts[1]


def floor(name: str) -> int:
    """The floor of a room; the packages' own front door stands above all."""
    if name == "inrreg":
        return len(FLOORS)
    found = [height for height, rooms in enumerate(FLOORS) if name in rooms]
    if len(found) != 1:
        raise LookupError(f"the room {name!r} stands on no floor: place it in FLOORS in tests/test_architecture.py, as low as its imports allow")
    return found[0]


def behind_the_door(name: str) -> str:
    """What ``inrreg.name`` is: a module, or something that the front door hands out."""
    is_module = any(name in rooms for rooms in FLOORS) or (ROOT / "inrreg" / name).is_dir() or (ROOT / "inrreg" / f"{name}.py").is_file()
    return f"inrreg.{name}" if is_module else "inrreg"


def imported_rooms(tree: ast.AST, file: str) -> set[str]:
    """The rooms that a module imports anywhere, in functions too; asking the package for its version is free."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names if alias.name != "inrreg"}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "inrreg" and node.attr != "__version__":
            modules.add(behind_the_door(node.attr))
        elif isinstance(node, ast.ImportFrom):
            package = file.removesuffix(".py").split("/")[: -node.level] if node.level else []
            source = ".".join([*package, *(node.module or "").split(".")]).rstrip(".")
            modules |= {behind_the_door(alias.name) for alias in node.names if alias.name != "__version__"} if source == "inrreg" else {source}
    return {room(module) for module in modules if module.split(".")[0] in PACKAGES}


def upward_imports(source: str, file: str) -> list[str]:
    own = room(file.removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
    height, used = floor(own), imported_rooms(ast.parse(source), file)
    up = [f"{file} ({own}, floor {height}) imports {other} (floor {floor(other)})" for other in sorted(used) if floor(other) > height and (file, other) not in UPWARD_ON_PURPOSE]
    return up + [f"{file} imports graphreg, which is for {', '.join(sorted(GRAPHREG_USERS))} alone" for other in used if other == "graphreg" and own not in GRAPHREG_USERS | {"graphreg"}]


def sources() -> Iterator[tuple[str, str]]:
    """Path from the root and text of every module."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def names_and_words(source: str) -> str:
    """What the code works with: identifiers and one-word strings; no comments, docstrings or sentences to the user."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return " ".join(token.string for token in tokens if token.type == tokenize.NAME or (token.type == tokenize.STRING and " " not in token.string))


def sign_flips(tree: ast.AST) -> list[int]:
    """Lines with a literal -1, -1, 1: what turns LPS into RAS and back."""
    rows = [(node.lineno, [ast.unparse(e).removesuffix(".0") for e in node.elts[:3]]) for node in ast.walk(tree) if isinstance(node, ast.List | ast.Tuple)]
    return sorted(line for line, row in rows if row == ["-1", "-1", "1"])


def calls(tree: ast.AST, name: str) -> list[int]:
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name]


def test_imports_point_down() -> None:
    assert [line for file, source in sources() for line in upward_imports(source, file)] == []


def test_every_exception_to_the_arrows_is_still_needed() -> None:
    for file, other in UPWARD_ON_PURPOSE:
        assert other in imported_rooms(ast.parse((ROOT / file).read_text(encoding="utf-8")), file), f"{file} no longer imports {other}: strike the exception"


def test_grid_sample_has_one_caller() -> None:
    found = [f"{file}: {word}" for file, source in sources() for word in ("grid_sample", "affine_grid", "align_corners") if word in source and file != "inrreg/sampling.py"]
    assert found == []


def test_only_io_knows_lps() -> None:
    elsewhere = [(file, source) for file, source in sources() if not file.startswith("inrreg/io/")]
    assert [file for file, source in elsewhere if "LPS" in names_and_words(source)] == []
    assert [f"{file}:{line}" for file, source in elsewhere for line in sign_flips(ast.parse(source))] == []


def test_only_the_command_line_prints() -> None:
    assert [f"{file}:{line}" for file, source in sources() if file != "inrreg/cli.py" for line in calls(ast.parse(source), "print")] == []


def test_files_can_be_read_at_one_sitting() -> None:
    assert {file: lines for file, source in sources() if (lines := source.count("\n")) > LONGEST_FILE} == {}


def test_functions_fit_on_a_screen() -> None:
    functions = [(file, node) for file, source in sources() for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {f"{file}:{node.lineno} {node.name}": length for file, node in functions if (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION} == {}


def test_annotations_are_not_postponed() -> None:
    """Shape annotations are checked in these tests, which needs them evaluated."""
    assert [file for file, source in sources() if "from __future__ import annotations" in source] == []


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = f"import sys, inrreg; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"


# --- these checks can fail ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("inrreg/space.py", "from inrreg.image import Image"),
        ("inrreg/sampling.py", "def f():\n    import inrreg.transforms.base"),
        ("inrreg/transforms/base.py", "from inrreg import io"),
        ("inrreg/transforms/base.py", "from ..io import nifti"),
        ("inrreg/transforms/base.py", "from inrreg import Grid"),
        ("inrreg/transforms/base.py", "import inrreg\ninrreg.Grid((2, 2), affine)"),
        ("inrreg/transforms/base.py", "import inrreg\ninrreg.io.read_image(path)"),
        ("inrreg/image.py", "from inrreg.report import page"),
        ("inrreg/report/page.py", "from graphreg.keypoints import Foerstner"),
        ("graphreg/graph.py", "from inrreg.io import read_image"),
        ("inrreg/registration.py", "from inrreg.cli import main"),
    ],
)
def test_upward_imports_are_found(file: str, source: str) -> None:
    assert len(upward_imports(source, file)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("inrreg/sampling.py", "from inrreg.image import Image\nfrom inrreg.separable import basis"),
        ("inrreg/image.py", "from inrreg.io.itk import image_to_sitk"),
        ("inrreg/recipes.py", "from graphreg import registration\nfrom inrreg import __version__"),
        ("graphreg/graph.py", "from graphreg.keypoints import x\nfrom inrreg.space import Grid\nimport torch"),
        ("inrreg/transforms/base.py", "import inrreg\nversion = inrreg.__version__"),
        ("inrreg/__init__.py", "from inrreg.recipes import register"),
    ],
)
def test_downward_imports_are_not(file: str, source: str) -> None:
    assert upward_imports(source, file) == []


def test_an_unplaced_room_is_named() -> None:
    with pytest.raises(LookupError, match="the room 'attic' stands on no floor: place it in FLOORS"):
        upward_imports("import torch", "inrreg/attic.py")


def test_prose_is_told_from_code() -> None:
    prose = '"""LPS here."""\n\n\ndef f():\n    """Not LPS."""\n    raise ValueError("this file is LPS")  # LPS\n'
    assert "LPS" not in names_and_words(prose)
    assert "LPS" in names_and_words('frame = "LPS"\n')
    assert "LPS" in names_and_words("x = LPS_FROM_RAS @ y\n")


def test_sign_flips_are_found() -> None:
    assert sign_flips(ast.parse("a = np.diag([-1, -1, 1])\n\nb = (-1.0, -1.0, 1.0, 1.0)\nc = (1, -1, 1)")) == [1, 3]


def test_shapes_are_checked_while_the_tests_run() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="coords"):
        Points(torch.zeros(3))
    with pytest.raises(jaxtyping.TypeCheckError, match="voxels"):
        basis(torch.zeros(2, 2), 4)
