"""Second-order smoothness (Rueckert et al., IEEE TMI 1999)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.errors import InputError
from inrreg.step import Step


@dataclass(frozen=True)
class Bending:
    """Mean over sites of the squared norm of all second derivatives of u, per mm^2; zero for every affine map.

    Differences of the Jacobian between neighbouring sites, so any transform will do; needs lattices of at least two sites
    an axis. The norm does not depend on the axes, so lattice axes serve as well as x, y, z where they are orthogonal.

    Raises:
        InputError: on a step of loose points.
    """

    weight: float = 1.0
    name: str = "bending"

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        if min(step.sites.lattice) < 2:
            raise InputError("the bending energy needs neighbouring sites: give its level a grid or patches as penalty_sampler, not loose points")
        slopes = [step.jacobian.diff(dim=axis + 1) / h for axis, h in enumerate(step.sites.spacing)]
        return torch.stack([slope.square().sum((-1, -2)).mean() for slope in slopes]).sum()
