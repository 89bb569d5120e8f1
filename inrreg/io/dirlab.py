"""Reader of the DIR-Lab cases: ten of 4DCT and ten of COPDgene.

The owners distribute headerless volumes and landmarks in voxels. The reader returns images and
points in RAS mm. Slices are stored from head to foot, rows from front to back, columns from the
patient's right to the left. The reader keeps this order, so all three index axes point against RAS.
A landmark ``x y z`` counts stored columns, rows and slices from 1. The files give no position in
the world; the volume is centred at the origin.

References: Castillo et al., Phys. Med. Biol. 2009 and 2010 (4DCT), Phys. Med. Biol. 2013
    (COPDgene).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from scipy.ndimage import median_filter

from inrreg.core.errors import InputError
from inrreg.core.image import Image, Points
from inrreg.io.dirlab_tables import CASES, NAMINGS, PublishedCase

TOLERANCE_MM = 0.05
"""Largest difference between the computed and the published initial error.

The published error has two decimals and was computed with the same rounded spacing.
"""
OFFSETS = (-1024, -1000)
"""Offsets from stored values to HU; the right one differs from case to case."""
AIR_SPREAD = 60
"""Half width in HU of the range around -1000 HU in which air is searched; lung lies above it."""
LOWEST_HU = -1024
"""Lower bound of the images: the padding outside the scanner's circle is raised to this value."""
PATCH = (3, 3, 1)
"""Half size in voxels of the patches that are compared at landmarks."""


@dataclass(frozen=True, eq=False)
class DirLabCase:
    """One loaded case: fixed is inhale (T00, iBH), moving is exhale (T50, eBH).

    Intensities are in HU. Landmarks correspond and are in RAS mm. ``initial_mm`` is their mean
    distance before registration.
    """

    name: str
    cohort: str
    fixed: Image
    moving: Image
    fixed_landmarks: Points
    moving_landmarks: Points
    initial_mm: float


def dirlab_cases(folder: str | Path) -> list[str]:
    """The names of the cases whose inhale image lies in ``folder`` or below it."""
    files = [path.name for path in _files(Path(folder))]
    return [
        name
        for name, entry in CASES.items()
        if any(
            re.fullmatch(name + NAMINGS[entry.cohort][0].image, file, re.IGNORECASE)
            for file in files
        )
    ]


def read_dirlab(folder: str | Path, name: str, hu_offset: int | None = None) -> DirLabCase:
    """Load the case ``name`` from ``folder`` and check it against the published facts.

    Names are ``case1`` to ``case10`` and ``copd1`` to ``copd10``. ``folder`` is the folder of the
    case or any folder above it.

    The stored values plus an offset are HU. The offset is -1024 or -1000, depending on the file.
    Without ``hu_offset`` the reader takes the one that puts air, found in both images together,
    nearer to -1000 HU. The initial landmark error must equal the published one. The images must
    agree better at the landmarks than at misread landmarks.

    Raises:
        InputError: an unknown name, no or several candidates for a file, a size that is not the
            case's, landmarks outside the volume, or a check that fails.
    """
    if name not in CASES:
        raise InputError(
            f"no DIR-Lab case is called {name!r}; choose case1 ... case10 (4DCT) or copd1 ..."
            " copd10 (COPDgene)"
        )
    entry, files = CASES[name], _files(Path(folder))
    inhale, exhale = NAMINGS[entry.cohort]
    paths = [
        _only(files, Path(folder), name, n.image, n.image_example, f"{n.state} image")
        for n in (inhale, exhale)
    ]
    texts = [
        _only(files, Path(folder), name, n.landmarks, n.landmarks_example, f"{n.state} landmarks")
        for n in (inhale, exhale)
    ]
    stored = [_read_volume(path, entry, name) for path in paths]
    indices = [_read_landmarks(path, entry) for path in texts]
    initial_mm = _checked_initial_error(indices, entry, name, texts)
    _check_agreement(stored, indices, texts)
    offset = _hu_offset(stored, paths) if hu_offset is None else hu_offset
    grid = entry.grid()
    images = [
        Image.from_array(
            np.maximum(volume.astype(np.int32) + offset, LOWEST_HU).astype(np.int16),
            grid,
            str(path),
        )
        for volume, path in zip(stored, paths, strict=True)
    ]
    points = [
        Points(grid.to_world(torch.as_tensor(index, dtype=torch.float64)), name=str(path))
        for index, path in zip(indices, texts, strict=True)
    ]
    return DirLabCase(name, entry.cohort, images[0], images[1], points[0], points[1], initial_mm)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(
            f"{folder} is no folder; give the one that holds the DIR-Lab cases (or one of them)"
            " unpacked"
        )
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _only(
    files: Sequence[Path], folder: Path, name: str, pattern: str, example: str, what: str
) -> Path:
    """The one file of that name."""
    found = [path for path in files if re.fullmatch(name + pattern, path.name, re.IGNORECASE)]
    if not found:
        raise InputError(
            f"{folder} holds no {what} of {name}, there or below; expected a file named like"
            f" {name}{example}: unpack the archive of the case there"
        )
    if len(found) > 1:
        raise InputError(
            f"{folder} holds {len(found)} candidates for the {what} of {name}:"
            f" {', '.join(map(str, found))}; give the folder that holds one of them, or move the"
            " others away"
        )
    return found[0]


def _read_volume(path: Path, entry: PublishedCase, name: str) -> Int[np.ndarray, "i j k"]:
    """The stored values in index order (column, row, slice)."""
    expected, size = 2 * int(np.prod(entry.shape)), path.stat().st_size
    if size != expected:
        slices = size / (2 * entry.shape[0] * entry.shape[1])
        raise InputError(
            f"{path} has {size} bytes, and the volume of {name} has {expected}"
            f" ({' x '.join(map(str, entry.shape))} voxels of 2 bytes); it would make {slices:.6g}"
            " slices: it is another case, was not copied whole, or was converted; take the file as"
            " it was distributed"
        )
    return np.fromfile(path, dtype="<i2").reshape(entry.shape[::-1]).T


def _read_landmarks(path: Path, entry: PublishedCase) -> Int[np.ndarray, "n 3"]:
    """Voxel indices from 0 of a text file of ``x y z`` counted from 1."""
    try:
        numbers = np.loadtxt(path, ndmin=2, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is no list of landmarks ({error}); expected three whole numbers x y z a line,"
            " and nothing else"
        ) from error
    if numbers.shape[1:] != (3,) or len(numbers) == 0 or not (numbers == np.rint(numbers)).all():
        raise InputError(
            f"{path} holds a table of shape {numbers.shape}, or fractions; expected three whole"
            " numbers x y z a line, voxels counted from 1"
        )
    outside = (numbers < 1) | (numbers > entry.shape)
    if outside.any():
        line = int(outside.any(1).argmax())
        raise InputError(
            f"{path}, line {line + 1}: {numbers[line].astype(int).tolist()} lies outside the volume"
            f" of {' x '.join(map(str, entry.shape))} voxels counted from 1; it belongs to another"
            " case, is counted from 0, or its columns are not x y z; take the file as it was"
            " distributed"
        )
    return numbers.astype(np.int64) - 1


def _checked_initial_error(
    indices: Sequence[Int[np.ndarray, "n 3"]],
    entry: PublishedCase,
    name: str,
    paths: Sequence[Path],
) -> float:
    """The mean distance of corresponding landmarks, mm, if it is the published one."""
    fixed, moving = indices
    files = f"{paths[0]} and {paths[1]}"
    if len(fixed) != len(moving) or len(fixed) not in entry.initial_mm:
        expected = " or ".join(map(str, entry.initial_mm))
        raise InputError(
            f"{files} have {len(fixed)} and {len(moving)} landmarks; {name} is published with"
            f" {expected}, and for these its initial error is known: take the files as distributed"
        )
    initial = float(np.linalg.norm((fixed - moving) * entry.spacing, axis=1).mean())
    published = entry.initial_mm[len(fixed)]
    if abs(initial - published) > TOLERANCE_MM:
        raise InputError(
            f"{files} lie {initial:.2f} mm apart in the mean, and {published:.2f} mm (+-"
            f" {TOLERANCE_MM}) is published for the {len(fixed)} landmarks of {name}; likely the"
            " slices of one file are flipped, a landmark file is that of another case or phase or"
            " sorted otherwise, or the spacing is wrong: take the files as they were distributed"
        )
    return initial


def _check_agreement(
    stored: Sequence[Int[np.ndarray, "i j k"]],
    indices: Sequence[Int[np.ndarray, "n 3"]],
    paths: Sequence[Path],
) -> None:
    """Check that the images agree better at the landmarks than at misread landmarks.

    The distance of landmarks cannot detect an error that both files share. The images can.
    """
    (fixed, moving), (p, q) = stored, indices
    last = fixed.shape[2] - 1
    p_flipped, q_flipped = (index * [1, 1, -1] + [0, 0, last] for index in (p, q))
    misread = {
        "with the two landmark files swapped": (q, p),
        "with the slices of both flipped": (p_flipped, q_flipped),
        "with the slices of the inhale image flipped": (p_flipped, q),
        "with the slices of the exhale image flipped": (p, q_flipped),
    }
    if fixed.shape[0] == fixed.shape[1]:
        misread["with x and y exchanged"] = (p[:, [1, 0, 2]], q[:, [1, 0, 2]])
    here = _agreement(fixed, moving, p, q)
    scores = {reading: _agreement(fixed, moving, *pair) for reading, pair in misread.items()}
    best = max(scores, key=lambda reading: scores[reading])
    if here <= scores[best]:
        raise InputError(
            f"the images do not agree at the landmarks of {paths[0]} and {paths[1]} (mean"
            f" correlation of patches {here:.2f}), and do no worse {best} ({scores[best]:.2f}); an"
            " image or landmark file was flipped, swapped or renamed: take the files as they were"
            " distributed"
        )


def _agreement(
    fixed: Int[np.ndarray, "i j k"],
    moving: Int[np.ndarray, "i j k"],
    p: Int[np.ndarray, "n 3"],
    q: Int[np.ndarray, "n 3"],
) -> float:
    """Mean correlation between the patches around p in fixed and q in moving; 0 if flat."""
    offsets = np.stack(
        np.meshgrid(*[np.arange(-r, r + 1) for r in PATCH], indexing="ij"), -1
    ).reshape(-1, 3)

    def standardised(volume: np.ndarray, centers: np.ndarray) -> np.ndarray:
        sites = (centers[:, None] + offsets).clip(0, np.array(volume.shape) - 1)
        values = volume[tuple(np.moveaxis(sites, -1, 0))].astype(np.float64)
        values -= values.mean(1, keepdims=True)
        return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)

    return float((standardised(fixed, p) * standardised(moving, q)).sum(1).mean())


def _hu_offset(stored: Sequence[Int[np.ndarray, "i j k"]], paths: Sequence[Path]) -> int:
    """The offset, -1024 or -1000, that puts air nearer to -1000 HU.

    Air is the most frequent stored value near -1000 HU under either offset.
    """
    candidates = [-1000 - offset for offset in OFFSETS]
    low, high = min(candidates) - AIR_SPREAD, max(candidates) + AIR_SPREAD
    counts = sum(
        np.bincount(
            volume[(volume >= low) & (volume <= high)].astype(np.int64) - low,
            minlength=high - low + 1,
        )
        for volume in stored
    )
    # Padding is one value, air has noise: a median removes the peak of the padding only.
    smooth = median_filter(np.asarray(counts), size=9, mode="constant")
    if not smooth.any():
        raise InputError(
            f"{paths[0]} and {paths[1]} hold no air: no hill of stored values between {low} and"
            f" {high}, where an offset of {OFFSETS[0]} or {OFFSETS[1]} HU would put it; give"
            " hu_offset"
        )
    air = low + int(smooth.argmax())
    return min(OFFSETS, key=lambda offset: abs(air + offset + 1000))
