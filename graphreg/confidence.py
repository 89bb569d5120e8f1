"""How far the match of a keypoint is to be trusted."""

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.image import Image
from inrreg.ops.sampling import linear
from inrreg.transforms import Transform


def keypoint_confidence(
    entropy: Float[Tensor, " n"],
    disagreement_mm: Float[Tensor, " n"],
    step_mm: float,
    presence: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """(1 - entropy) / (1 + (disagreement / step)^2) * presence, in 0 ... 1.

    Args:
        entropy: that of the marginal over the log of the number of labels, 0 ... 1.
        disagreement_mm: the distance between the displacements of the forward and the backward
            search.
        step_mm: the mean step between labels.
        presence: 0 where the match lies in a lesion of the moving image, else 1; see ``present``.
    """
    return (1 - entropy) / (1 + (disagreement_mm / step_mm) ** 2) * presence


@torch.no_grad()
def present(
    lesion: Image | None, points: Float[Tensor, "n d"], initial: Transform | None
) -> Float[Tensor, " n"]:
    """0 where ``initial`` maps fixed ``points`` into a ``lesion`` of the moving image (1 means "has
    no counterpart"), where no match can be; 1 elsewhere.
    """
    if lesion is None:
        return torch.ones(len(points), device=points.device)
    return 1 - linear(lesion, points if initial is None else initial(points), outside=0.0)[0].clamp(
        0, 1
    )
