"""Points in the kinds users have, and the composition of transforms by ``@``."""

import math

import numpy as np
import pytest
import torch

from inrreg.core.errors import FrameError, InputError, TransformError
from inrreg.core.grid import Grid
from inrreg.core.image import Points
from inrreg.transforms import Affine, DenseDisplacement, Transform, identity

POINTS = [[1.0, 2.0, 3.0], [-4.0, 0.5, 6.0]]


def turned() -> Affine:
    """Two radians about z, with a shift."""
    c, s = math.cos(2.0), math.sin(2.0)
    matrix = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    return affine(matrix, [30.0, -7.0, 2.0])


def flipped() -> Affine:
    """x becomes 10 - x, and z is scaled."""
    return affine(torch.diag(torch.tensor([-1.0, 1.0, 1.5], dtype=torch.float64)), [10.0, 0, 0])


def affine(matrix: torch.Tensor, shift: list[float]) -> Affine:
    translation = torch.tensor(shift, dtype=torch.float64)
    return Affine.from_matrix(matrix, translation, torch.zeros(3, dtype=torch.float64))


def bent() -> DenseDisplacement:
    grid = Grid.from_spacing((6, 7, 8), 4.0, origin=(-10, -10, -10))
    return DenseDisplacement(torch.sin(grid.points() / 5), grid)


@pytest.mark.parametrize("transform", [turned(), bent(), turned() @ bent(), turned().inverse()])
class TestKinds:
    def test_each_gives_its_own_kind(self, transform: Transform) -> None:
        tensor = torch.tensor(POINTS, dtype=torch.float64)
        expected, jacobian = transform(tensor).detach(), transform.jacobian(tensor).detach()
        array = np.array(POINTS)
        for function, values in ((transform, expected), (transform.jacobian, jacobian)):
            given = function(array)
            assert isinstance(given, np.ndarray)
            assert np.array_equal(given, values.numpy())
            assert function(POINTS) == values.tolist()
        points = transform(Points(tensor, ("a", "b"), "tips"))
        assert isinstance(points, Points)
        assert (points.labels, points.name) == (("a", "b"), "tips")
        assert torch.equal(points.coords, expected)
        assert torch.equal(transform.jacobian(Points(tensor)), jacobian)

    def test_a_single_point(self, transform: Transform) -> None:
        expected = np.array(transform(POINTS)[0])
        assert np.allclose(transform(POINTS[0]), expected, atol=1e-9)
        assert transform(np.array(POINTS[0])).shape == (3,)
        assert transform(torch.tensor(POINTS[0], dtype=torch.float64)).shape == (3,)
        assert transform.jacobian(np.array(POINTS[0])).shape == (3, 3)

    def test_the_type_of_an_array(self, transform: Transform) -> None:
        assert transform(np.array(POINTS, np.float32)).dtype == np.float32
        assert transform(np.array([[1, 2, 3]])).dtype == np.float64

    def test_what_is_no_point_is_refused(self, transform: Transform) -> None:
        with pytest.raises(FrameError, match="do not fit a 3-D transform"):
            transform(np.zeros((4, 2)))
        with pytest.raises(FrameError, match="do not fit a 3-D transform"):
            transform.jacobian(5.0)
        with pytest.raises(InputError, match="no regular table of numbers"):
            transform([[1, 2, 3], [4]])

    def test_a_line_describes_it(self, transform: Transform) -> None:
        assert repr(transform).startswith(type(transform).__name__)
        assert "3-D" in repr(transform)
        assert "\n" not in repr(transform)
        assert type(transform).__name__ in transform._repr_html_()


class TestComposition:
    @pytest.mark.parametrize(
        ("a", "b"), [(turned(), flipped()), (flipped(), turned()), (bent(), turned())]
    )
    def test_the_right_one_is_applied_first(self, a: Transform, b: Transform) -> None:
        points = torch.tensor(POINTS, dtype=torch.float64)
        torch.testing.assert_close((a @ b)(points), a(b(points)), atol=1e-9, rtol=0)
        torch.testing.assert_close(
            (a @ b).jacobian(points), a.jacobian(b(points)) @ b.jacobian(points), atol=1e-9, rtol=0
        )
        assert float(((a @ b)(points) - b(a(points))).detach().norm(dim=1).max()) > 1.0

    def test_three_in_a_row(self) -> None:
        a, b, c = turned(), flipped(), bent()
        points = torch.tensor(POINTS, dtype=torch.float64)
        torch.testing.assert_close(((a @ b) @ c)(points), (a @ (b @ c))(points))
        assert "DenseDisplacement, Affine, Affine" in repr(a @ b @ c)

    def test_of_what_cannot_be_composed(self) -> None:
        with pytest.raises(TransformError, match="all of one dimension"):
            turned() @ identity(2)
        with pytest.raises(TypeError):
            turned() @ "turned"
