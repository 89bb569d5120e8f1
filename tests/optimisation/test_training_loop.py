"""Training of any network: it descends, goes on to the same bits, stops where nothing is gained,
and keeps its files whole.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from inrreg.core.errors import InputError, OutputError
from inrreg.core.tensor_files import read_tensors, write_tensors
from inrreg.optimisation.training_loop import Epoch, Run

Example = tuple[Tensor, Tensor]


def line(n: int, seed: int, device: torch.device | str = "cpu") -> list[Example]:
    """Points of y = 2 x - 1, a few at a time."""
    x = torch.randn(n, 8, 1, generator=torch.Generator().manual_seed(seed)).to(device)
    return [(each, 2 * each - 1) for each in x]


class Fit:
    """A linear layer with a run around it."""

    def __init__(
        self, rate: float = 0.1, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.model = nn.Linear(1, 1)
        with torch.no_grad():
            self.model.weight.zero_()
            self.model.bias.zero_()
        self.model.to(device)
        self.run = Run(self.model, rate, seed, {"of": "a line", "rate": rate, "sizes": (1, 1)})

    def loss(self, example: Example, generator: torch.Generator) -> Tensor:
        """At some of the points, with noise: both are of the generator."""
        x, y = example
        few = torch.randint(len(x), (4,), generator=generator)
        return (
            (
                self.model(x)[few.to(x.device)]
                - y[few.to(x.device)]
                + 0.1 * torch.randn(4, 1, generator=generator).to(x.device)
            )
            .square()
            .mean()
        )

    @property
    def weights(self) -> list[float]:
        return [float(p.detach()) for p in self.model.parameters()]


def test_it_descends_and_tells(device: torch.device) -> None:
    fit, told = Fit(device=device), []
    fit.run.fit(
        line(10, 0, device),
        fit.loss,
        30,
        held_out=line(3, 1, device),
        patience=30,
        progress=told.append,
    )
    assert fit.weights == pytest.approx([2, -1], abs=0.1)
    assert [epoch.number for epoch in told] == list(range(1, 31))
    assert told[-1].loss < 0.05 * told[0].loss
    assert told[-1].held_out < 0.05 * told[0].held_out


@pytest.mark.parametrize("stop", [1, 4])
def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path: Path, stop: int) -> None:
    examples, held_out = line(5, 0), line(2, 1)
    whole = Fit()
    whole.run.fit(examples, whole.loss, 7, held_out=held_out)

    def interrupt(epoch: Epoch) -> None:
        if epoch.number == stop:
            raise KeyboardInterrupt

    part = Fit()
    with pytest.raises(KeyboardInterrupt):
        part.run.fit(
            examples, part.loss, 7, held_out=held_out, checkpoint=tmp_path / "c", progress=interrupt
        )
    rest = Fit()
    rest.run.fit(examples, rest.loss, 7, held_out=held_out, checkpoint=tmp_path / "c", resume=True)
    assert rest.weights == whole.weights
    assert rest.run.history == whole.run.history
    assert rest.weights != part.weights
    other = Fit(seed=1)
    other.run.fit(examples, other.loss, 7, held_out=held_out)
    assert other.weights != whole.weights
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_it_stops_after_the_best_for_what_is_held_out_and_keeps_it(tmp_path: Path) -> None:
    """The held-out points are of another line, which the fit passes on its way."""
    fit, kept = Fit(rate=0.05), {}
    between = [(x, 1.0 * x - 0.5) for x, _ in line(3, 1)]

    def note(epoch: Epoch) -> None:
        kept[epoch.number] = fit.weights

    fit.run.fit(
        line(5, 0),
        fit.loss,
        40,
        held_out=between,
        patience=4,
        checkpoint=tmp_path / "c",
        progress=note,
    )
    best = min(fit.run.history, key=lambda epoch: epoch.held_out).number
    assert 1 < best == len(fit.run.history) - 4 < 36
    assert fit.weights == kept[best] != kept[best + 4]
    again = Fit(rate=0.05)
    again.run.fit(
        line(5, 0),
        again.loss,
        40,
        held_out=between,
        patience=4,
        checkpoint=tmp_path / "c",
        resume=True,
    )
    assert (again.weights, again.run.history) == (fit.weights, fit.run.history)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    fit = Fit()
    fit.run.fit(line(2, 0), fit.loss, 1, checkpoint=tmp_path / "c")
    other = Fit(rate=0.2)
    with pytest.raises(InputError, match="train with the same settings, or without resume"):
        other.run.fit(line(2, 0), other.loss, 1, checkpoint=tmp_path / "c", resume=True)
    (tmp_path / "c").write_bytes(b"nothing")
    with pytest.raises(InputError, match="holds no training of ours or is damaged"):
        fit.run.restore(tmp_path / "c")


def test_a_loss_that_is_not_finite_ends_it() -> None:
    fit = Fit()
    with pytest.raises(InputError, match="became nan in epoch 1; lower the rate"):
        fit.run.fit(
            line(2, 0), lambda example, generator: fit.loss(example, generator) * torch.nan, 3
        )
    assert fit.weights == [0, 0]


def test_tensors_come_back_with_their_description(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor([1, 2], dtype=torch.uint8)}
    write_tensors(tmp_path / "t", "letters", tensors, {"n": [1, 0.1]})
    read, description = read_tensors(tmp_path / "t", "letters")
    assert all(torch.equal(read[name], value) for name, value in tensors.items())
    assert description == {"n": [1, 0.1]}
    with pytest.raises(InputError, match="holds no numbers of ours"):
        read_tensors(tmp_path / "t", "numbers")
    with pytest.raises(InputError, match="holds no letters of ours"):
        read_tensors(tmp_path / "missing", "letters")
    with pytest.raises(OutputError, match="could not be written"):
        write_tensors(tmp_path / "t" / "below", "letters", tensors, {})
