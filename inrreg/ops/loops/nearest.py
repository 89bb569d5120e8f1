"""Squared distances to the nearest voxel of a set, an axis at a time, as far as they matter.

What lies beyond ``reach`` need not be told apart, so along each axis only the neighbours within it
are asked: whole rows at once, where an exact transform without a limit has to walk the lower
envelope of parabolas voxel by voxel.
"""

from numpy.typing import NDArray

from inrreg.ops.loops import compiled


@compiled
def along_rows(
    start: int, stop: int, members: NDArray, step: float, reach: float, out: NDArray
) -> None:
    """``out[p, k]`` = squared distance in the row to the nearest k where ``members[p, k]``, at most
    ``reach`` squared; samples are ``step`` apart.
    """
    n = members.shape[1]
    for p in range(start, stop):
        member, target = members[p], out[p]
        far = reach
        for k in range(n):
            far = 0.0 if member[k] else min(far + step, reach)
            target[k] = far
        far = reach
        for k in range(n - 1, -1, -1):
            far = 0.0 if member[k] else min(far + step, reach)
            target[k] = min(far, target[k]) ** 2


@compiled
def across_rows(
    start: int,
    stop: int,
    squares: NDArray,
    rows: int,
    between_parts: int,
    between_rows: int,
    step: float,
    reach: float,
    out: NDArray,
) -> None:
    """The least of ``squares`` + (s ``step``)^2 over shifts by s rows within ``reach``; ``[row,
    k]``, row m of part p is number p ``between_parts`` + m ``between_rows``.
    """
    for p in range(start, stop):
        first = p * between_parts
        for m in range(rows):
            target, here = out[first + m * between_rows], squares[first + m * between_rows]
            for k in range(len(target)):
                target[k] = here[k]
            shift = 1
            while shift * step < reach and (m - shift >= 0 or m + shift < rows):
                far = (shift * step) ** 2
                # beyond the end the last row, which is nearer than said and so never too near
                before, after = max(m - shift, 0), min(m + shift, rows - 1)
                above, below = (
                    squares[first + before * between_rows],
                    squares[first + after * between_rows],
                )
                for k in range(len(target)):
                    target[k] = min(target[k], min(above[k], below[k]) + far)
                shift += 1
