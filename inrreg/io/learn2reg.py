"""Learn2Reg's lung tasks, LungCT and NLST: pairs with masks, keypoints and landmarks, and
displacement files as the challenge evaluates them.

A pair is ``imagesTr/LungCT_0001_0000.nii.gz`` (fixed) and ``_0001`` (moving); in LungCT fixed is
exhale and moving is inhale, the reverse of DIR-Lab here. ``masksTr``, ``keypointsTr`` and
``landmarksTr`` (or ``...Ts``) hold files of the same names, points as ``.csv``: voxel indices from
0 ``i,j,k`` of their own image, no header. Keypoints were matched by an algorithm, landmarks by
people.

A displacement ``disp_0001_0001.nii.gz`` has the shape (H, W, D, 3) and is in voxels, along index
axes, on the fixed grid: the moving image is looked up at the voxel ``identity + disp``, as in
``scipy.ndimage.map_coordinates(moving, identity + disp)``. The evaluation ignores the header of
that file, and so does this module.

Reference: Hering et al., Learn2Reg, IEEE TMI 2023.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from inrreg.core.checks import check_landmarks
from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, Points
from inrreg.io import nifti, read_image, read_mask
from inrreg.transforms.base import Transform
from inrreg.transforms.dense_displacement import DenseDisplacement

TOLERANCE_MM = 0.05
"""How far the initial error may lie from the expected one, as published with two decimals."""
PAIRED = ("training_paired_images", "registration_val", "registration_test")
"""The lists of pairs in a dataset JSON."""
FIXED, MOVING = "_0000.nii.gz", "_0001.nii.gz"


@dataclass(frozen=True)
class PairFiles:
    """The two images of a pair; everything else has their names in neighbouring folders."""

    fixed: Path
    moving: Path

    @property
    def name(self) -> str:
        """``LungCT_0001`` where both images are of one subject, else
        ``LungCT_0001_0000_LungCT_0002_0000``.
        """
        fixed, moving = (_stem(path) for path in (self.fixed, self.moving))
        subject = fixed.rpartition("_")[0]
        return subject if subject == moving.rpartition("_")[0] else f"{fixed}_{moving}"

    @property
    def task(self) -> str:
        """``LungCT``, ``NLST`` or whatever the names begin with."""
        return self.fixed.name.partition("_")[0]

    def beside(self, kind: str, suffix: str) -> tuple[Path, Path]:
        """The files of both images in the folders that are called ``kind`` instead of ``images``.

        Raises:
            InputError: the images lie in folders of other names, so nothing is known of their
                neighbours.
        """
        if not all(path.parent.name.startswith("images") for path in (self.fixed, self.moving)):
            raise InputError(
                f"{self.fixed} and {self.moving} do not lie in imagesTr or imagesTs, so their"
                f" {kind} cannot be found; keep the folders of the task as they were unpacked"
            )
        fixed, moving = (
            path.parent.parent / path.parent.name.replace("images", kind) / (_stem(path) + suffix)
            for path in (self.fixed, self.moving)
        )
        return fixed, moving

    def displacement_name(self) -> str:
        """``disp_<fixed>_<moving>.nii.gz`` of the subjects' numbers; with those of the images where
        these are neither alike nor 0000 and 0001.
        """
        (subject, image), (other_subject, other_image) = (
            _numbers(path) for path in (self.fixed, self.moving)
        )
        if image == other_image or (image, other_image) == ("0000", "0001"):
            return f"disp_{subject}_{other_subject}.nii.gz"
        return f"disp_{subject}_{image}_{other_subject}_{other_image}.nii.gz"


@dataclass(frozen=True, eq=False)
class Learn2RegCase:
    """One loaded pair: masks are 1 where to look; points correspond, in RAS mm; ``initial_mm`` is
    their mean distance before registration.
    """

    name: str
    task: str
    fixed: Image
    moving: Image
    fixed_mask: Image | None
    moving_mask: Image | None
    fixed_points: Points
    moving_points: Points
    points_kind: Literal["landmarks", "keypoints"]
    initial_mm: float


def learn2reg_pairs(folder: str | Path) -> list[PairFiles]:
    """The pairs of a task whose two images are at hand: those that its ``*_dataset.json`` lists, or
    where it lists none, ``_0000`` with ``_0001`` in ``imagesTr`` and ``imagesTs``.

    Raises:
        InputError: no folder, several or damaged dataset JSONs, or no pair at hand.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(
            f"{root} is no folder; give the one of a Learn2Reg task, which holds imagesTr"
        )
    pairs = list(dict.fromkeys(_listed(root))) or [
        PairFiles(path, path.with_name(path.name.removesuffix(FIXED) + MOVING))
        for path in sorted(root.glob("images*/*" + FIXED))
    ]
    found = [pair for pair in pairs if pair.fixed.is_file() and pair.moving.is_file()]
    if not found:
        raise InputError(
            f"{root} holds no pair of images ({len(pairs)} expected); a Learn2Reg task has"
            f" imagesTr/NAME_0001{FIXED} with NAME_0001{MOVING}: unpack its archive there"
        )
    return found


def read_learn2reg(
    pair: PairFiles,
    points: Literal["landmarks", "keypoints"] | None = None,
    expected_initial_mm: float | None = None,
) -> Learn2RegCase:
    """Load a pair with its masks, if there are any, and its landmarks, or its keypoints where it
    has no landmarks (or what ``points`` says).

    No initial error of a single pair of these tasks is published that we could check, so none is
    known here: who knows one gives ``expected_initial_mm``, and is refused a pair whose points lie
    otherwise.

    Raises:
        InputError: a missing or damaged file, points without a partner or outside their image, or
            another initial error than expected.
    """
    fixed, moving = read_image(pair.fixed), read_image(pair.moving)
    kind = points or (
        "landmarks"
        if any(path.is_file() for path in pair.beside("landmarks", ".csv"))
        else "keypoints"
    )
    paths = pair.beside(kind, ".csv")
    fixed_points, moving_points = (
        _read_points(path, image.grid) for path, image in zip(paths, (fixed, moving), strict=True)
    )
    if len(fixed_points) != len(moving_points):
        raise InputError(
            f"{paths[0]} has {len(fixed_points)} points and {paths[1]} has {len(moving_points)};"
            " each needs its partner in the same line of the other file"
        )
    initial = float((fixed_points.coords - moving_points.coords).norm(dim=1).mean())
    if expected_initial_mm is not None and abs(initial - expected_initial_mm) > TOLERANCE_MM:
        raise InputError(
            f"{paths[0]} and {paths[1]} lie {initial:.2f} mm apart in the mean, and"
            f" {expected_initial_mm:.2f} mm (+- {TOLERANCE_MM}) was expected; likely a file is of"
            " another pair or sorted otherwise, an axis is flipped or exchanged, or an image"
            " header has another spacing than the task's"
        )
    masks = [
        read_mask(path) if path.is_file() else None for path in pair.beside("masks", ".nii.gz")
    ]
    return Learn2RegCase(
        pair.name,
        pair.task,
        fixed,
        moving,
        masks[0],
        masks[1],
        fixed_points,
        moving_points,
        kind,
        initial,
    )


def read_learn2reg_displacement(
    path: str | Path, fixed_grid: Grid, moving_grid: Grid
) -> DenseDisplacement:
    """The transform of ``disp_*.nii.gz``: fixed voxel v is mapped to moving voxel v + disp, both
    placed by the grids of the images; linear between voxels, frozen.

    Raises:
        InputError: no such file, another shape than the fixed grid, or vectors that are not finite.
    """
    file = Path(path)
    if not file.name.lower().endswith((".nii.gz", ".nii")) or not file.is_file():
        raise InputError(
            f"{file} is no NIfTI file at hand; expected disp_<fixed>_<moving>.nii.gz (the"
            " half-resolution .npz of 2020 is not read)"
        )
    image = nifti.load(file)
    expected = (*fixed_grid.shape, fixed_grid.ndim)
    if tuple(image.shape) != expected:
        raise InputError(
            f"{file} has shape {tuple(image.shape)}, and a displacement in Learn2Reg's convention"
            f" on {fixed_grid} has {expected}; give the grid of its fixed image"
        )
    vectors = nifti.voxels(image, str(file)).astype(np.float64)
    if not np.isfinite(vectors).all():
        raise InputError(
            f"{file} has {int((~np.isfinite(vectors)).any(-1).sum())} voxels whose displacement is"
            " not finite; fill them before using it as a transform"
        )
    mapped = moving_grid.to_world(torch.as_tensor(_identity(fixed_grid) + vectors))
    u = mapped - fixed_grid.points(torch.float64)
    return DenseDisplacement(u.float(), fixed_grid).requires_grad_(False)


def write_learn2reg_displacement(
    transform: Transform, fixed_grid: Grid, moving_grid: Grid, path: str | Path
) -> None:
    """Write a transform as Learn2Reg evaluates it: (H, W, D, 3), voxels of ``moving_grid`` minus
    voxels of ``fixed_grid``, single precision.

    Raises:
        InputError: another suffix.
        OutputError: the file cannot be written.
    """
    if not Path(path).name.lower().endswith((".nii.gz", ".nii")):
        raise InputError(f"{path} has no known suffix; expected disp_<fixed>_<moving>.nii.gz")
    mapped = (
        fixed_grid.points(torch.float64)
        + transform.displacement_on(fixed_grid).detach().cpu().double()
    )
    nifti.save(
        (moving_grid.to_voxel(mapped).numpy() - _identity(fixed_grid)).astype(np.float32),
        fixed_grid,
        Path(path),
    )


def _identity(grid: Grid) -> Float[np.ndarray, "*shape d"]:
    return np.stack(
        np.meshgrid(*[np.arange(n, dtype=np.float64) for n in grid.shape], indexing="ij"), -1
    )


def _stem(path: Path) -> str:
    return path.name.removesuffix(".nii.gz")


def _numbers(path: Path) -> tuple[str, str]:
    """The four digits of the subject and of the image."""
    found = re.search(r"(\d{4})_(\d{4})\.nii\.gz$", path.name)
    if found is None:
        raise InputError(
            f"{path} is not named as in Learn2Reg; expected NAME_<subject>_<image>.nii.gz with four"
            f" digits each, such as LungCT_0001{FIXED}"
        )
    return found.group(1), found.group(2)


def _listed(root: Path) -> Iterator[PairFiles]:
    """The pairs that the dataset JSON lists, at hand or not."""
    found = sorted(root.glob("*_dataset.json"))
    if len(found) > 1:
        raise InputError(
            f"{root} holds {len(found)} dataset files: {', '.join(path.name for path in found)};"
            " keep the one of the task"
        )
    for path in found:
        for entry in _entries(path):
            try:
                yield PairFiles(root / entry["fixed"], root / entry["moving"])
            except (KeyError, TypeError) as error:
                raise InputError(
                    f'{path} lists the pair {entry!r}; expected {{"fixed": path, "moving": path}}'
                ) from error


def _entries(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [entry for key in PAIRED for entry in content.get(key, [])]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path} is no readable dataset file ({error}); expected a JSON object with lists such"
            f" as {PAIRED[0]}: copy it again"
        ) from error


def _read_points(path: Path, grid: Grid) -> Points:
    """Voxel indices from 0, placed in RAS mm."""
    try:
        voxels = np.loadtxt(path, delimiter=",", ndmin=2, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is no readable list of points ({error}); expected three voxel indices i,j,k a"
            " line, separated by commas, without a header"
        ) from error
    if voxels.shape[1:] != (grid.ndim,) or len(voxels) == 0 or not np.isfinite(voxels).all():
        raise InputError(
            f"{path} holds a table of shape {voxels.shape}, or values that are not finite; expected"
            " three voxel indices i,j,k a line, separated by commas"
        )
    points = Points(grid.to_world(torch.as_tensor(voxels)), name=str(path))
    check_landmarks(points, grid, points.name)
    return points
