"""Two maps that undo each other: in value (ICON, Greer et al., ICCV 2021) and in derivative
(GradICON, Tian et al., CVPR 2023).

T is the map that is fitted and S its ``fitted_inverse``, both of fixed world points: where a start
comes after T, S leads back to before it. A few hundred sites are enough
(``penalty_sampler=RandomPoints(500)``), and each is asked on both ways, T and then S, S and then T.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.settings_checks import check_not_negative
from inrreg.objective.step import Step


@dataclass(frozen=True)
class InverseConsistency:
    """Mean over sites and both ways of |S(T(x)) - x|^2, mm^2.

    Alone it lets S be any inverse, rough ones too, where no site lies.

    Raises:
        TransformError: on a transform without a counterpart.
    """

    weight: float = 1.0
    name: str = "inverse_consistency"

    def __post_init__(self) -> None:
        check_not_negative(self, "weight")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        points, there, back = step.sites.points, step.transform, step.fitted_inverse
        missed = [back(points + step.displacement) - points, there(step.preimage) - points]
        return torch.stack(missed).square().sum(-1).mean()


@dataclass(frozen=True)
class GradICON:
    """Mean over sites and both ways of |D(S o T) - I|^2, squared Frobenius norm, mm per mm: 0 also
    where S is the inverse and then a translation.

    So it goes together with ``InverseConsistency``, which asks for the translation. The paper has a
    similarity of the images on either way do that; here the images are compared on the way there
    alone, and S learns from T.

    Raises:
        TransformError: on a transform without a counterpart.
    """

    weight: float = 1.0
    name: str = "gradicon"

    def __post_init__(self) -> None:
        check_not_negative(self, "weight")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        points, there, back = step.sites.points, step.transform, step.fitted_inverse
        products = torch.stack(
            [
                back.jacobian(points + step.displacement) @ step.jacobian,
                there.jacobian(step.preimage) @ back.jacobian(points),
            ]
        )
        d = products.shape[-1]
        return (
            (products - torch.eye(d, dtype=products.dtype, device=products.device))
            .square()
            .sum((-1, -2))
            .mean()
        )
