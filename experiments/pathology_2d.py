"""The 2-D rows of ``experiments.pathology``: the classical shooting methods beside the preset, in
slices whose truth is known.

The pairs are the kinds ``resection 2-D`` and ``tumour 2-D`` of ``pathology_seeds``: one axial
slice, moved and given a lesion in its plane by the generators that make the 3-D ones. Every arm
begins at the same affine start and is judged by its map alone, with the same measures. The preset
is that of 3-D with its last scale at the pixel size of 1 mm. Shooting has the kernel (4, 6, 10 and
14 mm, or two at once), the regularisation, the rho and the iterations that left the smallest errors
on the development seeds 2301 and 2400. *masked LDDMM* and *weighted metamorphosis* are told the
true lesion, as *oracle* is; *metamorphosis* may change intensities anywhere, which is the weighted
one without a mask.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.metamorphosis import (
    Gaussian,
    Hamiltonian,
    MaskWeight,
    Metamorphosis,
    NonCorrespondence,
    Resolution,
    lddmm,
    metamorphosis,
    weighted_metamorphosis,
)
from inrreg.ops.masks import as_weight, without
from inrreg.optimisation.stage_result import Progress, StageResult
from inrreg.stages.gradient_registration import Scale
from inrreg.transforms import Transform

REGULARISATION, STEPS = 3e-6, 5
LEVELS = (Resolution(4, 50), Resolution(2, 50), Resolution(1, 60))
_KERNEL = Gaussian(14.0)


def brain(pair: ImagePair) -> Image:
    """Where the images are compared: in the brain."""
    return as_weight(pair.fixed_mask, pair.fixed.grid)


def outside_lesion(pair: ImagePair) -> Image:
    """Where the images are compared: in the brain outside the lesion that the pair names."""
    return without(brain(pair), lesion(pair))


def lesion(pair: ImagePair) -> Image:
    """The fixed lesion, which the pair must name."""
    assert pair.fixed_lesion is not None
    return pair.fixed_lesion


@dataclass(frozen=True)
class Shot:
    """A shooting method as a stage of the study: what may move and change, and where images are
    compared, both as the pair has it.
    """

    hamiltonian: Callable[[ImagePair], Hamiltonian]
    compared: Callable[[ImagePair], Image]

    def run(
        self,
        pair: ImagePair,
        initial: Transform | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> StageResult:
        """See ``Stage``."""
        fit = Metamorphosis(self.hamiltonian(pair), REGULARISATION, STEPS, LEVELS)
        return fit.run(
            replace(pair, fixed_mask=self.compared(pair)), initial, seed=seed, progress=progress
        )


SHOOTING = {
    "LDDMM": Shot(lambda pair: lddmm(_KERNEL), brain),
    "masked LDDMM": Shot(lambda pair: lddmm(_KERNEL), outside_lesion),
    "metamorphosis": Shot(lambda pair: metamorphosis(_KERNEL, 0.9999), brain),
    "weighted metamorphosis": Shot(
        lambda pair: weighted_metamorphosis(_KERNEL, 0.999, MaskWeight(lesion(pair))), brain
    ),
}
TOLD = ("masked LDDMM", "weighted metamorphosis")
"""Those that need to know where the lesion is."""


def in_slices(fit: NonCorrespondence) -> NonCorrespondence:
    """``fit`` for slices in pixels of 1 mm: its last scale looks at each of them."""
    return replace(
        fit,
        registration=replace(
            fit.registration, scales=(*fit.registration.scales[:-1], Scale(1, 30))
        ),
    )
