"""Statistics of a set of distances in mm."""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InputError


@dataclass(frozen=True)
class DistanceStatistics:
    """Summary of ``n`` distances; the attribute names are the JSON keys and hold the units."""

    n: int
    mean_mm: float
    sd_mm: float
    median_mm: float
    p25_mm: float
    p75_mm: float
    p95_mm: float
    max_mm: float
    trimmed98_mm: float
    above_2mm_percent: float
    above_5mm_percent: float

    def to_json(self) -> dict[str, int | float]:
        return asdict(self)


def distance_statistics(distances: Float[Tensor, "*sites"]) -> DistanceStatistics:
    """Statistics of distances in mm.

    The standard deviation is that of the population. Percentiles are interpolated. The
    trimmed mean is over the smallest 98 %. Shares are those above 2 and 5 mm.

    Raises:
        InputError: no distance, or one that is not finite.
    """
    values = np.sort(distances.detach().double().cpu().numpy().ravel())
    if len(values) == 0:
        raise InputError(
            "there is no distance to summarise; give at least one point or a mask that selects a"
            " voxel"
        )
    if not np.isfinite(values).all():
        raise InputError(
            f"{int((~np.isfinite(values)).sum())} of {len(values)} distances are not finite; look"
            " at the transform where it was evaluated"
        )
    p25, median, p75, p95 = np.percentile(values, (25, 50, 75, 95)).tolist()
    best = values[: int(0.98 * len(values) + 0.5)]
    return DistanceStatistics(
        n=len(values),
        mean_mm=float(values.mean()),
        sd_mm=float(values.std()),
        median_mm=median,
        p25_mm=p25,
        p75_mm=p75,
        p95_mm=p95,
        max_mm=float(values[-1]),
        trimmed98_mm=float(best.mean()),
        above_2mm_percent=100.0 * float((values > 2).mean()),
        above_5mm_percent=100.0 * float((values > 5).mean()),
    )
