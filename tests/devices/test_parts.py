"""Transform models, fields, similarities, penalties and optimisers give, in one registration
each, the map of the CPU on another device.
"""

from dataclasses import replace

import pytest
import torch
from pretend_device import on_cpu
from roof_cases import pair_2d, pair_3d

from inrreg.core.image_pair import ImagePair
from inrreg.optimisation import LBFGS, Adam, GradientDescent, Optimiser
from inrreg.penalties import Bending, Diffusion, Folding, LogJacobian, TotalVariation
from inrreg.similarity import LNCC, MSE, NCC, NMI
from inrreg.stages.both_directions import BothDirections
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.stages.keep_if_improved import KeepIfImproved
from inrreg.stages.mask_alignment import MaskAlignment
from inrreg.stages.protocol import Stage
from inrreg.transforms import FreeForm, LinearModel, NeuralModel

FLOOR_MM = 1e-3
PAIRS = {"2-D": pair_2d, "3-D": pair_3d}
BASE = Registration(FreeForm(24.0), (MSE(20.0),), (), Adam(0.5), (Scale(8, 3),))
OPTIMISERS: dict[str, Optimiser] = {
    "gradient descent": GradientDescent(),
    "lbfgs": LBFGS(),
    "adam": Adam(),
}
STAGES: dict[str, Stage] = {
    "initial translation": InitialTranslation(),
    "masks": MaskAlignment(),
    "kept": KeepIfImproved(BASE),
    "both directions": BothDirections(BASE),
    **{
        kind: replace(BASE, transform=LinearModel(kind))
        for kind in ("translation", "rigid", "affine")
    },
    **{
        name: replace(BASE, transform=NeuralModel(name, {"width": 16}), optimiser=Adam(1e-3))
        for name in ("siren", "fourier", "mlp", "coarse_fine", "hashgrid", "nephi")
    },
    **{
        f"similarity {type(term).__name__}": replace(BASE, similarities=(term,))
        for term in (LNCC(20.0), NCC(), NMI())
    },
    **{
        f"penalty {type(term).__name__}": replace(BASE, penalties=(term,))
        for term in (Bending(), Diffusion(), Folding(), LogJacobian(), TotalVariation())
    },
    **{name: replace(BASE, optimiser=optimiser) for name, optimiser in OPTIMISERS.items()},
}


def displacement(stage: Stage, pair: ImagePair, device: torch.device) -> torch.Tensor:
    """The displacement that the stage finds on the device, at the fixed voxels, on the CPU."""
    transform = stage.run(pair.to(device)).transform
    return on_cpu(transform.displacement_on(pair.fixed.grid))


@pytest.mark.parametrize("dimension", PAIRS)
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_finds_the_map_of_the_cpu(
    name: str, dimension: str, accelerator: torch.device
) -> None:
    phantom, stage, cpu = PAIRS[dimension](), STAGES[name], torch.device("cpu")
    pair = ImagePair(phantom.fixed, phantom.moving, phantom.fixed_mask, phantom.moving_mask)
    nudged = replace(pair, moving=replace(pair.moving, data=pair.moving.data * (1 + 1e-6)))
    expected = displacement(stage, pair, cpu)
    change = float((displacement(stage, nudged, cpu) - expected).norm(dim=-1).max())
    found = displacement(stage, pair, accelerator)
    assert float((found - expected).norm(dim=-1).max()) <= max(FLOOR_MM, 3 * change)
