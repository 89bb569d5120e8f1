"""The front door: what ``import inrreg`` offers, and that it costs nothing until used."""

import ast
import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import inrreg
from inrreg.app.command_line.register_verb import OPTIONS
from inrreg.app.register import prepare
from inrreg.app.request import Request

ROOT = Path(__file__).parent.parent


def loaded_by(statement: str) -> set[str]:
    """The modules that are loaded after ``statement`` in a fresh interpreter."""
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
        ).stdout.split()
    )


def test_importing_the_package_loads_no_library() -> None:
    loaded = loaded_by("import inrreg; inrreg.__version__; dir(inrreg)")
    assert loaded.isdisjoint({"torch", "numpy", "nibabel", "SimpleITK", "scipy", "matplotlib"})
    assert {name for name in loaded if name.startswith("inrreg.")} == set()


def test_the_command_line_answers_without_torch() -> None:
    loaded = loaded_by(
        "import inrreg.app.command_line\ntry: inrreg.app.command_line.main(['--version'])\nexcept"
        " SystemExit: pass"
    )
    assert loaded.isdisjoint({"torch", "nibabel", "SimpleITK", "matplotlib"})


@pytest.mark.parametrize("name", inrreg.__all__)
def test_every_public_name_resolves(name: str) -> None:
    value = getattr(inrreg, name)
    assert name in dir(inrreg)
    assert name == "__version__" or value.__doc__, f"{name} says nothing of itself"
    assert vars(inrreg)[name] is value  # and is found at once from then on


def test_the_names_for_type_checkers_are_those_that_resolve() -> None:
    tree = ast.parse((ROOT / "inrreg" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    named = {
        alias.asname or alias.name: (node.module or "").removeprefix("inrreg.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert named == inrreg._HOMES


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'inrreg' has no attribute 'registre'"):
        inrreg.registre  # noqa: B018


def test_python_takes_the_fields_of_the_request() -> None:
    names = [each.name for each in fields(Request)]
    for function in (inrreg.register, prepare):
        signature = inspect.signature(function)
        assert [*signature.parameters] == names
        assert all(
            each.kind is inspect.Parameter.KEYWORD_ONLY
            for each in signature.parameters.values()
            if each.name not in ("fixed", "moving")
        )


def test_the_front_door_has_types() -> None:
    assert [each.name for each in fields(Request) if "Any" in str(each.type)] == []


def test_the_command_line_has_options_for_all_but_objects_of_python() -> None:
    options = {each.name for each in OPTIONS}
    assert {each.name for each in fields(Request)} - options == {
        "initial",
        "spacing",
        "affine",
        "progress",
    }


def test_errors_are_also_the_builtin_ones() -> None:
    from inrreg.core import errors

    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.OutputError, OSError)
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    assert all(issubclass(kind, inrreg.RegistrationError) for kind in kinds)
