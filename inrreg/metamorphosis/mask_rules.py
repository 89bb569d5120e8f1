"""How m, the mask of what has no counterpart, is found: from evidence, or from the lesion masks of
the pair.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.metamorphosis.aligned import Aligned, with_found_mask
from inrreg.metamorphosis.evidence import Evidence, InconsistencyEvidence, IntensityEvidence
from inrreg.metamorphosis.posterior import Posterior, ScalarModel, probability
from inrreg.optimisation import Outcome


class MaskRule(Protocol):
    """How m is found."""

    def known(self, pair: ImagePair, mask: Image | None) -> ImagePair:
        """``pair`` with the lesions that the registration leaves out, given the ``mask`` found so
        far.
        """
        ...

    def find(
        self, view: Aligned, counterpart: Float[Tensor, "1 *shape"], generator: torch.Generator
    ) -> Float[Tensor, "1 *shape"]:
        """m on the grid of ``view``; ``counterpart`` is the present estimate of 1 - m."""
        ...


@dataclass(frozen=True)
class LearnedMask:
    """m from evidence.

    The prior probability that a voxel has no counterpart is ``prior``, and ``prior_inside`` within
    the lesion masks of the pair.
    """

    evidence: tuple[Evidence, ...] = (IntensityEvidence(), InconsistencyEvidence())
    model: ScalarModel = field(default_factory=ScalarModel)
    posterior: Posterior = field(default_factory=Posterior)
    prior: float = 0.15
    prior_inside: float = 0.9

    def known(self, pair: ImagePair, mask: Image | None) -> ImagePair:
        """See ``MaskRule``: the lesion masks of the pair at first, then the mask that was found."""
        return with_found_mask(pair, mask)

    def find(
        self, view: Aligned, counterpart: Float[Tensor, "1 *shape"], generator: torch.Generator
    ) -> Float[Tensor, "1 *shape"]:
        """See ``MaskRule``."""
        probable = (
            torch.full_like(counterpart, self.prior)
            if view.lesion is None
            else self.prior + (self.prior_inside - self.prior) * view.lesion
        )
        with torch.no_grad():
            log_odds = torch.stack([term(view, counterpart) for term in self.evidence]).sum(
                0
            ) + torch.logit(probable)
        logit = self.model.build(view.fixed.grid, generator).to(view.fixed.device)
        if self.posterior.fit(logit, log_odds, view) is Outcome.INTERRUPTED:
            raise KeyboardInterrupt
        return probability(logit, view.fixed.grid, view.weight.data)


@dataclass(frozen=True)
class GivenMask:
    """m is the lesion masks of the pair, and nothing is learned: cost-function masking (Brett et
    al., NeuroImage 2001).
    """

    def known(self, pair: ImagePair, mask: Image | None) -> ImagePair:
        """See ``MaskRule``."""
        return pair

    def find(
        self, view: Aligned, counterpart: Float[Tensor, "1 *shape"], generator: torch.Generator
    ) -> Float[Tensor, "1 *shape"]:
        """See ``MaskRule``."""
        return (
            torch.zeros_like(counterpart)
            if view.lesion is None
            else view.lesion * (view.weight.data > 0)
        )
