"""The scores of the pathology study."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from steps import step_between

from experiments import pathology, pathology_2d
from experiments.pathology import Huber, arms, auc, claims, mask_scores
from experiments.pathology_seeds import oasis_slice
from experiments.tables import Table
from inrreg.app.register import run_stages
from inrreg.core.grid import Grid
from inrreg.metamorphosis import InconsistencyEvidence, IntensityEvidence, LearnedMask, Resolution
from inrreg.metamorphosis.evidence import Evidence
from inrreg.phantoms import Isointense, Resection, pathology_pair, synthetic_brain
from inrreg.phantoms.scanner import Scanner


def test_auc_is_the_probability_to_rank_right() -> None:
    generator = torch.Generator().manual_seed(0)
    score, positive = (
        (torch.rand(60, generator=generator) * 10).round(),
        torch.rand(60, generator=generator) < 0.3,
    )
    wins = [
        (a > b) + 0.5 * (a == b)
        for a in score[positive].tolist()
        for b in score[~positive].tolist()
    ]
    assert auc(score, positive) == pytest.approx(sum(wins) / len(wins))


def test_a_mask_is_scored_in_the_brain_and_outside_the_oedema() -> None:
    brain, truth, left_out = (
        torch.ones(1, 10, 10, dtype=torch.bool),
        torch.zeros(1, 10, 10, dtype=torch.bool),
        torch.zeros(1, 10, 10, dtype=torch.bool),
    )
    brain[:, 8:], truth[:, 2:4], left_out[:, 4] = False, True, True
    mask = torch.zeros(1, 10, 10)
    # half of the truth, the oedema, one row too many, and one outside the brain
    mask[:, 3:6], mask[:, 9] = 0.9, 0.9
    scores = mask_scores(mask, truth, brain, left_out)
    assert scores["dice"] == pytest.approx(2 * 10 / (20 + 20))
    assert scores["false_positive_percent"] == pytest.approx(100 * 10 / 80)
    healthy = mask_scores(mask, torch.zeros_like(truth), brain, left_out)
    assert "dice" not in healthy


def test_huber_is_a_square_and_then_a_line() -> None:
    grid = Grid.from_spacing((4, 4), 1.0)
    fixed = torch.zeros(4, 4)
    near, far = (
        float(Huber(0.1, 1.0)(step_between(fixed, torch.full((4, 4), value), grid)))
        for value in (0.05, 0.5)
    )
    assert near == pytest.approx(0.5 * 0.05**2)
    assert far == pytest.approx(0.1 * (0.5 - 0.05))


def test_claims_compare_with_the_oracle(tmp_path: Path) -> None:
    table = Table(tmp_path, ("kind", "seed", "arm"), resume=False)
    for arm, rim, far in (("plain", 2.0, 0.5), ("oracle", 1.0, 0.4), ("learned", 1.1, 0.41)):
        table.add(
            {
                "kind": "resection",
                "seed": 1,
                "arm": arm,
                "rim_mm": rim,
                "far_mm": far,
                "dice": 0.9,
                "leak_percent": 3.0,
                "folded_voxels": 0,
                "seconds": 10.0,
            }
        )
    found = {entry["measure"]: entry for entry in claims(table)}
    assert found["rim landmarks, over oracle"]["value"] == pytest.approx(1.1)
    assert found["rim landmarks, over oracle"]["met"]
    assert found["patients, least AUC"]["met"] is None


def test_shooting_stands_beside_the_preset_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a synthetic slice: what is told the lesion or finds it is right at its rim, what has to
    squeeze is not.
    """
    section = synthetic_brain(Grid.from_spacing((60, 72, 60), 2.0)).section(2, 32)
    pair = pathology_pair(
        section,
        Resection(30.0),
        seed=1,
        spacing=2.0,
        scanner=Scanner(0.02, 0.0, 0.0),
        near=12,
        far=12,
    )
    monkeypatch.setattr(pathology, "phantom", lambda kind, seed: pair)
    monkeypatch.setattr(pathology_2d, "LEVELS", (Resolution(4, 30),))
    names = ["affine", "oracle", "learned", *pathology_2d.SHOOTING]
    rows = {row["arm"]: row for row in pathology.phantom_rows("resection 2-D", 0, names)}
    assert list(rows) == names
    assert set(arms(2)) - set(arms(3)) == set(pathology_2d.SHOOTING)
    rim = {name: row["rim_mm"] for name, row in rows.items()}
    assert max(rim["learned"], rim["oracle"], rim["masked LDDMM"]) < 0.5 * min(
        rim["LDDMM"], rim["affine"]
    )
    assert rim["weighted metamorphosis"] < 0.8 * rim["LDDMM"]
    assert rows["learned"]["dice"] > 0.7
    assert all(row["folded_voxels"] == 0 for row in rows.values())


def test_a_cavity_as_bright_as_tissue_is_found_where_the_two_ways_disagree(data_dir: Path) -> None:
    """A development seed, in a slice: the residual alone finds half of it."""
    seen = pathology_pair(oasis_slice("moving"), Resection(filling=Isointense()), 2303, 1.0)
    pair, fit = pathology.prepared(seen), pathology_2d.in_slices(pathology.FIT)
    start = run_stages(pathology.PATHOLOGY.stages[:2], pair, None)[-1].transform

    def dice(*evidence: Evidence) -> float:
        return pathology.changed(
            replace(fit, mask=LearnedMask(evidence)).run(pair, start), *pathology.truth_of(seen)
        )["dice"]

    found = dice(IntensityEvidence(), InconsistencyEvidence())
    assert found > 0.8
    assert found > dice(IntensityEvidence()) + 0.1
