"""What is read off marginals: probabilities at a stated temperature, displacements finer than the
labels, and how sure they are.
"""

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from graphreg.graph import Graph
from graphreg.labels import Labels, along_axes
from inrreg.core.errors import InputError


class Inference(Protocol):
    """Costs ``[n, *labels]`` and a graph of their n nodes -> marginals of the same shape, in units
    of the cost: exp(-marginal / temperature) is in proportion to a probability.
    """

    def __call__(
        self, costs: Float[Tensor, "n *labels"], graph: Graph, labels: Labels
    ) -> Float[Tensor, "n *labels"]: ...


def probabilities(
    marginals: Float[Tensor, "n *labels"], temperature: float
) -> Float[Tensor, "n *labels"]:
    """exp(-marginal / temperature), summing to one a node.

    Raises:
        InputError: a temperature that is not above 0.
    """
    if not temperature > 0:
        raise InputError(f"a temperature must be above 0, got {temperature:g}")
    return torch.softmax(-marginals.flatten(1) / temperature, 1).reshape(marginals.shape)


def soft_argmin(probability: Float[Tensor, "n *labels"], labels: Labels) -> Float[Tensor, "n d"]:
    """Mean displacement along the index axes, mm."""
    axes = range(1, probability.ndim)
    means = []
    for axis, (n, step) in enumerate(
        zip(probability.shape[1:], labels.steps(probability.ndim - 1), strict=True), start=1
    ):
        along = (
            probability.sum([a for a in axes if a != axis]) if probability.ndim > 2 else probability
        )
        means.append(
            along
            @ ((torch.arange(n, device=probability.device) - n // 2) * step).to(probability.dtype)
        )
    return torch.stack(means, 1)


def sub_label_argmin(marginals: Float[Tensor, "n *labels"], labels: Labels) -> Float[Tensor, "n d"]:
    """The least marginal, refined by a parabola through it and its neighbours along each axis:
    displacement along the index axes, mm, at most half a step off the label.
    """
    shape = marginals.shape[1:]
    index = along_axes(marginals.flatten(1).argmin(1), shape)
    nodes, found = torch.arange(len(marginals), device=marginals.device), []
    for axis, (n, step) in enumerate(zip(shape, labels.steps(len(shape)), strict=True)):
        left, middle, right = (
            marginals[
                (
                    nodes,
                    *[(i + shift).clamp(0, n - 1) if a == axis else i for a, i in enumerate(index)],
                )
            ]
            for shift in (-1, 0, 1)
        )
        curvature = left - 2 * middle + right
        inner = (index[axis] > 0) & (index[axis] < n - 1) & (curvature > 1e-12)
        offset = torch.where(inner, (left - right) / (2 * curvature.clamp(min=1e-12)), 0.0).clamp(
            -0.5, 0.5
        )
        found.append((index[axis] - n // 2 + offset) * step)
    return torch.stack(found, 1)


def entropy(probability: Float[Tensor, "n *labels"]) -> Float[Tensor, " n"]:
    """- sum p log p over the labels, over the log of their number: 0 where one label is certain, 1
    where all are alike.
    """
    flat = probability.flatten(1)
    return (
        -(flat * flat.clamp(min=torch.finfo(flat.dtype).tiny).log()).sum(1)
        / torch.tensor(float(max(2, flat.shape[1]))).log()
    )
