"""The folder that a result is kept in: which folders may be replaced, and how (docs/outputs.md)."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from inrreg.core.errors import OutputError, RegistrationError
from inrreg.core.grid import Grid

log = logging.getLogger(__name__)

VERSION_KEY = "inrreg"
"""The key of config.json by which a folder is known to be ours."""
FILES = {
    "displacement.nii.gz",
    "warped.nii.gz",
    "transform",
    "metrics.json",
    "config.json",
    "report.html",
    "correspondences.csv",
    "non_correspondence.nii.gz",
    "appearance_change.nii.gz",
    "vanished.nii.gz",
}
"""All that a result folder may hold; only a folder with nothing else in it is ever replaced."""
ROOM_FOR_THE_REST = 20_000_000
"""Bytes for the transform, the report and the small files."""


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write strict JSON: no NaN, one entry a line.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{path} could not be written ({error.strerror}); check that its folder exists and has"
            " room"
        ) from error


def is_result(folder: Path) -> bool:
    """Whether ``folder`` holds a result that this package wrote."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and VERSION_KEY in config


def check_output(folder: str | os.PathLike[str], grid: Grid | None = None) -> None:
    """Whether a result over ``grid`` can be written to ``folder``, asked before any work.

    Raises:
        OutputError: it is a file, holds anything but a result of ours, cannot be replaced, its
            parent cannot be written, or the disk is too full.
    """
    path = Path(folder)
    try:
        if path.exists():
            _check_replaceable(path)
        _check_room(
            path, ROOM_FOR_THE_REST + (0 if grid is None else 4 * grid.n_voxels * (grid.ndim + 2))
        )
    except RegistrationError:
        raise
    except OSError as error:
        raise OutputError(
            f"{path} cannot be looked at ({error.strerror}); choose another output folder or change"
            " its permissions"
        ) from error


def _check_room(path: Path, needed: int) -> None:
    """Whether ``needed`` bytes can be written beside ``path``."""
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir():
        raise OutputError(
            f"{path} cannot be made, because {parent} is a file; give a folder for the result"
        )
    if not os.access(parent, os.W_OK):
        raise OutputError(
            f"{parent} cannot be written to; choose another output folder or change its permissions"
        )
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise OutputError(
            f"the disk of {parent} has {free / 1e6:.0f} MB left and the result may need"
            f" {needed / 1e6:.0f} MB; free some space or choose another disk"
        )


def _check_replaceable(path: Path) -> None:
    if not path.is_dir():
        raise OutputError(f"{path} is a file; give a folder for the result")
    held = {entry.name for entry in path.iterdir()}
    if held and not is_result(path):
        raise OutputError(
            f"{path} exists and is not a result of inrreg, so it is left alone; choose another"
            " folder or empty this one"
        )
    if others := sorted(held - FILES):
        raise OutputError(
            f"{path} is a result, but holds other files too"
            f" ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''}), which would be lost;"
            " move them away or choose another folder"
        )
    mounted = path.absolute().is_mount()
    if mounted or path.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise OutputError(
            f"{path} cannot be replaced as a whole, as it is"
            f" {'a mount point' if mounted else 'the folder you are in'}; choose a folder inside it"
        )


@contextmanager
def replaced_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its place when everything in it is written;
    nothing is left if that fails.

    Raises:
        OutputError: ``folder`` is not ours, or something could not be written.
    """
    check_output(folder)
    target = Path(folder).absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error.strerror}); choose another output folder"
        ) from error
    part = workshop / "new"
    try:
        part.mkdir()
        yield part
        _swap(part, target, workshop / "old")
    except RegistrationError:
        raise
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"the result could not be written to {folder}"
            f" ({getattr(error, 'strerror', None) or error}); free some space or choose another"
            " output folder"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        _remove_empty(workshop)


def _swap(part: Path, target: Path, old: Path) -> None:
    """Put ``part`` in the place of ``target``; the old result is removed only after the new one
    stands, and put back where it cannot.
    """
    if not target.exists():
        part.rename(target)
        return
    target.rename(old)
    try:
        part.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_empty(folder: Path) -> None:
    """Remove a folder unless it still holds an old result that could not be put back."""
    try:
        folder.rmdir()
    except OSError as error:
        log.warning("%s could not be removed (%s); look at what it holds", folder, error.strerror)
