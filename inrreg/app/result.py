"""What a registration gives, and the folder it is kept in (docs/outputs.md)."""

import json
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike

from inrreg.app.metrics import Landmarks, Rendered, landmark_errors, rendered
from inrreg.app.result_folder import FILES as FILES
from inrreg.app.result_folder import VERSION_KEY as VERSION_KEY
from inrreg.app.result_folder import check_output as check_output
from inrreg.app.result_folder import is_result as is_result
from inrreg.app.result_folder import replaced_folder as replaced_folder
from inrreg.app.result_folder import write_json as write_json
from inrreg.app.result_images import image_to_warp, reference_grid
from inrreg.app.typed_metrics import Metrics
from inrreg.core.errors import InputError, TransformError
from inrreg.core.grid import Grid
from inrreg.core.html import html_table
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
from inrreg.transforms import Transform, identity, load_transform, save_transform
from inrreg.transforms.warp import Interpolation, warp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHANGE = ("non_correspondence", "appearance_change", "vanished")
"""The images of a ``Change``, each in a file of its name."""


@dataclass(eq=False, repr=False)
class Result:
    """What a registration found: the map from fixed to moving points, and all that was measured.

    ``transform(points)`` maps fixed points, ``transform.jacobian(points)`` gives the Jacobian and
    ``transform.inverse()`` the map from moving to fixed points; all in RAS mm, on the CPU.
    ``grid`` is the fixed grid. ``pair`` holds the images; it is None if the result was loaded, and
    ``folder`` then says from where. ``correspondences`` are the keypoints of the last discrete
    stage that found any. ``change`` is what has no counterpart, where a stage looked for it: a mask
    on the fixed grid, the change of intensity there in units of the fixed image, and a mask on the
    moving grid.
    """

    transform: Transform
    grid: Grid
    outcome: Outcome
    metrics: Metrics
    config: dict[str, Any]
    pair: ImagePair | None = None
    landmarks: Landmarks | None = None
    history: list[Record] = field(default_factory=list)
    on_grid: Rendered | None = None
    correspondences: Correspondences | None = None
    change: Change | None = None
    folder: Path | None = None

    def warp(
        self,
        image: Any,
        interpolation: Interpolation | None = None,
        *,
        reference: Any = None,
        grid: Grid | None = None,
        outside: float | None = None,
    ) -> Image:
        """An image of the moving space on the fixed grid, or on the grid of ``reference``.

        Args:
            image: a path, a nibabel or SimpleITK image, an ``Image`` or ``LabelImage``, or a numpy
                array on ``grid``.
            interpolation: "linear", "cubic" or "nearest"; unless given "nearest" for a
                ``LabelImage`` and "linear" for all else. With "nearest", what is no ``Image`` is
                read as labels, and the result is a ``LabelImage``.
            reference: a ``Grid``, an image or an image file in the fixed space.
            grid: the grid of a numpy array.
            outside: the value where the map leaves the image; unless given 0 for labels, and the
                least value of the image for all else.

        Raises:
            InputError: an image, reference or interpolation that cannot be used.
            FrameError: the dimensions differ, or the array does not lie on ``grid``.
        """
        source = image_to_warp(image, grid, interpolation)
        target = self.grid if reference is None else reference_grid(reference)
        return warp(source, self.transform, target, outside, interpolation or "linear")

    def warp_inverse(
        self,
        image: Any,
        interpolation: Interpolation | None = None,
        *,
        reference: Any = None,
        grid: Grid | None = None,
        outside: float | None = None,
    ) -> Image:
        """An image of the fixed space on the moving grid, or on the grid of ``reference`` in the
        moving space; arguments and errors as in ``warp``.

        Raises:
            InversionError: the map cannot be inverted at a voxel of the target grid.
        """
        source = image_to_warp(image, grid, interpolation)
        target = self.moving_grid if reference is None else reference_grid(reference)
        return warp(source, self.transform.inverse(), target, outside, interpolation or "linear")

    @property
    def moving_grid(self) -> Grid:
        """The grid of the moving image."""
        return Grid.from_json(self.config["inputs"]["moving"]["grid"])

    def show(
        self, at: ArrayLike | None = None, *, fixed: Any = None, moving: Any = None
    ) -> "Figure":
        """A figure of fixed (cyan) over moving (red) before and after the registration, in three
        planes through the fixed point ``at``, RAS mm.

        A loaded result needs the images, ``fixed`` and ``moving``, in any form that ``warp`` takes.

        Raises:
            InputError: an image is neither given nor part of the result.
        """
        import matplotlib.pyplot  # noqa: F401  a notebook draws figures once this is imported

        from inrreg.report import three_planes

        pair = self.pair
        if (fixed is None or moving is None) and pair is None:
            raise InputError(
                "this result was loaded without its images; call show(fixed=..., moving=...)"
            )
        target = pair.fixed if fixed is None and pair else image_to_warp(fixed, None, None)
        source = pair.moving if moving is None and pair else image_to_warp(moving, None, None)
        mask = pair.fixed_mask if fixed is None and pair else None
        before = warp(source, identity(self.grid.ndim), target.grid)
        after = warp(source, self.transform, target.grid)
        return three_planes(target, before, after, at, mask)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the result folder: displacement, warped image, transform, metrics, config and
        report; whole or not at all. Of a loaded result the folder is copied.

        Raises:
            OutputError: the folder exists and is not a result of inrreg, or cannot be written.
            InputError: the result has no images, and the folder it came from is gone.
        """
        with replaced_folder(folder) as part:
            if self.pair is not None:
                self._write(part, self.pair, self.on_grid or rendered(self.pair, self.transform))
            else:
                self._copy(part)
        return Path(folder)

    def _copy(self, part: Path) -> None:
        """Copy the folder that the result was loaded from."""
        if self.folder is None or not is_result(self.folder):
            raise InputError(
                f"this result has no images, and there is no result in {self.folder} to copy; put"
                " the folder back"
            )
        for name in sorted(FILES):
            source = self.folder / name
            if source.is_dir():
                shutil.copytree(source, part / name)
            elif source.exists():
                shutil.copy2(source, part / name)

    def _write(self, folder: Path, pair: ImagePair, on_grid: Rendered) -> None:
        write_displacement(on_grid.displacement, self.grid, folder / "displacement.nii.gz")
        write_image(on_grid.warped, folder / "warped.nii.gz")
        save_transform(self.transform, folder / "transform")
        for name, content in (("metrics", self.metrics.to_json()), ("config", self.config)):
            write_json(content, folder / f"{name}.json")
        if self.correspondences is not None:
            write_correspondences(self.correspondences, folder / "correspondences.csv")
        if self.change is not None:
            for name in CHANGE:
                write_image(getattr(self.change, name), folder / f"{name}.nii.gz")
        self._write_report(folder / "report.html", pair, on_grid)

    def _write_report(self, path: Path, pair: ImagePair, on_grid: Rendered) -> None:
        from inrreg.report import Message, ReportContent, registration_report

        numbers = self.metrics.to_json()
        del numbers["notes"]  # shown as messages
        content = ReportContent(
            fixed=self._under_its_file_name(pair.fixed, "fixed"),
            moving_on_fixed=on_grid.moving_by_headers,
            warped=self._under_its_file_name(on_grid.warped, "moving"),
            displacement=on_grid.displacement,
            determinant=on_grid.determinant,
            metrics=numbers,
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
            messages=[Message("warning", note) for note in self.metrics.notes],
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
        registration_report(path, content)

    def _under_its_file_name(self, image: Image, which: str) -> Image:
        """Short enough for a title, and no place for the folders of whoever made it."""
        path = self.config["inputs"][which].get("file")
        return image if path is None else replace(image, name=Path(path).name)

    def __repr__(self) -> str:
        error = self.metrics.landmarks
        landmarks = (
            f", landmark error {error.initial_mean_mm:.2f} -> {error.mean_mm:.2f} mm"
            if error is not None
            else ""
        )
        return (
            f"Result({self.outcome.label}, {type(self.transform).__name__} on {self.grid},"
            f" {self.metrics.jacobian.folded_percent:.2g} % folded{landmarks})"
        )

    def _repr_html_(self) -> str:
        rows = {
            "outcome": self.metrics.outcome.message,
            "transform": repr(self.transform),
            "fixed grid": repr(self.grid),
            "folded": f"{self.metrics.jacobian.folded_percent:.2g} %",
            "time": f"{self.metrics.time_s.total:.1f} s",
        }
        if (error := self.metrics.landmarks) is not None:
            rows["landmark error"] = f"{error.initial_mean_mm:.2f} -> {error.mean_mm:.2f} mm"
        return html_table(f"Result: {self.outcome.label}", rows)


def load(folder: str | os.PathLike[str], device: torch.device | str = "cpu") -> Result:
    """The result that ``Result.save`` wrote: its continuous transform, fixed grid, metrics and
    settings.

    Raises:
        InputError: the folder is no result of inrreg, or not whole.
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
            Metrics.from_json(metrics),
            config,
            correspondences=correspondences,
            change=change,
            folder=path.absolute(),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, TransformError) as error:
        raise InputError(
            f"{path} is a damaged result ({type(error).__name__}: {error}); copy it again or repeat"
            " the registration"
        ) from error
