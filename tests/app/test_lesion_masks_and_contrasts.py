"""Lesion masks, mask modes and further contrasts, from the call to the files."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from worlds import oblique_grid

import inrreg
from inrreg.app.register import prepare
from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.io import write_image
from inrreg.metamorphosis import GivenMask, LearnedMask, NonCorrespondence, ScalarModel
from inrreg.objective.features import RobustWindow
from inrreg.optimisation import Adam
from inrreg.penalties import Bending
from inrreg.presets import PRESETS, Preset, preset
from inrreg.similarity import LNCC
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.transforms import FreeForm

GRID = Grid.from_spacing(
    (20, 18, 16), (3.0, 3.2, 3.5), origin=(-31.0, 47.0, 112.0), direction=oblique_grid(3).direction
)
STAGE = NonCorrespondence(
    Registration(FreeForm(20.0), (LNCC(12.0),), (Bending(3.0),), Adam(0.5), scales=(Scale(4, 8),)),
    mask=LearnedMask(model=ScalarModel(lattice_mm=8.0)),
)
BRIEF = Preset("brief", "for tests", RobustWindow(0, 100), (STAGE,))


def values(seed: int) -> torch.Tensor:
    """Smooth noise."""
    noise = torch.rand(1, *GRID.shape, generator=torch.Generator().manual_seed(seed))
    for axis in (1, 2, 3):
        noise = (noise.roll(1, axis) + 2 * noise + noise.roll(-1, axis)) / 4
    return 100 * noise


def block() -> torch.Tensor:
    mask = torch.zeros(1, *GRID.shape)
    mask[:, 6:13, 5:12, 4:11] = 1
    return mask


def image(data: torch.Tensor, name: str = "image", grid: Grid = GRID) -> Image:
    return Image(data, grid, name)


MOVING = image(values(0), "moving")
FIXED = image(torch.where(block() > 0, 150.0, values(0)) + values(5) / 50, "fixed")
LESION = image(block(), "lesion")


class TestTheResult:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("pathology") / "result"
        inrreg.register(FIXED, MOVING, preset=BRIEF).save(folder)
        return folder

    def test_holds_the_mask_and_the_change_on_the_fixed_grid(self, folder: Path) -> None:
        for name in ("non_correspondence", "appearance_change"):
            written = nibabel.load(folder / f"{name}.nii.gz")
            assert np.allclose(written.affine, GRID.affine, atol=1e-4)
            assert written.shape == GRID.shape
        mask = nibabel.load(folder / "non_correspondence.nii.gz").get_fdata()
        assert 0 <= mask.min() <= mask.max() <= 1
        assert mask[block()[0].numpy() > 0].mean() > 0.7
        assert mask[block()[0].numpy() == 0].mean() < 0.1

    def test_has_the_change_in_the_units_of_the_fixed_image(self, folder: Path) -> None:
        change = nibabel.load(folder / "appearance_change.nii.gz").get_fdata()
        assert 60 < change[8:11, 7:10, 6:9].mean() < 130  # 150 in place of about 50

    def test_is_read_back(self, folder: Path) -> None:
        change = inrreg.load(folder).change
        assert change is not None
        assert change.vanished.grid.same_as(GRID)
        assert torch.equal(
            change.non_correspondence.data[0],
            torch.from_numpy(
                nibabel.load(folder / "non_correspondence.nii.gz").get_fdata()
            ).float(),
        )

    def test_shows_it(self, folder: Path) -> None:
        page = (folder / "report.html").read_text()
        assert "Without counterpart" in page
        assert "no counterpart fixed" in page.lower()

    def test_is_replaced_by_one_without(self, folder: Path) -> None:
        """An older result is ours with these files too."""
        plain = replace(BRIEF, stages=(STAGE.registration,))
        inrreg.register(FIXED, MOVING, preset=plain).save(folder)
        assert not (folder / "non_correspondence.nii.gz").exists()
        assert inrreg.load(folder).change is None


class TestMaskModes:
    @pytest.mark.parametrize(
        ("options", "mode", "rule"),
        [
            ({}, "learn", LearnedMask),
            ({"fixed_lesion_mask": LESION}, "prior", LearnedMask),
            ({"moving_lesion_mask": LESION, "mask_mode": "fixed"}, "fixed", GivenMask),
        ],
    )
    def test_follow_from_what_is_given(self, options: dict, mode: str, rule: type) -> None:
        job = prepare(FIXED, MOVING, preset=BRIEF, **options)
        assert job.config["mask_mode"] == mode
        assert isinstance(job.preset.stages[0].mask, rule)

    def test_the_lesions_reach_the_pair_and_the_record(self) -> None:
        job = prepare(FIXED, MOVING, preset=BRIEF, fixed_lesion_mask=LESION)
        assert job.pair.fixed_lesion is not None
        assert torch.equal(job.pair.fixed_lesion.data, block())
        assert job.config["inputs"]["fixed_lesion_mask"]["sha256"]
        assert job.config["inputs"]["moving_lesion_mask"] is None

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"mask_mode": "prior"}, 'the mask mode "prior" needs a lesion mask'),
            ({"mask_mode": "fixed"}, 'the mask mode "fixed" needs a lesion mask'),
            (
                {"mask_mode": "learn", "fixed_lesion_mask": LESION},
                (
                    'the mask mode "learn" finds what has no counterpart by itself, but .*lesion.*'
                    " was given"
                ),
            ),
            ({"mask_mode": "guess"}, "no mask mode is called 'guess'"),
            (
                {"fixed_lesion_mask": image(torch.ones(1, *GRID.shape), "all")},
                "covers all of fixed, and 1 means",
            ),
            ({"fixed_lesion_mask": image(torch.zeros(1, *GRID.shape), "none")}, "is empty"),
        ],
    )
    def test_that_make_no_sense_are_refused(self, options: dict, reason: str) -> None:
        with pytest.raises(InputError, match=reason):
            prepare(FIXED, MOVING, preset=BRIEF, **options)

    def test_a_lesion_on_another_grid_is_refused(self) -> None:
        other = image(block()[:, 1:], "lesion", GRID.cropped((1, 0, 0), GRID.shape))
        with pytest.raises(FrameError, match="lies on Grid"):
            prepare(FIXED, MOVING, preset=BRIEF, fixed_lesion_mask=other)

    def test_a_lesion_that_covers_the_mask_is_refused(self) -> None:
        with pytest.raises(InputError, match="inside its mask"):
            prepare(FIXED, MOVING, preset=BRIEF, fixed_lesion_mask=LESION, fixed_mask=LESION)

    @pytest.mark.parametrize("options", [{"fixed_lesion_mask": LESION}, {"mask_mode": "learn"}])
    def test_a_preset_that_would_not_heed_them_says_so(self, options: dict) -> None:
        with pytest.raises(InputError, match="does not look for what has no counterpart"):
            prepare(FIXED, MOVING, preset=replace(BRIEF, stages=(STAGE.registration,)), **options)

    def test_only_pathology_heeds_them(self) -> None:
        heeds = {
            name
            for name in PRESETS
            if any(isinstance(stage, NonCorrespondence) for stage in preset(name).stages)
        }
        assert heeds == {"pathology"}


class TestContrasts:
    def test_are_seen_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        original = NonCorrespondence.run
        monkeypatch.setattr(
            NonCorrespondence,
            "run",
            lambda self, pair, *args, **options: (
                seen.append(pair) or original(self, pair, *args, **options)
            ),
        )
        result = inrreg.register(
            FIXED,
            MOVING,
            preset=BRIEF,
            contrasts=[(image(7 * values(3), "t2"), image(3 + values(3), "t2"))],
        )
        assert seen[0].fixed.channels == seen[0].moving.channels == 2
        assert float(seen[0].fixed.data[1].min()) == 0.0  # each contrast has a window of its own
        assert float(seen[0].fixed.data[1].max()) == 1.0
        assert result.change is not None
        assert result.change.appearance_change.channels == 1
        assert len(result.config["contrasts"]) == 1

    def test_on_another_grid_are_resampled_and_that_is_said(self) -> None:
        coarse = GRID.resampled(5.0)
        other = Image(coarse.points()[..., 0][None].contiguous(), coarse, "flair")
        job = prepare(FIXED, MOVING, preset=BRIEF, contrasts=[(other, MOVING)])
        assert job.contrasts[0][0].grid.same_as(GRID)
        inner = job.contrasts[0][0].data[0, 4:-4, 4:-4, 4:-4]
        assert torch.allclose(inner, GRID.points()[4:-4, 4:-4, 4:-4, 0], atol=1e-2)
        assert any("lies on another grid than" in note for note in job.notes)

    @pytest.mark.parametrize(
        ("contrast", "reason"),
        [
            ((image(torch.zeros(1, *GRID.shape), "t2"), MOVING), "is 0 everywhere"),
            ((FIXED,), "contrast 2 is no pair"),
            ("t2.nii.gz", "contrast 2 is no pair"),
            ((image(torch.cat([values(0), values(1)]), "rgb"), MOVING), "has 2 channels"),
        ],
    )
    def test_that_cannot_be_used_are_refused(self, contrast: object, reason: str) -> None:
        with pytest.raises(InputError, match=reason):
            prepare(FIXED, MOVING, preset=BRIEF, contrasts=[contrast])

    def test_one_that_alone_shows_the_motion_moves_the_map(self) -> None:
        """Any preset takes them: the first contrast is noise that tells nothing."""
        fit = replace(STAGE.registration, scales=(Scale(6, 20), Scale(4, 20)))
        plain = replace(BRIEF, stages=(fit,))
        moved = image(values(3).roll(1, 1))
        noise = [
            image(100 * torch.rand(1, *GRID.shape, generator=torch.Generator().manual_seed(seed)))
            for seed in (8, 9)
        ]
        result = inrreg.register(*noise, preset=plain, contrasts=[(image(values(3)), moved)])
        along = result.transform.displacement_on(GRID)[5:-5, 5:-5, 5:-5] @ torch.tensor(
            GRID.direction[:, 0], dtype=torch.float32
        )
        assert 1.5 < float(along.mean()) < 4.0  # 3 mm


def test_a_change_survives_an_image_of_bytes(tmp_path: Path) -> None:
    """What is darker than before is negative, which the array type of the fixed image would not
    hold.
    """
    dark = replace(
        FIXED, data=(block() == 0).float() * values(0).clamp(20, 200), dtype=np.dtype(np.uint8)
    )
    result = inrreg.register(dark, replace(MOVING, dtype=np.dtype(np.uint8)), preset=BRIEF)
    result.save(tmp_path / "r")
    assert nibabel.load(tmp_path / "r" / "appearance_change.nii.gz").get_fdata().min() < -20


def test_a_change_has_units_where_nothing_lies_within_the_window() -> None:
    binary = image((values(0) > 50).float() * 80)
    result = inrreg.register(binary, image((values(1) > 50).float() * 80), preset=BRIEF)
    assert result.change is not None
    assert bool(torch.isfinite(result.change.appearance_change.data).all())


def test_the_command_line_writes_the_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inrreg.app.command_line import main

    monkeypatch.setitem(PRESETS, "pathology", lambda: replace(BRIEF, name="pathology"))
    files = {name: tmp_path / f"{name}.nii.gz" for name in ("fixed", "moving", "lesion", "second")}
    for name, content in (
        ("fixed", FIXED),
        ("moving", MOVING),
        ("lesion", LESION),
        ("second", image(values(3))),
    ):
        write_image(content, files[name])
    arguments = [
        "register",
        files["fixed"],
        files["moving"],
        "--preset",
        "pathology",
        "--fixed-lesion-mask",
        files["lesion"],
        "--mask-mode",
        "fixed",
        "--contrast",
        files["second"],
        files["second"],
    ]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "-o", str(tmp_path / "r"), "-q"])
    assert ended.value.code == 0
    mask = nibabel.load(tmp_path / "r" / "non_correspondence.nii.gz").get_fdata()
    assert ((mask > 0.5) == block()[0].numpy()).mean() > 0.97  # seen at 4 mm
