"""Displacement fields as ITK, ANTs and Slicer read them: five-dimensional NIfTI, intent 1007, LPS
mm.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.io import nifti
from inrreg.io.lps import flip
from inrreg.transforms.dense_displacement import DenseDisplacement

VECTOR, DISPVECT = 1007, 1006
"""The NIfTI intents of vectors, LPS by ITK's habit, and of displacements, RAS on disk since ITK
5.4. Older ITK reads 1006 as scalars, so it is never written.
"""


def write(vectors: Float[Tensor, "*shape d"], grid: Grid, path: Path) -> None:
    """Write u (RAS mm, on ``grid``, fixed to moving) as ``(X, Y, Z, 1, 3)``, or ``(X, Y, 1, 1, 2)``
    in 2-D, single precision.

    Raises:
        FrameError: vectors of another shape than the grid.
        OutputError: the file cannot be written.
    """
    if tuple(vectors.shape) != (*grid.shape, grid.ndim):
        raise FrameError(
            f"a displacement field on {grid} has shape {(*grid.shape, grid.ndim)}, got"
            f" {tuple(vectors.shape)}"
        )
    array = flip(vectors.detach().cpu().float().numpy())
    nifti.save(
        array.reshape(*grid.shape, *[1] * (4 - grid.ndim), grid.ndim), grid, path, intent="vector"
    )


def read(path: Path) -> DenseDisplacement:
    """The transform of a five-dimensional NIfTI with intent 1007 (LPS mm) or 1006 (RAS mm); frozen.

    Raises:
        InputError: no such file, another intent or shape, or vectors that are not finite.
    """
    image = nifti.load(path)
    shape, intent = image.shape, int(image.header["intent_code"])
    d = shape[-1]
    if len(shape) != 5 or intent not in (VECTOR, DISPVECT):
        raise InputError(
            f"{path} (shape {shape}, intent {intent}) does not say in which frame and unit its"
            " vectors are; expected a displacement field as ITK writes it, shape (X, Y, Z, 1, 3)"
            " with intent 1007: convert it with the tool that wrote it"
        )
    if shape[3] != 1 or d not in (2, 3) or (d == 2 and shape[2] != 1):
        raise InputError(
            f"{path} has shape {shape}, and a displacement field has (X, Y, Z, 1, 3), or (X, Y, 1,"
            " 1, 2) in 2-D; write one field a file"
        )
    vectors = nifti.voxels(image, str(path)).reshape(*shape[:d], d)
    if not np.isfinite(vectors).all():
        raise InputError(
            f"{path} has {int((~np.isfinite(vectors)).any(-1).sum())} voxels whose displacement is"
            " not finite; fill them before using it as a transform"
        )
    in_ras = flip(vectors) if intent == VECTOR else vectors
    grid = nifti.header_grid(image, shape[:d], str(path))
    return DenseDisplacement(torch.from_numpy(in_ras.astype(np.float32)), grid).requires_grad_(
        False
    )
