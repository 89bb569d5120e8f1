"""The compiled form of ``determinants``."""

from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.ops.jacobian_entries import entries
from inrreg.ops.loops import compiled, in_parallel


@compiled
def determinants_of(start: int, stop: int, entries: NDArray, out: NDArray) -> None:
    """The determinant of the 2 x 2 or 3 x 3 matrices ``[4, n]`` or ``[9, n]``, sites ``start`` to
    ``stop``; transposed ones have the same.
    """
    target, part = out[start:stop], entries[:, start:stop]
    if len(entries) == 4:
        a, b, c, d = part[0], part[1], part[2], part[3]
        for k in range(len(target)):
            target[k] = a[k] * d[k] - b[k] * c[k]
    else:
        a, b, c, d, e, f, g, h, i = (
            part[0],
            part[1],
            part[2],
            part[3],
            part[4],
            part[5],
            part[6],
            part[7],
            part[8],
        )
        for k in range(len(target)):
            target[k] = (
                a[k] * (e[k] * i[k] - f[k] * h[k])
                + b[k] * (f[k] * g[k] - d[k] * i[k])
                + c[k] * (d[k] * h[k] - e[k] * g[k])
            )


def determinants(jacobian: Float[Tensor, "b *lattice d d"]) -> Float[Tensor, "b *lattice"]:
    """See ``inrreg.ops.determinants.determinants``."""
    parts, out = entries(jacobian), jacobian.new_empty(jacobian.shape[:-2])
    flat = parts.flatten(2).flatten(0, 1).numpy()
    in_parallel(determinants_of, out.numel(), flat, out.view(-1).numpy())
    return out
