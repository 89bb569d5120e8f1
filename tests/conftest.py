"""What every test may ask for: a grid on which identity-only luck cannot pass, an analytic image on
it, the devices, and the real cases.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from pretend_device import DEVICE, pretend_device
from worlds import Wave, oblique_grid

from inrreg.core.grid import Grid
from inrreg.core.image import Image

settings.register_profile("suite", derandomize=True, deadline=None, max_examples=60, database=None)
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks for the real cases carries their marker, so that ``-m "not real"`` leaves all
    of it out.
    """
    for item in items:
        if "data_dir" in getattr(item, "fixturenames", ()):
            item.add_marker("real")


@pytest.fixture(scope="session", params=["cpu", *["cuda"] * torch.cuda.is_available()])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(scope="session")
def grid_3d() -> Grid:
    """0.7 x 0.9 x 2.5 mm, rotated, off-centre."""
    return oblique_grid(3)


@pytest.fixture(scope="session")
def grid_2d() -> Grid:
    """0.7 x 0.9 mm, rotated, off-centre."""
    return oblique_grid(2)


@pytest.fixture(scope="session", params=[3, 2], ids=["3-D", "2-D"])
def grid(request: pytest.FixtureRequest) -> Grid:
    """The 3-D grid, then the 2-D one."""
    return oblique_grid(request.param)


@pytest.fixture(scope="session")
def wave(grid: Grid) -> Wave:
    """A smooth function of world mm with its gradient in closed form."""
    return Wave(grid.ndim)


@pytest.fixture(scope="session")
def image(grid: Grid, wave: Wave) -> Image:
    """Samples of ``wave`` on ``grid``, single precision as images are."""
    return wave.image(grid)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real cases; the test is skipped where there is none."""
    folder = os.environ.get("INRREG_DATA")
    if not folder:
        pytest.skip("no real cases: the environment variable INRREG_DATA is unset")
    path = Path(folder).expanduser()
    if not path.is_dir():
        pytest.fail(f"INRREG_DATA names {path}, which is no folder")
    return path.resolve()


@pytest.fixture(params=["pretend", *["cuda"] * torch.cuda.is_available()])
def accelerator(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[torch.device]:
    """A device other than the CPU; ``register(device=...)`` takes the pretended one too."""
    if request.param == "cuda":
        yield torch.device("cuda")
        return
    monkeypatch.setattr(
        "inrreg.app.request.Request.torch_device", lambda request: torch.device(request.device)
    )
    with pretend_device():
        yield DEVICE
