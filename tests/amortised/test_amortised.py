"""The encoder of NePhi: its places in the world, what it hands over, and that training teaches it
to tell pairs apart.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from worlds import Wave, signed_permutations

from inrreg.amortised import (
    AmortisedNePhi,
    Predicted,
    Training,
    example,
    load_amortised,
    save_amortised,
    train,
)
from inrreg.amortised.network import codes_only, encoder_input
from inrreg.amortised.training import cost, training_loss, untrained
from inrreg.core.errors import InputError
from inrreg.core.grid import Cube, Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.fields.encoder import Encoder
from inrreg.objective.samplers import RandomPoints
from inrreg.optimisation import Adam
from inrreg.penalties import GradICON, InverseConsistency
from inrreg.phantoms import PhantomPair, blob_pair
from inrreg.similarity import MSE
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.transforms import Affine, NeuralModel, load_transform, save_transform

SMALL = {"width": 24, "whole_codes": 8, "local_codes": 8, "lattice": 5, "frequencies": 12}
REGISTRATION = Registration(
    NeuralModel("nephi", SMALL),
    (MSE(30.0),),
    (InverseConsistency(0.03), GradICON(0.3)),
    Adam(4e-3),
    (Scale(3, 10),),
    RandomPoints(300),
    RandomPoints(100),
    mask_margin_mm=6.0,
)
SHORT = Training(epochs=3, spacing_mm=3.0, channels=(8, 8))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these spend their time waiting for each other on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def blobs(seed: int, ndim: int = 2) -> PhantomPair:
    return blob_pair((40, 36, 32)[:ndim], (2.0, 2.5, 3.0)[:ndim], shift_mm=7.0, seed=seed)


def as_pair(phantom: PhantomPair) -> ImagePair:
    return ImagePair(phantom.fixed, phantom.moving, phantom.fixed_mask.mask())


def awake(ndim: int, seed: int = 0) -> AmortisedNePhi:
    """A network that predicts some motion."""
    generator = torch.Generator().manual_seed(seed)
    network = untrained(REGISTRATION, ndim, SHORT, seed)
    with torch.no_grad():
        for parameter in network.decoders.parameters():
            if not parameter.any():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network


# --- places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [(8, 8), (8, 8, 16)])
def test_a_local_code_is_told_by_the_images_around_its_place(
    channels: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What moves a code lies symmetrically about the knot that holds it; norms, which look
    everywhere, are left out.
    """
    monkeypatch.setattr(nn.GroupNorm, "forward", lambda self, x: x)
    encoder = Encoder(2, 8, 8, 13, channels, torch.Generator().manual_seed(0)).double()
    cube = Cube((3.0, -20.0), 50.0)
    samples, knots = cube.lattice(encoder.size), cube.lattice(13)
    images = torch.randn(
        2, *samples.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).requires_grad_()
    (gradient,) = torch.autograd.grad(encoder(images).local[:, 6, 5].square().sum(), images)
    heard = samples.points(torch.float64)[(gradient != 0).any(0)]
    middle = (heard.amin(0) + heard.amax(0)) / 2
    torch.testing.assert_close(middle, knots.points(torch.float64)[6, 5])
    assert len(heard) < 0.5 * samples.n_voxels


def test_images_of_any_frame_are_seen_where_they_lie(
    grid: Grid, wave: Wave, image: Image, device: torch.device
) -> None:
    cube = Cube.around(grid)
    turn = Affine.from_matrix(
        torch.eye(grid.ndim)
        + 0.1 * torch.randn(grid.ndim, grid.ndim, generator=torch.Generator().manual_seed(0)),
        torch.full((grid.ndim,), 2.0),
        torch.tensor(grid.center),
    )
    found = encoder_input(ImagePair(image, image).to(device), turn.to(device), cube, 33).cpu()
    points = cube.lattice(33).points(torch.float64)
    for i, x in ((0, -1.0), (16, 0.0), (32, 1.0)):
        assert cube.to_unit(points[(i,) * grid.ndim]).tolist() == pytest.approx(
            [x] * grid.ndim, abs=1e-9
        )
    for values, x in ((found[0], points), (found[1], turn.cpu()(points).detach())):
        voxels, last = grid.to_voxel(x), torch.tensor(grid.shape) - 1.0
        within, beyond = (
            ((voxels > 0) & (voxels < last)).all(-1),
            ((voxels < -1.5) | (voxels > last + 1.5)).any(-1),
        )
        assert (values[beyond] == 0).all()
        # linear interpolation, and a blur of less than the wave's length
        assert (values - wave(x).float())[within].abs().max() < 0.1
        assert 100 < within.sum() < within.numel() - beyond.sum()
        assert beyond.sum() > 100


def test_the_order_of_the_axes_says_nothing() -> None:
    """The same images with their voxels in another order are the same pair."""
    pair, network = as_pair(blobs(1)), awake(2)
    order = signed_permutations(2)[5]
    assert not np.allclose(np.abs(order), np.eye(2)) or (order < 0).any()

    def reordered(image: Image) -> Image:
        affine, n = image.grid.affine.copy(), np.array(image.grid.shape)
        axes = np.abs(order).argmax(0)
        data = image.data.permute(0, *(axes + 1).tolist()).flip(
            [a + 1 for a in range(2) if order[:, a].min() < 0]
        )
        affine[:2, 2] += image.grid.matrix @ ((n - 1) * (order.min(1) < 0))
        affine[:2, :2] = image.grid.matrix @ order
        return Image(data.contiguous(), Grid(tuple(n[axes]), affine), image.name)

    other = ImagePair(*(reordered(image) for image in (pair.fixed, pair.moving)))
    points = pair.fixed.grid.points()
    expected = network.start(pair)(points)
    torch.testing.assert_close(network.start(other)(points), expected, atol=1e-3, rtol=0)
    assert (expected - points).abs().max() > 0.5


# --- what it hands over ---------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [2, 3])
def test_untrained_it_predicts_the_identity(ndim: int, device: torch.device) -> None:
    pair = as_pair(blobs(1, ndim)).to(device)
    start = untrained(REGISTRATION, ndim, SHORT, 0).to(device).start(pair)
    points = pair.fixed.grid.points(device=device)
    assert torch.equal(start(points), points)
    assert start.network.whole.abs().max() > 0


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_start_is_the_map_of_training(ndim: int) -> None:
    pair, network = as_pair(blobs(1, ndim)), awake(ndim)
    made = example(pair, network, REGISTRATION, 3.0)
    trained, start, points = (
        network.transform(network(made.images), made.cube),
        network.start(pair),
        pair.fixed.grid.points(),
    )
    for a, b in ((trained, start), (trained.fitted_inverse(), start.fitted_inverse())):
        torch.testing.assert_close(a(points), b(points))
    assert (start(points) - points).abs().max() > 0.5


def test_a_start_is_its_own_and_comes_back_from_its_file(tmp_path: Path) -> None:
    pair, network = as_pair(blobs(1)), awake(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = Predicted(network, REGISTRATION).run(pair)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    save_transform(result.transform, tmp_path)
    points = pair.fixed.grid.points()
    assert torch.equal(load_transform(tmp_path)(points), result.transform(points))
    assert (result.transform(points) - network.start(pair)(points)).abs().max() > 0.05


def test_the_codes_alone_may_be_fitted(tmp_path: Path, device: torch.device) -> None:
    pair, network = as_pair(blobs(1)).to(device), awake(2).to(device)
    result = Predicted(network, REGISTRATION, decoders=False).run(pair)
    found = result.transform.network.state_dict()
    for name, value in network.decoders.state_dict().items():
        assert torch.equal(found[name], value) == (name not in ("whole", "local"))
    assert {name for name, _ in codes_only(network.start(pair)).named_parameters()} == {
        "network.whole",
        "network.local",
    }
    save_transform(result.transform, tmp_path)
    points = pair.fixed.grid.points(device=device)
    torch.testing.assert_close(load_transform(tmp_path, device)(points), result.transform(points))


def test_it_sees_the_moving_image_through_the_start() -> None:
    """A moving image that was carried away and brought back by ``initial`` is as if it had
    stayed.
    """
    pair, network = as_pair(blobs(1)), awake(2)
    shift = np.array([30.0, -12.0])
    affine = pair.moving.grid.affine.copy()
    affine[:2, 2] += shift
    away = replace(pair, moving=Image(pair.moving.data, Grid(pair.moving.grid.shape, affine)))
    back = Affine.from_matrix(
        torch.eye(2), torch.from_numpy(shift).float(), torch.zeros(2)
    ).requires_grad_(False)
    points = pair.fixed.grid.points()
    torch.testing.assert_close(
        network.start(away, back)(points), network.start(pair)(points), atol=1e-3, rtol=0
    )
    assert (network.start(away)(points) - network.start(pair)(points)).abs().max() > 0.05
    total = Predicted(network, REGISTRATION).run(away, back).transform(points)
    torch.testing.assert_close(
        total,
        Predicted(network, REGISTRATION).run(pair).transform(points)
        + torch.from_numpy(shift).float(),
        atol=0.05,
        rtol=0,
    )


def test_a_network_comes_back_from_its_file(tmp_path: Path, device: torch.device) -> None:
    pair, network = as_pair(blobs(1)).to(device), awake(2).to(device)
    save_amortised(network, tmp_path / "net.safetensors", {"trained on": "nothing"})
    loaded, points = (
        load_amortised(tmp_path / "net.safetensors", device),
        pair.fixed.grid.points(device=device),
    )
    assert torch.equal(loaded.start(pair)(points), network.start(pair)(points))
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="holds no amortised nephi of ours"):
        load_amortised(tmp_path / "text")


def test_what_does_not_fit_is_refused() -> None:
    flat, solid = as_pair(blobs(1)), as_pair(blobs(1, 3))
    with pytest.raises(InputError, match="this network is for 2-D images"):
        awake(2).start(solid)
    with pytest.raises(InputError, match="cannot be trained on together"):
        train([flat, solid], REGISTRATION, SHORT)
    with pytest.raises(InputError, match="give a registration with transform=NeuralModel"):
        train(
            [flat],
            replace(REGISTRATION, transform=NeuralModel("nephi", SMALL, lattice_mm=8.0)),
            SHORT,
        )
    with pytest.raises(InputError, match="at least one pair"):
        train([], REGISTRATION, SHORT)
    with pytest.raises(InputError, match="1 pairs and 2 initial"):
        train([flat], REGISTRATION, SHORT, initial=[None, None])
    with pytest.raises(InputError, match="at least 1 epoch"):
        Training(epochs=0)
    with pytest.raises(InputError, match="multiples of 8, got 3 and"):
        Encoder(3, 8, 8, 5, (8, 12))


# --- training -------------------------------------------------------------------------------------


def test_the_cost_is_that_of_the_registration() -> None:
    """At the same sites: those of the same seed."""
    pair, transform = as_pair(blobs(1)), awake(2).start(as_pair(blobs(1)))
    expected = cost(
        REGISTRATION,
        REGISTRATION.level(pair, 3.0),
        transform,
        None,
        torch.Generator().manual_seed(7),
    ).item()
    assert replace(REGISTRATION, transform=transform).run(pair, seed=7).history[
        0
    ].cost == pytest.approx(expected, rel=1e-5)


def test_every_weight_learns(device: torch.device) -> None:
    pair, network = as_pair(blobs(1, 3)).to(device), awake(3).to(device)
    made = example(pair, network, REGISTRATION, 3.0)
    training_loss(network, made, REGISTRATION, 0.01, torch.Generator().manual_seed(0)).backward()
    assert [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 0
    ] == []


@pytest.fixture(scope="module")
def taught() -> tuple[list[PhantomPair], AmortisedNePhi]:
    phantoms = [blobs(seed) for seed in (1, 2)]
    pairs = [as_pair(phantom) for phantom in phantoms]
    back = [
        ImagePair(phantom.moving, phantom.fixed, phantom.moving_mask.mask()) for phantom in phantoms
    ]
    return phantoms, train([*pairs, *back], REGISTRATION, replace(SHORT, epochs=80, rate=3e-3))


def test_it_learns_to_tell_pairs_apart(taught: tuple[list[PhantomPair], AmortisedNePhi]) -> None:
    """Each motion and its opposite, from one set of weights: nothing but the images says which.

    Measured: 0.3 to 0.5 mm.
    """
    phantoms, network = taught
    for phantom in phantoms:
        x, y = phantom.fixed_landmarks.coords.float(), phantom.moving_landmarks.coords.float()
        there, back = (
            network.start(as_pair(phantom)),
            network.start(ImagePair(phantom.moving, phantom.fixed)),
        )
        assert (x - y).norm(dim=1).mean() > 6.9
        assert (there(x) - y).norm(dim=1).mean() < 1.0
        assert (back(y) - x).norm(dim=1).mean() < 1.0
        assert (there.fitted_inverse()(y) - x).norm(dim=1).mean() < 1.0


def test_a_fit_from_its_start_ends_lower(taught: tuple[list[PhantomPair], AmortisedNePhi]) -> None:
    phantoms, network = taught
    pair = as_pair(phantoms[0])

    def last(result_of: Registration | Predicted) -> float:
        return np.mean([record.cost for record in result_of.run(pair).history[-3:]])

    assert last(Predicted(network, REGISTRATION)) < 0.5 * last(REGISTRATION)


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    pairs, held_out = [as_pair(blobs(seed)) for seed in (1, 2)], [as_pair(blobs(3))]

    def run(name: str, **more: object) -> AmortisedNePhi:
        return train(
            pairs,
            REGISTRATION,
            SHORT,
            held_out=held_out,
            checkpoint=tmp_path / name,
            seed=5,
            **more,
        )

    def interrupt(epoch: object) -> None:
        raise KeyboardInterrupt

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("part", progress=interrupt)
    resumed = run("part", resume=True)
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    other = train(pairs, REGISTRATION, SHORT, seed=6)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), other.state_dict().values(), strict=True)
    )
    with pytest.raises(InputError, match="train with the same settings"):
        train(
            pairs,
            replace(REGISTRATION, similarities=(MSE(1.0),)),
            SHORT,
            seed=5,
            checkpoint=tmp_path / "part",
            resume=True,
        )


def test_training_on_a_device_starts_from_pairs(device: torch.device) -> None:
    network = train(
        [as_pair(blobs(1))],
        REGISTRATION,
        replace(SHORT, epochs=1),
        device=device,
        initial=[Affine.from_matrix(torch.eye(2), torch.ones(2), torch.zeros(2))],
    )
    assert {p.device.type for p in network.parameters()} == {device.type}
    assert network.start(as_pair(blobs(2)).to(device)).device.type == device.type
