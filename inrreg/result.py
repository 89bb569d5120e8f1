"""What a registration gives, and the folder it is kept in."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from inrreg.errors import InputError, OutputError, RegistrationError
from inrreg.evaluation import jacobian_determinant
from inrreg.io import write_displacement, write_image
from inrreg.measure import Landmarks, landmark_errors
from inrreg.optimisation import Outcome
from inrreg.pair import Pair
from inrreg.space import Grid
from inrreg.stage import Record
from inrreg.transforms import Transform, identity, load_transform, save_transform
from inrreg.warp import AnyImage, warp

MARK = "inrreg"
"""The key of config.json by which a folder is known to be ours."""


@dataclass(eq=False)
class Result:
    """The map fixed -> moving, the fixed grid, and every number; ``pair`` is there unless it was loaded from a folder.

    ``transform(points)`` maps fixed world points, ``transform.jacobian(points)`` gives the Jacobian, ``transform.inverse()`` the map back.
    """

    transform: Transform
    grid: Grid
    outcome: Outcome
    metrics: dict[str, Any]
    config: dict[str, Any]
    pair: Pair | None = None
    landmarks: Landmarks | None = None
    history: list[Record] = field(default_factory=list)

    def warp(self, image: AnyImage, method: Literal["linear", "cubic"] = "linear") -> AnyImage:
        """An image of the moving space on the fixed grid; labels by the nearest voxel."""
        return warp(image, self.transform, self.grid, method=method)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the result folder of design: displacement, warped image, transform, metrics, config and report; whole or not at all.

        Raises:
            OutputError: the folder is there and not a result of ours, or cannot be written.
            InputError: the result was loaded and its images are not at hand.
        """
        if self.pair is None:
            raise InputError("this result was loaded without its images; copy its folder instead of saving it again")
        with replaced_folder(Path(folder)) as part:
            self._write(part, self.pair)
        return Path(folder)

    @torch.no_grad()
    def _write(self, folder: Path, pair: Pair) -> None:
        from inrreg.report import registration_report

        displacement = self.transform.displacement_on(self.grid).cpu()
        warped, before = self.warp(pair.moving).to("cpu"), warp(pair.moving, identity(self.grid.ndim), self.grid).to("cpu")
        write_displacement(displacement, self.grid, folder / "displacement.nii.gz")
        write_image(warped, folder / "warped.nii.gz")
        save_transform(self.transform, folder / "transform")
        _write_json(folder / "metrics.json", self.metrics)
        _write_json(folder / "config.json", self.config)
        registration_report(
            folder / "report.html",
            fixed=pair.fixed.to("cpu"),
            moving_on_fixed=before,
            warped=warped,
            displacement=displacement,
            determinant=jacobian_determinant(self.transform, self.grid).cpu(),
            metrics=self.metrics,
            config=self.config,
            history=[{"stage": r.stage, "level": r.level_mm, "iteration": r.iteration, "loss": r.cost, "terms": r.terms} for r in self.history],
            mask=None if pair.fixed_mask is None else pair.fixed_mask.to("cpu"),
            landmark_errors=None if self.landmarks is None else landmark_errors(self.transform, self.landmarks),
            provenance={"Fixed image": pair.fixed.name, "Moving image": pair.moving.name, **self.config["versions"]},
        )


def load(folder: str | os.PathLike[str], device: torch.device | str = "cpu") -> Result:
    """The result that ``Result.save`` wrote: its continuous transform, fixed grid, metrics and settings.

    Raises:
        InputError: the folder is no result of ours.
    """
    path = Path(folder)
    if not is_result(path):
        raise InputError(f"{path} is no result folder of inrreg (it has no config.json of ours); give the folder named by -o")
    config = json.loads((path / "config.json").read_text())
    metrics = json.loads((path / "metrics.json").read_text())
    return Result(load_transform(path / "transform", device), Grid.from_json(config["fixed"]["grid"]), Outcome[metrics["outcome"]["name"]], metrics, config)


def is_result(folder: Path) -> bool:
    """Whether ``folder`` holds a result that this package wrote."""
    try:
        return MARK in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False


def check_output(folder: str | os.PathLike[str], grid: Grid | None = None) -> None:
    """Whether a result can be written to ``folder``, asked before any work.

    Raises:
        OutputError: it is a file, holds something that is not a result of ours, its parent cannot be written, or the disk is too full.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file; give a folder for the result")
    if path.is_dir() and any(path.iterdir()) and not is_result(path):
        raise OutputError(f"{path} exists and is not a result of inrreg, so it is left alone; choose another folder or empty this one")
    parent = next(p for p in [path.absolute().parent, *path.absolute().parents] if p.exists())
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{parent} cannot be written to; choose another output folder or change its permissions")
    needed = 0 if grid is None else 4 * grid.n_voxels * (grid.ndim + 2) + 20_000_000
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise OutputError(f"the disk of {parent} has {free / 1e6:.0f} MB left and the result may need {needed / 1e6:.0f} MB; free some space or choose another disk")


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its place when everything in it is written; nothing is left if that fails.

    Raises:
        OutputError: ``folder`` is not ours, or something could not be written.
    """
    check_output(folder)
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}); choose another output folder") from error
    try:
        yield part
        part.chmod(0o777 & ~_umask())
        _swap(part, folder)
    except RegistrationError:
        raise
    except OSError as error:
        raise OutputError(f"the result could not be written to {folder} ({error.strerror or error}); free some space or choose another output folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _swap(part: Path, folder: Path) -> None:
    """Put ``part`` in the place of ``folder``; the old result is removed only after the new one stands."""
    if not folder.exists():
        part.rename(folder)
        return
    old = part.with_name(part.name + ".old")
    folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
