"""The house stands as docs/architecture.md draws it: arrows point down, one owner of each
convention, nothing too long to read.
"""

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import networkx
import pytest
import torch

from inrreg.core.image import Points
from inrreg.ops.separable import basis

ROOT = Path(__file__).parent.parent
PACKAGES = ("inrreg", "graphreg")

FLOORS = (
    {"core"},
    {"ops"},
    {"fields"},
    {"transforms"},
    {"objective", "io", "evaluation"},
    {"similarity", "penalties", "optimisation", "phantoms", "report"},
    {"stages", "graphreg"},
    {"metamorphosis", "amortised"},
    {"presets"},
    {"app"},
    {"inrreg"},
)
"""Rooms from the ground up: a room uses those of the floors below. The last is the front door."""

GRAPHREG_USERS = {"presets", "app", "graphreg"}
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
MANY_VALUES = {
    "graphreg/cost_volume.py": 1,
    "graphreg/search.py": 1,
    "inrreg/amortised/network.py": 1,
    "inrreg/app/exit_codes.py": 1,
    "inrreg/app/memory.py": 1,
    "inrreg/metamorphosis/fit.py": 1,
    "inrreg/metamorphosis/posterior.py": 1,
    "inrreg/metamorphosis/shooting.py": 2,
    "inrreg/objective/step.py": 2,
    "inrreg/ops/adam_step/compiled.py": 2,
    "inrreg/ops/banded/compiled.py": 2,
    "inrreg/ops/bending_energy/compiled.py": 3,
    "inrreg/ops/blur/compiled.py": 2,
    "inrreg/ops/channel_sums/compiled.py": 3,
    "inrreg/ops/determinants/compiled.py": 2,
    "inrreg/ops/distances/compiled.py": 5,
    "inrreg/ops/farthest_points/__init__.py": 1,
    "inrreg/ops/farthest_points/compiled.py": 2,
    "inrreg/ops/interpolation/compiled.py": 11,
    "inrreg/ops/loops/correlation.py": 11,
    "inrreg/ops/min_convolution/compiled.py": 3,
    "inrreg/ops/patch_differences/compiled.py": 7,
    "inrreg/ops/spline_at_points/compiled.py": 4,
    "inrreg/ops/spline_jacobian/__init__.py": 1,
    "inrreg/ops/spline_jacobian/compiled.py": 4,
    "inrreg/ops/total_variation/compiled.py": 1,
    "inrreg/ops/window_correlations/compiled.py": 3,
    "inrreg/optimisation/moments.py": 1,
    "inrreg/optimisation/training_loop.py": 1,
    "inrreg/penalties/inverse_consistency.py": 2,
    "inrreg/report/panels.py": 1,
    "inrreg/similarity/local.py": 3,
    "inrreg/stages/initial_translation.py": 2,
}
"""Assignments of three or more values that are left in each file. It may only shrink."""
COMMAND_LINE = ("inrreg/app/command_line", "inrreg/app/console")
"""How the paths begin of what may write to the terminal."""
HEAVY = (
    "SimpleITK",
    "nibabel",
    "matplotlib",
    "networkx",
    "tyro",
    "rich",
    "scipy.ndimage",
    "pydicom",
    "numba",
)


def room(module: str) -> str:
    """``inrreg.io.itk`` -> ``io``, ``graphreg.graph`` -> ``graphreg``, ``inrreg`` itself ->
    ``inrreg``.
    """
    parts = module.split(".")
    return parts[0] if parts[0] == "graphreg" or len(parts) == 1 else parts[1]


def floor(name: str) -> int:
    """The floor of a room."""
    found = [height for height, rooms in enumerate(FLOORS) if name in rooms]
    if len(found) != 1:
        raise LookupError(
            f"the room {name!r} stands on no floor: place it in FLOORS in"
            " tests/test_architecture.py, as low as its imports allow"
        )
    return found[0]


def module_of(file: str) -> str:
    """``inrreg/io/itk.py`` -> ``inrreg.io.itk``, ``inrreg/io/__init__.py`` -> ``inrreg.io``."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported_modules(tree: ast.AST, file: str) -> set[str]:
    """What a module imports anywhere, in functions too; asking the package for its version is free.

    A name that is imported from a package comes as ``package.name``, for it may be a module.
    """
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names if alias.name != "inrreg"}
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "inrreg"
        ):
            modules.add(f"inrreg.{node.attr}")
        elif isinstance(node, ast.ImportFrom):
            package = file.removesuffix(".py").split("/")[: -node.level] if node.level else []
            source = ".".join([*package, *(node.module or "").split(".")]).rstrip(".")
            modules |= {f"{source}.{alias.name}" for alias in node.names}
    return {
        module for module in modules - {"inrreg.__version__"} if module.split(".")[0] in PACKAGES
    }


def rooms_of(modules: set[str]) -> set[str]:
    """The rooms of modules; a name that is no room, as in ``inrreg.Grid``, is the front door's."""
    found = {room(module) for module in modules}
    return {name if any(name in rooms for rooms in FLOORS) else "inrreg" for name in found}


def upward_imports(source: str, file: str) -> list[str]:
    """What imports a room that is not on a floor below."""
    own = room(module_of(file)) if file != "inrreg/__main__.py" else "inrreg"
    height, used = floor(own), rooms_of(imported_modules(ast.parse(source), file)) - {own}
    up = [
        f"{file} ({own}, floor {height}) imports {other} (floor {floor(other)})"
        for other in sorted(used)
        if floor(other) >= height
    ]
    return up + [
        f"{file} imports graphreg, which is for {', '.join(sorted(GRAPHREG_USERS))} alone"
        for other in used
        if other == "graphreg" and own not in GRAPHREG_USERS
    ]


def circles(files: dict[str, str]) -> list[list[str]]:
    """Modules that import each other, directly or by way of others; ``files`` are texts by path."""
    modules = {module_of(file) for file in files}
    graph = networkx.DiGraph()
    for file, source in files.items():
        for name in imported_modules(ast.parse(source), file):
            target = name if name in modules else name.rpartition(".")[0]
            if target in modules:
                graph.add_edge(module_of(file), target)
    found = [
        sorted(group) for group in networkx.strongly_connected_components(graph) if len(group) > 1
    ]
    return sorted(found + [[module] for module in networkx.nodes_with_selfloops(graph)])


def sources() -> Iterator[tuple[str, str]]:
    """Path from the root and text of every module."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def names_and_words(source: str) -> str:
    """What the code works with: identifiers and one-word strings; no comments, docstrings or
    sentences to the user.
    """
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return " ".join(
        token.string
        for token in tokens
        if token.type == tokenize.NAME
        or (token.type == tokenize.STRING and " " not in token.string)
    )


def sign_flips(tree: ast.AST) -> list[int]:
    """Lines with a literal -1, -1, 1: what turns LPS into RAS and back."""
    rows = [
        (node.lineno, [ast.unparse(e).removesuffix(".0") for e in node.elts[:3]])
        for node in ast.walk(tree)
        if isinstance(node, ast.List | ast.Tuple)
    ]
    return sorted(line for line, row in rows if row == ["-1", "-1", "1"])


def assignments_of_many_values(tree: ast.AST) -> list[int]:
    """Lines that assign a literal tuple of three or more values to as many targets."""
    return sorted(
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Tuple)
        and any(isinstance(t, ast.Tuple) and len(t.elts) > 2 for t in node.targets)
    )


def terminal_writes(tree: ast.AST, in_command_line: bool = False) -> list[int]:
    """Lines that call the built-in ``print``; outside the command line also those that call a
    ``print`` method or ``write`` of ``sys.stdout`` or ``sys.stderr``.
    """
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    built_in = [node.lineno for node in called if isinstance(node, ast.Name) and node.id == "print"]
    streams = ("sys.stdout.write", "sys.stderr.write")
    methods = [
        node.lineno
        for node in called
        if isinstance(node, ast.Attribute)
        and (node.attr == "print" or ast.unparse(node) in streams)
    ]
    return sorted(built_in if in_command_line else built_in + methods)


def top_level_imports(tree: ast.AST) -> set[str]:
    """Names of the packages that a module imports, in functions too."""
    names = [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    names += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


def test_imports_point_down() -> None:
    assert [line for file, source in sources() for line in upward_imports(source, file)] == []


def test_no_modules_import_each_other() -> None:
    assert circles(dict(sources())) == []


def test_every_declared_room_exists() -> None:
    folders = {
        path.name for path in (ROOT / "inrreg").iterdir() if (path / "__init__.py").is_file()
    }
    assert set().union(*FLOORS) == folders | {"graphreg", "inrreg"}


def test_nothing_loose_lies_between_the_rooms() -> None:
    assert {path.name for path in (ROOT / "inrreg").glob("*.py")} == {"__init__.py", "__main__.py"}


def test_grid_sample_has_one_caller() -> None:
    found = [
        f"{file}: {word}"
        for file, source in sources()
        for word in ("grid_sample", "affine_grid", "align_corners")
        if word in source and file != "inrreg/ops/sampler.py"
    ]
    assert found == []


def test_only_io_knows_lps() -> None:
    elsewhere = [(file, source) for file, source in sources() if not file.startswith("inrreg/io/")]
    assert [file for file, source in elsewhere if "LPS" in names_and_words(source)] == []
    assert [
        f"{file}:{line}" for file, source in elsewhere for line in sign_flips(ast.parse(source))
    ] == []


def test_only_the_command_line_writes_to_the_terminal() -> None:
    """Through the consoles of rich that ``inrreg/app/console.py`` holds."""
    found = [
        f"{file}:{line}"
        for file, source in sources()
        for line in terminal_writes(
            ast.parse(source), in_command_line=file.startswith(COMMAND_LINE)
        )
    ]
    assert found == []


def test_only_the_console_imports_rich() -> None:
    assert [
        file
        for file, source in sources()
        if file != "inrreg/app/console.py" and "rich" in top_level_imports(ast.parse(source))
    ] == []


def test_files_can_be_read_at_one_sitting() -> None:
    assert {
        file: lines for file, source in sources() if (lines := source.count("\n")) > LONGEST_FILE
    } == {}


def test_functions_fit_on_a_screen() -> None:
    functions = [
        (file, node)
        for file, source in sources()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert {
        f"{file}:{node.lineno} {node.name}": length
        for file, node in functions
        if (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
    } == {}


def test_a_line_assigns_at_most_two_values() -> None:
    found = {
        file: len(lines)
        for file, source in sources()
        if (lines := assignments_of_many_values(ast.parse(source)))
    }
    assert {
        file: number for file, number in found.items() if number > MANY_VALUES.get(file, 0)
    } == {}
    assert set(MANY_VALUES) <= set(found), "remove the files that need no allowance any more"


def test_annotations_are_not_postponed() -> None:
    """Shape annotations are checked in these tests, which needs them evaluated."""
    assert [
        file for file, source in sources() if "from __future__ import annotations" in source
    ] == []


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = f"import sys, inrreg; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.strip() == "[]"


# --- these checks can fail ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("inrreg/core/grid.py", "from inrreg.ops.sampling import linear"),
        ("inrreg/ops/sampling.py", "def f():\n    import inrreg.transforms.base"),
        ("inrreg/transforms/base.py", "from inrreg import io"),
        ("inrreg/transforms/base.py", "from ..io import nifti"),
        ("inrreg/transforms/base.py", "from inrreg import Grid"),
        ("inrreg/transforms/base.py", "import inrreg\ninrreg.Grid((2, 2), affine)"),
        ("inrreg/transforms/base.py", "import inrreg\ninrreg.io.read_image(path)"),
        ("inrreg/core/image.py", "from inrreg.report import page"),
        ("inrreg/metamorphosis/fit.py", "from graphreg.keypoints import Foerstner"),
        ("graphreg/graph.py", "from inrreg.presets import preset"),
        ("inrreg/stages/gradient_registration.py", "from inrreg.app.command_line import main"),
        ("inrreg/similarity/lncc.py", "from inrreg.penalties import Bending"),
        ("graphreg/graph_registration.py", "from inrreg.stages.protocol import Stage"),
    ],
)
def test_upward_imports_are_found(file: str, source: str) -> None:
    assert len(upward_imports(source, file)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "inrreg/ops/sampling.py",
            "from inrreg.core.image import Image\nfrom inrreg.ops.separable import basis",
        ),
        (
            "inrreg/app/register.py",
            "from graphreg import graph_registration\nfrom inrreg import __version__",
        ),
        (
            "graphreg/graph.py",
            "from graphreg.keypoints import x\nfrom inrreg.core.grid import Grid\nimport torch",
        ),
        ("inrreg/transforms/base.py", "import inrreg\nversion = inrreg.__version__"),
        ("inrreg/__init__.py", "from inrreg.app.register import register"),
    ],
)
def test_downward_imports_are_not(file: str, source: str) -> None:
    assert upward_imports(source, file) == []


def test_circles_are_found() -> None:
    files = {
        "inrreg/core/a.py": "from inrreg.core import b",
        "inrreg/core/b.py": "def f():\n    from inrreg.core.c import d",
        "inrreg/core/c.py": "import inrreg.core.a",
        "inrreg/core/e.py": "from inrreg.core.a import f",
    }
    assert circles(files) == [["inrreg.core.a", "inrreg.core.b", "inrreg.core.c"]]


def test_an_unplaced_room_is_named() -> None:
    with pytest.raises(
        LookupError, match="the room 'attic' stands on no floor: place it in FLOORS"
    ):
        upward_imports("import torch", "inrreg/attic.py")


def test_prose_is_told_from_code() -> None:
    prose = (
        '"""LPS here."""\n\n\ndef f():\n    """Not LPS."""\n    raise ValueError("this file is'
        ' LPS")  # LPS\n'
    )
    assert "LPS" not in names_and_words(prose)
    assert "LPS" in names_and_words('frame = "LPS"\n')
    assert "LPS" in names_and_words("x = LPS_FROM_RAS @ y\n")


def test_sign_flips_are_found() -> None:
    assert sign_flips(
        ast.parse("a = np.diag([-1, -1, 1])\n\nb = (-1.0, -1.0, 1.0, 1.0)\nc = (1, -1, 1)")
    ) == [1, 3]


def test_assignments_of_many_values_are_found() -> None:
    source = (
        "a, b, c = 1, 2, 3\nd, e = 1, 2\nf, g, h = shape\nx = y = 1, 2, 3\n(i, j, k) = (1, 2, 3)"
    )
    assert assignments_of_many_values(ast.parse(source)) == [1, 5]


def test_shapes_are_checked_while_the_tests_run() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="coords"):
        Points(torch.zeros(3))
    with pytest.raises(jaxtyping.TypeCheckError, match="voxels"):
        basis(torch.zeros(2, 2), 4)


def test_writes_to_the_terminal_are_found() -> None:
    source = "print(1)\nout.print(2)\nsys.stderr.write(s)\nfile.write(s)\n"
    assert terminal_writes(ast.parse(source)) == [1, 2, 3]
    assert terminal_writes(ast.parse(source), in_command_line=True) == [1]
    assert top_level_imports(ast.parse("import rich.table\nfrom torch import nn")) == {
        "rich",
        "torch",
    }
