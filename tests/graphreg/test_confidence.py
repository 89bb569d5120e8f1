"""The confidence of a keypoint."""

import torch

from graphreg.confidence import keypoint_confidence


def test_entropy_disagreement_and_lesions_lower_the_confidence() -> None:
    found = keypoint_confidence(
        entropy=torch.tensor([0.0, 0.25, 0.0, 0.0]),
        disagreement_mm=torch.tensor([0.0, 0.0, 2.0, 0.0]),
        step_mm=2.0,
        presence=torch.tensor([1.0, 1.0, 1.0, 0.0]),
    )
    assert torch.equal(found, torch.tensor([1.0, 0.75, 0.5, 0.0]))
