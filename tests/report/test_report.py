"""The report: slices as a reader expects them, figures that show what is there, a page that needs
nothing else.
"""

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor
from worlds import Wave, signed_permutations

from inrreg.core.errors import FrameError, InputError, OutputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.ops.sampling import linear
from inrreg.report import (
    ReportContent,
    convergence,
    difference_planes,
    displacement_map,
    jacobian_map,
    landmark_histogram,
    metric_tables,
    registration_report,
    summary_rows,
    three_planes,
    warped_grid,
    write_report,
)
from inrreg.report.figures import DIMMED, FOLDED
from inrreg.report.page import format_value
from inrreg.report.panels import INK
from inrreg.report.planes import PIXELS, SCREEN_AXES, anatomical, middle_of, planes_of

LEVEL = 1 / 255
"""One step of an eight-bit colour."""


def blob(grid: Grid, offset_mm: float) -> Image:
    """A Gaussian of 3 mm, ``offset_mm`` along every world axis from the middle."""
    distance = grid.points(torch.float64) - torch.tensor(grid.center) - offset_mm
    return Image.from_array(
        (torch.exp(-(distance**2).sum(-1) / 18) * 800 - 1000).float(), grid, "blob"
    )


def field(grid: Grid) -> Tensor:
    """A smooth displacement, mm."""
    return torch.stack(
        [Wave(grid.ndim)(grid.points(torch.float64) + 10.0 * axis) for axis in range(grid.ndim)], -1
    ).float()


def half(grid: Grid) -> Image:
    """1 in the lower half of the first index axis."""
    values = np.zeros(grid.shape, np.float32)
    values[: grid.shape[0] // 2] = 1
    return Image.from_array(values, grid, "mask")


def shown(figure: Figure) -> list[NDArray]:
    """What stands in each image of ``figure``, 0 ... 1."""
    return [np.asarray(ax.images[0].get_array()) / 255 for ax in figure.axes if ax.images]


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    """As ``metrics.json`` holds them, each leaf a number of its own."""
    return {
        "schema": 1,
        "outcome": {"name": "CONVERGED", "message": "The cost had stopped falling."},
        "stages": [
            {
                "name": "graph",
                "outcome": "converged",
                "message": "",
                "iterations": 120,
                "seconds": 12.5,
                "cost_last": 0.25,
                "landmarks": {"all": {"mean_mm": 2.345}},
            }
        ],
        "time_s": {"load": 0.75, "total": 83.4},
        "memory_mb": {"process": 1433.7},
        "similarity": {
            "before": {"ncc": 0.311, "lncc": 0.102},
            "after": {"ncc": 0.922, "lncc": 0.533},
        },
        "jacobian": {"folded_percent": 0.0123, "min": -0.213, "p1": 0.614, "sd_log": None},
        "inverse": {"residual_mean_mm": 0.0151, "residual_max_mm": 0.0492},
        "landmarks": {
            "all": {"n": 51, "initial_mean_mm": 35.31, "mean_mm": 1.427, "snapped_mean_mm": 1.622},
            "groups": {"liver": {"n": 30, "mean_mm": 2.456}, "wall": {"n": 21, "mean_mm": 0.777}},
        },
    }


class TestPlanes:
    @pytest.mark.parametrize(
        "axes", signed_permutations(3), ids=lambda axes: "".join(str(int(v)) for v in axes.ravel())
    )
    def test_ras_coordinates_fall_to_the_right_and_down_the_screen(self, axes: NDArray) -> None:
        direction = Rotation.from_euler("xyz", [11, -8, 17], degrees=True).as_matrix() @ axes
        grid = Grid.from_spacing((5, 6, 7), (2.0, 1.3, 3.1), (40.0, -70.0, 900.0), direction)
        at = grid.center + 1.0
        for plane in planes_of(grid, at):
            column, row = SCREEN_AXES[3][plane.name]
            world = plane.slice(grid.points(torch.float64).numpy())
            assert (np.diff(world[..., column], axis=1) < 0).all()
            assert (np.diff(world[..., row], axis=0) < 0).all()
            # Double precision near 1 m from the origin.
            np.testing.assert_allclose(
                world[0, 1] - world[0, 0],
                plane.directions[0] * plane.size_mm[0] / world.shape[1],
                atol=1e-9,
            )
            np.testing.assert_allclose(
                world[1, 0] - world[0, 0],
                plane.directions[1] * plane.size_mm[1] / world.shape[0],
                atol=1e-9,
            )
            assert np.linalg.norm(world - at, axis=-1).min() <= np.linalg.norm(grid.spacing) / 2, (
                "the voxel at the point is not in the plane"
            )

    def test_letters_at_the_borders(self) -> None:
        letters = {
            plane.name: plane.letters for plane in planes_of(Grid.from_spacing((4, 5, 6), 1.0))
        }
        assert letters["axial"] == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
        assert letters["coronal"] == {"left": "R", "right": "L", "top": "S", "bottom": "I"}
        assert letters["sagittal"] == {"left": "A", "right": "P", "top": "S", "bottom": "I"}

    def test_letters_of_an_oblique_direction(self) -> None:
        small, large = np.radians(10), np.radians(35)
        assert (
            anatomical(
                [np.sin(small), -np.cos(small) * np.cos(large), np.cos(small) * np.sin(large)]
            )
            == "PS"
        )

    def test_a_2d_image_is_one_plane(self, grid_2d: Grid) -> None:
        (plane,) = planes_of(grid_2d)
        world = plane.slice(grid_2d.points(torch.float64).numpy())
        assert (np.diff(world[..., 0], axis=1) < 0).all()
        assert (np.diff(world[..., 1], axis=0) < 0).all()

    def test_a_large_slice_is_reduced_without_losing_a_marked_voxel(self) -> None:
        grid = Grid.from_spacing((701, 40, 3), (0.5, 1.0, 2.0))
        marked = np.zeros(grid.shape, bool)
        marked[700, 2, 1] = True
        axial = planes_of(grid)[0]
        small = axial.pixels(marked, np.max)
        assert max(small.shape) <= PIXELS[3]
        # The patient's right and back: the left and the bottom of the screen.
        assert np.argwhere(small).tolist() == [[37 // 3, 0]]
        np.testing.assert_allclose(axial.pixels(np.full(grid.shape, 2.5)), 2.5)
        assert axial.pixel_extent(small)[1] >= axial.size_mm[0]

    def test_the_cut_goes_through_the_middle_of_the_mask(self, grid: Grid) -> None:
        half_shape = np.array(grid.shape) - 1
        half_shape[0] = grid.shape[0] // 2 - 1
        np.testing.assert_allclose(
            middle_of(grid, half(grid)), grid.matrix @ (half_shape / 2) + grid.origin, atol=1e-9
        )
        np.testing.assert_allclose(
            middle_of(grid, Image(torch.zeros(1, *grid.shape), grid)), grid.center
        )

    def test_what_does_not_fit_is_refused(self, grid: Grid) -> None:
        with pytest.raises(FrameError, match="must lie on the fixed grid"):
            middle_of(grid, half(grid.resampled(2.0)))
        with pytest.raises(FrameError, match="one world point"):
            planes_of(grid, [1.0])


class TestSlices:
    def test_fixed_is_cyan_moving_is_red_and_agreement_grey(self, grid: Grid) -> None:
        fixed, moving = blob(grid, 0.0), blob(grid, 4.0)
        images = shown(three_planes(fixed, moving, fixed))
        before, after = images[: len(images) // 2], images[len(images) // 2 :]
        for image in after:
            assert np.ptp(image, axis=-1).max() == 0
            assert image.max() > 0.5
        assert max((image[..., 1] - image[..., 0]).max() for image in before) > 0.5
        assert all(np.array_equal(image[..., 1], image[..., 2]) for image in before)
        np.testing.assert_array_equal(before[0][..., 1], after[0][..., 1])

    def test_a_point_on_the_patients_right_front_top_is_seen_there(self, grid_3d: Grid) -> None:
        # Half the grid is 6 mm; 2 mm stays inside along every index axis.
        bright = blob(grid_3d, 2.0)
        for image in shown(three_planes(bright, bright, bright, at=grid_3d.center + 2.0))[:3]:
            row, column = (
                np.array(np.unravel_index(image[..., 0].argmax(), image.shape[:2]))
                / image.shape[:2]
            )
            assert row < 0.5
            assert column < 0.5

    def test_slices_have_the_aspect_of_the_world(self, grid: Grid) -> None:
        image = blob(grid, 0.0)
        figure = three_planes(image, image, image)
        size = figure.get_size_inches()
        boxes = [ax.get_position() for ax in figure.axes]
        scales = [
            (box.width * size[0] / plane.size_mm[0], box.height * size[1] / plane.size_mm[1])
            for box, plane in zip(boxes, planes_of(grid) * 2, strict=True)
        ]
        np.testing.assert_allclose(scales, scales[0][0], rtol=1e-9)

    def test_the_same_scan_in_other_units_still_agrees(self, grid: Grid) -> None:
        fixed = blob(grid, 0.0)
        scaled = fixed.with_data(fixed.data * 3 - 70)
        for image in shown(three_planes(fixed, scaled, scaled)):
            assert np.ptp(image, axis=-1).max() <= 1.01 * LEVEL  # two roundings to eight bits

    def test_difference_is_grey_where_nothing_differs(self, grid: Grid) -> None:
        fixed = blob(grid, 0.0)
        *before, after = shown(difference_planes(fixed, blob(grid, 4.0), fixed, mask=half(grid)))
        np.testing.assert_allclose(after, 0.5, atol=LEVEL)
        assert np.ptp(before[0]) > 0.5

    def test_values_that_are_not_finite_do_not_spoil_the_window(self, grid: Grid) -> None:
        fixed = blob(grid, 0.0)
        data = fixed.data.clone()
        data[(0, *[0] * grid.ndim)] = float("nan")
        assert (
            max(image.max() for image in shown(three_planes(fixed, fixed, fixed.with_data(data))))
            > 0.5
        )

    def test_images_on_other_grids_are_refused(self, grid: Grid) -> None:
        fixed, other = blob(grid, 0.0), blob(grid.resampled(2.0), 0.0)
        with pytest.raises(FrameError, match="resample it first"):
            three_planes(fixed, fixed, other)
        with pytest.raises(FrameError, match="does not lie on"):
            jacobian_map(torch.ones(3, 3, 3), grid)


class TestMaps:
    def test_folded_voxels_are_loud_and_the_rest_is_dimmed_outside_the_mask(
        self, grid: Grid
    ) -> None:
        det = torch.full(grid.shape, 2.0)
        middle = tuple(n // 2 for n in grid.shape)
        det[middle] = -0.5
        at = grid.to_world(torch.tensor(middle, dtype=torch.float64)[None])[0].numpy()
        for image in shown(jacobian_map(det, grid, at=at)):
            loud = np.abs(image - np.array(to_rgb(FOLDED))).max(-1) < LEVEL
            assert loud.sum() == 1
        masked = shown(jacobian_map(torch.full(grid.shape, 2.0), grid, half(grid)))
        plain = shown(jacobian_map(torch.full(grid.shape, 2.0), grid))
        ratios = np.unique(
            np.round(
                np.concatenate(
                    [(m[..., 0] / p[..., 0]).ravel() for m, p in zip(masked, plain, strict=True)]
                ),
                1,
            )
        )
        np.testing.assert_allclose(ratios, [round(DIMMED, 1), 1.0], atol=0.06)

    def test_the_scale_of_the_log_determinant_is_symmetric(self, grid: Grid) -> None:
        det = torch.ones(grid.shape)
        det[: grid.shape[0] // 2] = 0.25
        low, high = jacobian_map(det, grid).axes[-1].get_ylim()
        # The extremes of the scale are percentiles; both values fill half of the grid. float32
        # logarithm.
        assert (low, high) == pytest.approx((-np.log(4), np.log(4)), rel=1e-6)

    def test_the_share_of_folded_voxels_counts_the_mask_only(self, grid: Grid) -> None:
        det = torch.ones(grid.shape)
        det[-1] = 0.0
        assert jacobian_map(det, grid, half(grid)).axes[-1].get_legend() is None
        legend = jacobian_map(det, grid).axes[-1].get_legend()
        assert legend is not None
        assert legend.get_texts()[0].get_text() == f"folded\n{100 / grid.shape[0]:.3g} %"

    def test_a_shift_has_its_length_everywhere(self, grid: Grid) -> None:
        figure = displacement_map(
            torch.tensor([3.0, 4.0, 0.0])[: grid.ndim].expand(*grid.shape, grid.ndim), grid
        )
        assert figure.axes[-1].get_ylim() == pytest.approx((0.0, 5.0))
        assert all(np.ptp(image.reshape(-1, 3), axis=0).max() == 0 for image in shown(figure))

    def test_grid_lines_stretch_with_the_map(self, grid: Grid) -> None:
        about_centre = grid.points() - torch.tensor(grid.center, dtype=torch.float32)
        still, stretched = (
            warped_grid(factor * about_centre, grid, spacing_mm=3.0) for factor in (0.0, 0.2)
        )
        for before, after in zip(still.axes, stretched.axes, strict=True):
            for one, other in zip(before.collections, after.collections, strict=True):
                assert isinstance(one, LineCollection)
                assert isinstance(other, LineCollection)
                lines, longer = np.array(one.get_segments()), np.array(other.get_segments())
                # Single precision of the field, far from the origin.
                np.testing.assert_allclose(
                    np.diff(longer, axis=1), 1.2 * np.diff(lines, axis=1), atol=1e-4
                )


class TestCharts:
    def history(self) -> list[dict[str, Any]]:
        entries = [
            {
                "stage": "affine",
                "level": 8.0,
                "iteration": i,
                "loss": 1.0 / (i + 1),
                "terms": {"ncc": -0.1},
            }
            for i in range(5)
        ]
        return entries + [
            {
                "stage": "$fine",
                "level": level,
                "iteration": i,
                "loss": 0.5,
                "terms": {"lncc$": -0.2, "bending": 0.01},
            }
            for level in (4.0, 2.0)
            for i in range(3)
        ]

    def test_a_panel_a_stage_and_a_line_a_term(self) -> None:
        affine, fine = convergence(self.history()).axes
        assert [line.get_ydata().tolist() for line in affine.lines] == [
            [-0.1] * 5,
            [1.0, 0.5, 1 / 3, 0.25, 0.2],
        ]
        assert [len(line.get_xdata()) for line in fine.lines] == [6, 6, 6, 2]
        assert fine.lines[0].get_xdata().tolist() == [0, 1, 2, 3, 4, 5]
        assert fine.lines[-1].get_xdata()[0] == 3, (
            "the boundary stands where the second level starts"
        )
        assert [text.get_text() for text in fine.texts] == ["4 mm", "2 mm"]

    def test_every_landmark_is_counted(self) -> None:
        before, after = (
            np.array([30.0, 31.0, 35.0, 60.0]),
            torch.tensor([0.0, 1.0, 1.2, 9.0], dtype=torch.float64),
        )
        figure = landmark_histogram(before, after)
        bars = [patch for patch in figure.axes[0].patches if hasattr(patch, "get_height")]
        assert sum(bar.get_height() for bar in bars) == 4
        legend = figure.axes[0].get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == [
            "after, median 1.1 mm",
            "before, median 33 mm",
        ]

    def test_nothing_to_draw_is_refused(self) -> None:
        with pytest.raises(InputError, match="history is empty"):
            convergence([])
        with pytest.raises(InputError, match="no landmark errors"):
            landmark_histogram([], [])

    def test_no_global_state_is_touched(self, grid_3d: Grid) -> None:
        settings = dict(matplotlib.rcParams)
        displacement_map(field(grid_3d), grid_3d)
        convergence(self.history())
        assert dict(matplotlib.rcParams) == settings
        code = "import sys, inrreg.report; sys.exit('matplotlib.pyplot' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestValues:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, "not measured"),
            (True, "yes"),
            ("cpu", "cpu"),
            (0.0, "0"),
            (51, "51"),
            (1.4267, "1.43"),
            (-0.5, "−0.500"),
            (9.996, "10.0"),
            (0.01234, "0.0123"),
            (999.96, "1\u202f000"),
            (721043, "721\u202f043"),
            (1433.7, "1\u202f434"),
            (1.234e-5, "1.23 × 10⁻⁵"),
            (float("nan"), "not a number"),
            (float("inf"), "infinite"),
        ],
    )
    def test_three_significant_digits(self, value: Any, text: str) -> None:
        assert format_value(value) == text

    def test_every_leaf_has_a_row_with_its_unit(self, metrics: dict[str, Any]) -> None:
        rows = {
            (table.heading, row.name): (row.value, row.unit)
            for table in metric_tables(metrics)
            for row in table.rows
        }
        assert rows == {
            ("Image agreement", "Correlation (NCC), before"): (0.311, ""),
            ("Image agreement", "Correlation (NCC), after"): (0.922, ""),
            ("Image agreement", "Local correlation (LNCC), before"): (0.102, ""),
            ("Image agreement", "Local correlation (LNCC), after"): (0.533, ""),
            ("Landmark error", "Count"): (51, ""),
            ("Landmark error", "Mean before registration"): (35.31, "mm"),
            ("Landmark error", "Mean"): (1.427, "mm"),
            ("Landmark error, at voxel centres", "Mean"): (1.622, "mm"),
            ("Landmark error, liver", "Count"): (30, ""),
            ("Landmark error, liver", "Mean"): (2.456, "mm"),
            ("Landmark error, wall", "Count"): (21, ""),
            ("Landmark error, wall", "Mean"): (0.777, "mm"),
            ("Jacobian determinant", "Folded voxels"): (0.0123, "%"),
            ("Jacobian determinant", "Smallest"): (-0.213, ""),
            ("Jacobian determinant", "1st percentile"): (0.614, ""),
            ("Jacobian determinant", "Standard deviation of the logarithm"): (None, ""),
            ("Inverse consistency", "Mean residual"): (0.0151, "mm"),
            ("Inverse consistency", "Largest residual"): (0.0492, "mm"),
            ("Stages", "graph"): (12.5, "s"),
            ("Time and memory", "Time, load"): (0.75, "s"),
            ("Time and memory", "Time, total"): (83.4, "s"),
            ("Time and memory", "Peak memory, process"): (1433.7, "MB"),
        }

    def test_a_stage_tells_how_it_ended(self, metrics: dict[str, Any]) -> None:
        (row,) = next(table.rows for table in metric_tables(metrics) if table.heading == "Stages")
        assert row == (
            "graph",
            12.5,
            "s",
            "converged, 120 iterations, last cost 0.250, landmark error 2.35 mm",
        )

    def test_a_stage_tells_its_searches_side_by_side_and_its_groups(self) -> None:
        stage = {
            "name": "graph",
            "searches": [
                {"keypoints": 900.0, "reach_mm": 6.5},
                {"keypoints": 800.0, "reach_mm": 2.0},
            ],
            "disagreement_mm": {"mean": 1.5, "max": 9.0},
        }
        (row,) = next(
            table.rows for table in metric_tables({"stages": [stage]}) if table.heading == "Stages"
        )
        assert (
            row.note
            == "keypoints 900, 800, reach 6.50, 2 mm, mean disagreement 1.50 mm, max disagreement"
            " 9 mm"
        )

    def test_unknown_keys_and_missing_sections_are_told(self) -> None:
        rows = {
            (table.heading, row.name): (row.value, row.unit)
            for table in metric_tables(
                {"ventilation": {"sd_ml_percent": 3.5}, "levels_mm": [8, 4.0], "time_s": 3.0}
            )
            for row in table.rows
        }
        assert rows["Ventilation", "Sd ml"] == (3.5, "%")
        assert rows["Other", "Levels"] == ("8, 4", "mm")
        assert rows["Time and memory", "Time"] == (3.0, "s")
        assert all(
            rows[heading, "Not done in this run"] == (None, "")
            for heading in (
                "Image agreement",
                "Landmark error",
                "Jacobian determinant",
                "Inverse consistency",
            )
        )

    @pytest.mark.parametrize(
        ("seconds", "text"), [(83.4, "83.4"), (754.2, "12 min 34 s"), (9000.0, "2 h 30 min")]
    )
    def test_the_summary_tells_the_run_time(self, seconds: float, text: str) -> None:
        outcome, time, folding, landmarks = summary_rows(
            {"time_s": {"load": 1.0, "total": seconds}}
        )
        assert format_value(time.value) == text
        assert [outcome.value, folding.value, landmarks.value] == [None] * 3
        assert summary_rows({"stages": [{"seconds": 2.0}, {"seconds": 3.5}]})[1].value == 5.5


class Page(HTMLParser):
    """What a browser would find: tags in balance, texts, attributes."""

    VOID = ("meta", "br", "img", "hr", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


@pytest.fixture(scope="module")
def case(grid: Grid, metrics: dict[str, Any]) -> dict[str, Any]:
    """What a registration hands to its report, with names that must be escaped."""
    fixed, moving, u = blob(grid, 0.0), blob(grid, 1.0), field(grid)
    return {
        "fixed": replace(fixed, name="<b>fixed & co</b>.nii.gz"),
        "moving_on_fixed": moving,
        "warped": replace(moving, data=linear(moving, grid.points() + u), name='"moving".nii.gz'),
        "displacement": u,
        "determinant": torch.linspace(-0.1, 2.0, grid.n_voxels).reshape(grid.shape),
        "mask": half(grid),
        "metrics": metrics,
        "config": {"preset": "<lung>", "seed": 7},
        "history": TestCharts().history(),
        "messages": [("warning", "Only <half> of the mask is seen.")],
        "landmark_errors": ([4.0, 5.0], [1.0, 2.0]),
    }


@pytest.fixture(scope="module")
def report(case: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its page."""
    return registration_report(
        tmp_path_factory.mktemp("report") / "report.html", ReportContent(**case)
    )


@pytest.fixture(scope="module")
def bare_report(case: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run that failed and measured next to nothing."""
    changed = {
        "metrics": {"outcome": {"name": "NON_FINITE", "message": "The cost became NaN."}},
        "history": [],
        "landmark_errors": None,
        "mask": None,
    }
    return registration_report(
        tmp_path_factory.mktemp("bare") / "report.html", ReportContent(**(case | changed))
    )


class TestPage:
    def test_the_page_needs_nothing_else(self, report: Path) -> None:
        text = report.read_text(encoding="utf-8")
        page = Page(text)
        assert not re.search(r"""https?:|@import|["'(]//|url\((?!#)""", text)
        assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
        assert all(
            value.startswith(("#", "data:image/png;base64,"))
            for name, value in page.attributes
            if name in ("href", "src", "xlink:href")
        )
        ids = [value for name, value in page.attributes if name == "id"]
        assert len(ids) == len(set(ids))
        assert {
            value[1:] for name, value in page.attributes if name == "href" and value.startswith("#")
        } <= set(ids)
        assert page.tags.count("figure") == page.tags.count("svg") == 7
        assert list(report.parent.iterdir()) == [report], "a part was left behind"

    def test_figures_take_the_colour_of_the_page(self, report: Path) -> None:
        text = report.read_text(encoding="utf-8")
        figures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
        assert not any(INK in figure for figure in figures)
        assert "currentColor" in figures[0]
        assert "prefers-color-scheme: dark" in text
        assert "@media print" in text

    def test_names_and_messages_are_escaped(self, report: Path) -> None:
        text = report.read_text(encoding="utf-8")
        assert not re.search("<b>fixed|<half>|<lung>", text)
        texts = Page(text).texts
        assert 'Registration of "moving".nii.gz to <b>fixed & co</b>.nii.gz' in texts
        assert "Only <half> of the mask is seen." in texts

    def test_the_outcome_comes_first(self, report: Path) -> None:
        texts = [text for text in Page(report.read_text(encoding="utf-8")).texts if text]
        assert (
            texts.index("converged")
            < texts.index("Image agreement")
            < texts.index("Before and after")
            < texts.index("Settings")
        )
        assert texts[texts.index("Mean landmark error") + 1] == "1.43"
        assert "The cost had stopped falling." in texts

    def test_a_failure_is_an_error_message(self, bare_report: Path) -> None:
        text = bare_report.read_text(encoding="utf-8")
        assert '<p class="message error"><b>Error</b> The cost became NaN.</p>' in text
        assert "non finite" in Page(text).texts

    def test_what_was_not_measured_says_so(self, bare_report: Path) -> None:
        texts = [text for text in Page(bare_report.read_text(encoding="utf-8")).texts if text]
        assert texts[texts.index("Mean landmark error") + 1] == "not measured"
        start = texts.index("Landmark error")
        assert texts[start : start + 3] == [
            "Landmark error",
            "Not done in this run",
            "not measured",
        ]
        assert not {"Convergence", "Landmark errors"} & set(texts)

    def test_the_same_result_gives_the_same_page(
        self, report: Path, case: dict[str, Any], tmp_path: Path
    ) -> None:
        assert (
            registration_report(tmp_path / "again.html", ReportContent(**case)).read_bytes()
            == report.read_bytes()
        )

    def test_a_large_image_of_noise_stays_below_five_megabytes(self, tmp_path: Path) -> None:
        grid = Grid.from_spacing((1100, 1300), 0.5)
        noise = Image.from_array(
            torch.rand(grid.shape, generator=torch.Generator().manual_seed(0)), grid, "noise"
        )
        content = ReportContent(
            fixed=noise,
            moving_on_fixed=noise.with_data(noise.data.flip(1)),
            warped=noise.with_data(noise.data.flip(2)),
            displacement=noise.data[0, ..., None].expand(*grid.shape, 2),
            determinant=noise.data[0] + 0.5,
            metrics={},
            config={},
        )
        path = registration_report(tmp_path / "report.html", content)
        assert path.stat().st_size < 5e6

    def test_a_page_that_cannot_be_written_is_an_error_of_ours(self, tmp_path: Path) -> None:
        with pytest.raises(
            OutputError, match=r"missing.report\.html: the report cannot be written"
        ):
            write_report(tmp_path / "missing" / "report.html", title="Nothing")


def test_the_change_is_cut_through_the_largest_piece() -> None:
    from inrreg.core.image_pair import Change
    from inrreg.report.change import change_map

    grid = Grid.from_spacing((24, 20, 16), (2.0, 2.0, 2.0))
    fixed = Image.from_array(np.random.default_rng(0).random(grid.shape).astype(np.float32), grid)
    absent, added = np.zeros((2, *grid.shape), np.float32)
    absent[3:5, 3:5, 3:5], absent[15:21, 12:18, 9:13] = 1.0, 0.9
    added[15:21, 12:18, 9:13] = -0.5
    mask, change = Image.from_array(absent, grid), Image.from_array(added, grid)
    figure = change_map(fixed, Change(mask, change, mask))
    covered = np.asarray(figure.axes[0].images[0].get_array(), dtype=float)
    # orange, 6 x 6 voxels of the axial slice
    assert (covered[..., 0] - covered[..., 2] > 60).sum() >= 30
    empty = Image.from_array(np.zeros(grid.shape, np.float32), grid)
    assert len(change_map(fixed, Change(empty, empty, empty)).axes) == len(figure.axes)
    with pytest.raises(FrameError, match="needs it on the fixed grid"):
        change_map(
            fixed,
            Change(Image.from_array(absent[1:], grid.cropped((1, 0, 0), grid.shape)), change, mask),
        )
