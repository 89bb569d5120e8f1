"""The pairwise term: what two neighbours pay for moving differently, and its min-convolution, which
is what a message costs.

theta(d, e) = min(weight |d - e|^2 / length, truncation), d and e in mm and length that of the edge
in mm. A quadratic is separable, so the minimum over all labels is taken an axis at a time;
truncated, it is the lesser of that and the least cost of all plus the truncation (Felzenszwalb and
Huttenlocher, IJCV 2006).
"""

from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graphreg.graph import Graph
from graphreg.labels import Labels, along_axes
from inrreg.core.errors import InputError


@dataclass(frozen=True)
class Quadratic:
    """weight |d - e|^2 / length, in units of the cost, no more than ``truncation`` where that is
    given.

    ``window`` forbids neighbours to differ by more than so many steps along an axis, which bounds
    the time; without it the min-convolution is exact, and leaves out only what cannot be the
    minimum.

    Raises:
        InputError: a weight or truncation below 0, or a window below 1.
    """

    weight: float = 0.1
    truncation: float | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        if (
            self.weight < 0
            or (self.truncation is not None and self.truncation < 0)
            or (self.window is not None and self.window < 1)
        ):
            raise InputError(
                "a pairwise term needs a weight and a truncation of 0 or more and a window of 1 or"
                f" more, got {self.weight:g}, {self.truncation} and {self.window}"
            )

    def message(
        self, belief: Float[Tensor, "m *labels"], lengths: Float[Tensor, " m"], labels: Labels
    ) -> Float[Tensor, "m *labels"]:
        """min over d of belief(d) + theta(d, e), for every e and every one of m edges."""
        ndim = belief.ndim - 1
        if belief.device.type == "cpu":
            return self._compiled_message(belief, lengths, labels)
        coefficients = (self.weight / lengths).reshape(-1, *(1,) * ndim)
        result = belief
        for axis, step in enumerate(labels.steps(ndim), start=1):
            result = _lower_envelope(result, coefficients * step**2, axis, self.window)
        if self.truncation is not None:
            result = torch.minimum(
                result, belief.flatten(1).amin(1).reshape(-1, *(1,) * ndim) + self.truncation
            )
        return result

    def _compiled_message(
        self, belief: Float[Tensor, "m *labels"], lengths: Float[Tensor, " m"], labels: Labels
    ) -> Float[Tensor, "m *labels"]:
        """An edge at a time by a compiled loop."""
        from inrreg.ops.loops import in_parallel
        from inrreg.ops.loops.messages import messages

        ndim = belief.ndim - 1
        deep = (1,) * (3 - ndim)  # labels in 2-D are one layer
        prices = torch.ones(len(belief), 3, dtype=belief.dtype)
        prices[:, 3 - ndim :] = (self.weight / lengths)[:, None] * torch.tensor(
            labels.steps(ndim), dtype=lengths.dtype
        ).square()
        said = torch.empty_like(belief, memory_format=torch.contiguous_format)
        volumes = [
            volume.detach().contiguous().reshape(len(belief), *deep, *belief.shape[1:]).numpy()
            for volume in (belief, said)
        ]
        in_parallel(
            messages,
            len(belief),
            volumes[0],
            prices.numpy(),
            inf if self.truncation is None else self.truncation,
            self.window or max(belief.shape),
            volumes[1],
        )
        return said

    def cost(
        self, d: Float[Tensor, "m d"], e: Float[Tensor, "m d"], lengths: Float[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        """theta of displacements in mm; infinite beyond the window is not said here."""
        paid = self.weight * (d - e).square().sum(-1) / lengths
        return paid if self.truncation is None else paid.clamp(max=self.truncation)


def _lower_envelope(
    belief: Float[Tensor, "m *labels"], coefficients: Tensor, axis: int, window: int | None
) -> Float[Tensor, "m *labels"]:
    """min over shifts s along ``axis`` of belief shifted by s plus coefficient s^2; shifts whose
    price exceeds the range of all beliefs are left out, which is exact.
    """
    n = belief.shape[axis]
    spread = (
        float(
            (belief.flatten(1).amax(1) - belief.flatten(1).amin(1))
            .div(coefficients.flatten().clamp(min=1e-30))
            .amax()
        )
        if len(belief)
        else 0.0
    )
    reach = min(n - 1, int(min(spread, float(n * n)) ** 0.5) + 1, window or n)
    result = belief.clone()
    for s in range(1, reach + 1):
        price = coefficients * s**2
        torch.minimum(
            result.narrow(axis, s, n - s),
            belief.narrow(axis, 0, n - s) + price,
            out=result.narrow(axis, s, n - s),
        )
        torch.minimum(
            result.narrow(axis, 0, n - s),
            belief.narrow(axis, s, n - s) + price,
            out=result.narrow(axis, 0, n - s),
        )
    return result


def displacement_of(
    labelling: Int[Tensor, " n"], labels: Labels, shape: tuple[int, ...]
) -> Float[Tensor, "n d"]:
    """Displacement along the index axes, mm, of flat label numbers."""
    index = torch.stack(along_axes(labelling, shape), -1)
    centre = torch.tensor([n // 2 for n in shape], device=labelling.device)
    return (index - centre) * torch.tensor(labels.steps(len(shape)), device=labelling.device)


def energy(
    costs: Float[Tensor, "n *labels"],
    graph: Graph,
    labels: Labels,
    pairwise: Quadratic,
    labelling: Int[Tensor, " n"],
) -> Float[Tensor, ""]:
    """What a labelling (flat label numbers) pays: its costs, and the pairwise term of every
    edge.
    """
    displacement = displacement_of(labelling, labels, tuple(costs.shape[1:]))
    a, b = graph.edges.unbind(1)
    data = costs.flatten(1).gather(1, labelling[:, None]).sum()
    return data + pairwise.cost(displacement[a], displacement[b], graph.lengths).sum()
