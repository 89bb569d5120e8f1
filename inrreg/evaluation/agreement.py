"""How alike two images on one grid are: numbers to compare before and after a registration, not its
cost.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.evaluation.region import require_grid, selected
from inrreg.ops.window_correlations import window_correlations

FLAT = 1e-6
"""A window is flat where its variance is below this share of the variance of the whole image."""

MEDIAN_SAMPLES = 1 << 14
"""Values among which a middle one is looked for."""


@dataclass(frozen=True)
class ImageAgreement:
    """Agreement of two images over ``n_voxels``: correlations in -1 ...

    1, the mean squared difference in squared intensity units; ``lncc`` is None where every window
    is flat.
    """

    n_voxels: int
    ncc: float
    lncc: float | None
    mse_intensity2: float

    def to_json(self) -> dict[str, int | float | None]:
        return asdict(self)


def image_agreement(
    fixed: Image, warped: Image, mask: Image | None = None, window_mm: float = 9.0
) -> ImageAgreement:
    """Global and mean local normalised cross-correlation and mean squared difference where ``mask``
    is 1 (everywhere without one).

    The local one is the mean, over mask voxels, of the correlation in a box of about ``window_mm``
    around them. Windows in which ``fixed`` is flat are left out, so the same windows count before
    and after; where only ``warped`` is flat it is 0.

    Raises:
        FrameError: the images or the mask lie on different grids.
        InputError: an empty mask, values that are not finite, or a fixed image that is constant
            inside the mask.
    """
    require_grid(fixed.grid, fixed, warped)
    inside = selected(mask, fixed.grid)
    f, w = _centred(fixed), _centred(warped)
    if np.ptp(f[inside]) == 0:
        raise InputError(
            f"{fixed.name} is constant inside the mask; no correlation is defined, so choose"
            " another mask"
        )
    return ImageAgreement(
        n_voxels=int(inside.sum()),
        ncc=float(np.corrcoef(f[inside], w[inside])[0, 1]) if np.ptp(w[inside]) > 0 else 0.0,
        lncc=_mean_local_correlation(f, w, inside, window_voxels(fixed.grid, window_mm)),
        mse_intensity2=float(
            np.square(fixed.numpy()[inside].astype(np.float64) - warped.numpy()[inside]).mean()
        ),
    )


def window_voxels(grid: Grid, window_mm: float) -> tuple[int, ...]:
    """The odd number of voxels along each index axis, at least 3, that comes nearest to
    ``window_mm``.
    """
    return tuple(2 * max(1, int(np.floor(window_mm / h / 2))) + 1 for h in grid.spacing)


def _centred(image: Image) -> NDArray[np.float64]:
    """Values in double precision about one in their midst: local variances lose no digits to an
    offset, and those of a constant image are exactly zero.
    """
    values = image.numpy()
    if not np.isfinite(values).all():
        raise InputError(
            f"{image.name} has {int((~np.isfinite(values)).sum())} values that are not finite;"
            " repair the image first"
        )
    some = values.reshape(-1)[:: -(-values.size // MEDIAN_SAMPLES)]
    return values.astype(np.float64) - np.median(some).astype(np.float64)


def _mean_local_correlation(
    f: NDArray[np.float64], w: NDArray[np.float64], inside: NDArray[np.bool_], size: tuple[int, ...]
) -> float | None:
    """Windows are cut at the border of the image, not at that of the mask."""
    radii, box = np.array(size) // 2, list[slice]()
    for axis, radius in enumerate(radii):
        occupied = np.flatnonzero(inside.any(tuple(a for a in range(inside.ndim) if a != axis)))
        box.append(slice(max(0, occupied[0] - radius), occupied[-1] + 1 + radius))
    cropped_f, cropped_w, cropped_inside = (
        torch.from_numpy(values[tuple(box)]) for values in (f, w, inside)
    )
    total, counted = window_correlations(
        cropped_f,
        cropped_w,
        cropped_inside,
        radii.tolist(),
        FLAT * float(f.var()),
        FLAT * float(w.var()),
    )
    return total / counted if counted else None
