"""No stage moves, freezes or fits the transform that its caller hands in."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from graphreg.graph_registration import GraphRegistration
from graphreg.keypoints import Foerstner
from graphreg.labels import Labels
from graphreg.search import Search
from inrreg.amortised import AmortisedNePhi, Predicted
from inrreg.core.image_pair import ImagePair
from inrreg.metamorphosis import Gaussian, Metamorphosis, NonCorrespondence, Resolution, lddmm
from inrreg.objective.features import RobustWindow
from inrreg.optimisation import Adam
from inrreg.phantoms import blob_pair
from inrreg.similarity import MSE
from inrreg.stages.both_directions import BothDirections
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.stages.keep_if_improved import KeepIfImproved
from inrreg.stages.mask_alignment import MaskAlignment
from inrreg.stages.protocol import Stage
from inrreg.stages.refinement import Refinement
from inrreg.transforms import BSpline, Composite, FreeForm, LinearModel, Transform, Translation

PHANTOM = blob_pair((20, 18, 16), spacing=(4.0, 4.0, 4.0), shift_mm=4.0)
PAIR = ImagePair(PHANTOM.fixed, PHANTOM.moving, PHANTOM.fixed_mask, PHANTOM.fixed_mask).prepared(
    RobustWindow()
)
QUICK = Registration(FreeForm(24.0), (MSE(),), optimiser=Adam(0.5), scales=(Scale(8, 2),))
LINEAR = replace(QUICK, transform=LinearModel())
NETWORK = AmortisedNePhi(
    3,
    {"width": 16, "whole_codes": 8, "local_codes": 8, "lattice": 5, "frequencies": 8},
    channels=(8, 16),
)


def spline() -> BSpline:
    transform = BSpline.over(PHANTOM.fixed.grid, 32.0)
    with torch.no_grad():
        transform.coefficients.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(0))
    return transform


def initial_transform() -> Transform:
    """A spline, so that a refinement can go on from it, and two linear maps to be simplified."""
    shifts = [Translation.by([1.0, -1.0, 0.5]), Translation.by([0.5, 0.0, 0.0])]
    return Composite([spline(), *shifts])


STAGES: dict[str, Callable[[], Stage]] = {
    "gradient registration": lambda: QUICK,
    "gradient registration of a ready transform": lambda: replace(QUICK, transform=spline()),
    "initial translation": InitialTranslation,
    "kept": lambda: KeepIfImproved(LINEAR, 0.0),
    "not kept": lambda: KeepIfImproved(LINEAR, 1.0),
    "mask alignment": lambda: MaskAlignment(LINEAR),
    "refinement": lambda: Refinement(QUICK),
    "both directions": lambda: BothDirections(Refinement(QUICK), 16.0),
    "non-correspondence": lambda: NonCorrespondence(QUICK),
    "metamorphosis": lambda: Metamorphosis(
        lddmm(Gaussian(12.0)), steps=2, resolutions=(Resolution(8, 2),), optimiser=Adam(0.1)
    ),
    "predicted": lambda: Predicted(NETWORK, QUICK),
    "predicted codes": lambda: Predicted(NETWORK, QUICK, decoders=False),
    "graph": lambda: GraphRegistration((Search(Labels(8.0, 4.0), Foerstner(40, 6.0)),)),
}


def state(module: nn.Module) -> dict[str, tuple[Tensor, bool, torch.device]]:
    """A copy of every tensor, whether it is a parameter to be fitted, and where it lies."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        name: (tensor.detach().clone(), tensor.requires_grad, tensor.device)
        for name, tensor in tensors.items()
    }


def assert_same(
    after: dict[str, tuple[Tensor, bool, torch.device]],
    before: dict[str, tuple[Tensor, bool, torch.device]],
) -> None:
    assert after.keys() == before.keys()
    for name, (tensor, requires_grad, device) in before.items():
        assert torch.equal(after[name][0], tensor), name
        assert after[name][1:] == (requires_grad, device), name


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_leaves_its_initial_transform_as_it_is(name: str, device: torch.device) -> None:
    """Bit for bit, on the device where it lies, with every parameter still to be fitted; and what
    the stage returns shares no tensor with it.
    """
    stage, initial = STAGES[name](), initial_transform()
    before = state(initial)
    result = stage.run(PAIR.to(device), initial)
    assert_same(state(initial), before)
    own = {tensor.data_ptr() for tensor in [*initial.parameters(), *initial.buffers()]}
    returned = [*result.transform.parameters(), *result.transform.buffers()]
    assert not own & {tensor.data_ptr() for tensor in returned}
    assert not any(tensor.requires_grad for tensor in returned)


@pytest.mark.parametrize("decoders", [True, False])
def test_a_prediction_leaves_its_network_as_it_is(decoders: bool) -> None:
    network = copy.deepcopy(NETWORK)
    before = state(network)
    Predicted(network, QUICK, decoders).run(PAIR)
    assert_same(state(network), before)


def test_a_run_leaves_a_ready_transform_as_it_is() -> None:
    ready = spline()
    before = state(ready)
    replace(QUICK, transform=ready).run(PAIR)
    assert_same(state(ready), before)
