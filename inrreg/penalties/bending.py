"""Second-order smoothness (Rueckert et al., IEEE TMI 1999)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.settings_checks import check_not_negative
from inrreg.objective.step import Step
from inrreg.ops.bending_energy import bending_energy


@dataclass(frozen=True)
class Bending:
    """Mean over sites of the squared norm of all second derivatives of u, per mm^2; zero for every
    affine map.

    Differences of the Jacobian between neighbouring sites, so any transform will do; needs lattices
    of at least two sites an axis. The norm does not depend on the axes, so lattice axes serve as
    well as x, y, z where they are orthogonal.

    Raises:
        InputError: on a step of loose points.
    """

    weight: float = 1.0
    name: str = "bending"

    def __post_init__(self) -> None:
        check_not_negative(self, "weight")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        if min(step.sites.lattice) < 2:
            raise InputError(
                "the bending energy needs neighbouring sites: give its level a grid or patches as"
                " penalty_sampler, not loose points"
            )
        return bending_energy(step.jacobian, step.sites.spacing)
