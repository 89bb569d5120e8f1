"""What a registration gives, and the folder it is kept in (docs/outputs.md)."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from inrreg.app.metrics import Landmarks, Rendered, landmark_errors, rendered
from inrreg.core.errors import InputError, OutputError, RegistrationError, TransformError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import Change, Correspondences, ImagePair
from inrreg.io import (
    read_correspondences,
    read_image,
    write_correspondences,
    write_displacement,
    write_image,
)
from inrreg.optimisation import Outcome
from inrreg.optimisation.stage_result import Record
from inrreg.transforms import Transform, load_transform, save_transform
from inrreg.transforms.warp import AnyImage, warp

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
CHANGE = ("non_correspondence", "appearance_change", "vanished")
"""The images of a ``Change``, each in a file of its name."""
ROOM_FOR_THE_REST = 20_000_000
"""Bytes for the transform, the report and the small files."""


@dataclass(eq=False, repr=False)
class Result:
    """The map fixed -> moving, the fixed grid, and every number; ``pair`` is there unless it was
    loaded from a folder.

    ``correspondences`` are the keypoints of the last discrete stage, where there was one, and where
    it found them; ``change`` is what has no counterpart, where a stage looked for that: a mask on
    the fixed grid, what to add to the warped image there in the units of the fixed one, and the
    mask on the moving grid.

    ``transform(points)`` maps fixed world points, ``transform.jacobian(points)`` gives the
    Jacobian, ``transform.inverse()`` the map back; all RAS mm, on the CPU.
    """

    transform: Transform
    grid: Grid
    outcome: Outcome
    metrics: dict[str, Any]
    config: dict[str, Any]
    pair: ImagePair | None = None
    landmarks: Landmarks | None = None
    history: list[Record] = field(default_factory=list)
    on_grid: Rendered | None = None
    correspondences: Correspondences | None = None
    change: Change | None = None

    def warp(self, image: AnyImage, method: Literal["linear", "cubic"] = "linear") -> AnyImage:
        """An image of the moving space on the fixed grid; labels by the nearest voxel."""
        return warp(image, self.transform, self.grid, method=method)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the result folder: displacement, warped image, transform, metrics, config and
        report; whole or not at all.

        Raises:
            OutputError: the folder is there and not a result of ours, or cannot be written.
            InputError: the result was loaded and its images are not at hand.
        """
        if self.pair is None:
            raise InputError(
                "this result was loaded without its images, so its report cannot be drawn again;"
                " copy its folder instead of saving it"
            )
        with replaced_folder(folder) as part:
            self._write(part, self.pair, self.on_grid or rendered(self.pair, self.transform))
        return Path(folder)

    def _write(self, folder: Path, pair: ImagePair, on_grid: Rendered) -> None:
        write_displacement(on_grid.displacement, self.grid, folder / "displacement.nii.gz")
        write_image(on_grid.warped, folder / "warped.nii.gz")
        save_transform(self.transform, folder / "transform")
        for name, content in (("metrics", self.metrics), ("config", self.config)):
            write_json(content, folder / f"{name}.json")
        if self.correspondences is not None:
            write_correspondences(self.correspondences, folder / "correspondences.csv")
        if self.change is not None:
            for name in CHANGE:
                write_image(getattr(self.change, name), folder / f"{name}.nii.gz")
        self._write_report(folder / "report.html", pair, on_grid)

    def _write_report(self, path: Path, pair: ImagePair, on_grid: Rendered) -> None:
        from inrreg.report import Message, registration_report

        notes = self.metrics.get("notes", [])
        registration_report(
            path,
            fixed=self._under_its_file_name(pair.fixed, "fixed"),
            moving_on_fixed=on_grid.moving_by_headers,
            warped=self._under_its_file_name(on_grid.warped, "moving"),
            displacement=on_grid.displacement,
            determinant=on_grid.determinant,
            metrics={name: value for name, value in self.metrics.items() if name != "notes"},
            config=self.config,
            history=[
                {
                    "stage": r.stage,
                    "level": r.level_mm,
                    "iteration": r.iteration,
                    "loss": r.cost,
                    "terms": r.terms,
                }
                for r in self.history
            ],
            messages=[Message("warning", note) for note in notes],
            mask=pair.fixed_mask,
            change=self.change,
            landmark_errors=(
                None if self.landmarks is None else landmark_errors(self.transform, self.landmarks)
            ),
            provenance={
                "Fixed image": pair.fixed.name,
                "Moving image": pair.moving.name,
                "Preset": self.config["preset"]["name"],
                **self.config["versions"],
            },
        )

    def _under_its_file_name(self, image: Image, which: str) -> Image:
        """Short enough for a title, and no place for the folders of whoever made it."""
        path = self.config["inputs"][which].get("file")
        return image if path is None else replace(image, name=Path(path).name)

    def __repr__(self) -> str:
        error = self.metrics.get("landmarks", {}).get("all")
        landmarks = (
            f", landmark error {error['initial_mean_mm']:.2f} -> {error['mean_mm']:.2f} mm"
            if error
            else ""
        )
        return (
            f"Result({self.outcome.label}, {type(self.transform).__name__} on {self.grid},"
            f" {self.metrics['jacobian']['folded_percent']:.2g} % folded{landmarks})"
        )


def load(folder: str | os.PathLike[str], device: torch.device | str = "cpu") -> Result:
    """The result that ``Result.save`` wrote: its continuous transform, fixed grid, metrics and
    settings.

    Raises:
        InputError: the folder is no result of ours, or not whole.
    """
    path = Path(folder)
    if not is_result(path):
        raise InputError(
            f"{path} is no result folder of inrreg"
            f" ({'it has no config.json of ours' if path.is_dir() else 'there is no such folder'});"
            " give the folder that `register` wrote"
        )
    try:
        config, metrics = (
            json.loads((path / f"{name}.json").read_text(encoding="utf-8"))
            for name in ("config", "metrics")
        )
        transform = load_transform(path / "transform", device)
        grid, outcome = (
            Grid.from_json(config["inputs"]["fixed"]["grid"]),
            Outcome[metrics["outcome"]["name"].upper()],
        )
        matched = path / "correspondences.csv"
        correspondences = read_correspondences(matched) if matched.exists() else None
        change = (
            Change(**{name: read_image(path / f"{name}.nii.gz") for name in CHANGE})
            if (path / f"{CHANGE[0]}.nii.gz").exists()
            else None
        )
        return Result(
            transform,
            grid,
            outcome,
            metrics,
            config,
            correspondences=correspondences,
            change=change,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, TransformError) as error:
        raise InputError(
            f"{path} is a damaged result ({type(error).__name__}: {error}); copy it again or repeat"
            " the registration"
        ) from error


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
