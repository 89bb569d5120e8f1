"""Training of a network on a set of examples, whatever it is: epochs, a falling rate, checkpoints
to go on from, and a stop where held-out examples gain no more.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import cos, pi
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inrreg.core.errors import InputError
from inrreg.core.tensor_files import read_tensors, write_tensors

log = logging.getLogger(__name__)
Example = TypeVar("Example")
Loss = Callable[[Example, torch.Generator], Float[Tensor, ""]]
"""The loss on one example, whose random parts the generator chooses."""
KIND = "training"
LARGEST_GRADIENT = 1.0
"""A longer gradient is shortened to this."""


@dataclass(frozen=True)
class Epoch:
    """One visit to every example: the mean ``loss`` of its steps, and of the ``held_out`` examples
    after it (None where there are none).
    """

    number: int
    epochs: int
    loss: float
    held_out: float | None


Progress = Callable[[Epoch], None]


class Run:
    """Everything that a checkpoint holds: the model, Adam, whose rate falls from ``rate`` to 0
    along half a cosine, the random numbers and the best weights so far.

    ``description`` (JSON values) says what is trained and how: a checkpoint of another one is
    refused.
    """

    def __init__(
        self, model: nn.Module, rate: float, seed: int, description: Mapping[str, Any]
    ) -> None:
        self.model, self.rate, self.seed = model, rate, seed
        # as it will be read back: lists for tuples
        self.description = json.loads(json.dumps({**description, "seed": seed}))
        self.optimiser = torch.optim.Adam(model.parameters(), rate)
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = 0
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}

    def fit(
        self,
        examples: Sequence[Example],
        loss: Loss[Example],
        epochs: int,
        *,
        held_out: Sequence[Example] = (),
        patience: int = 10,
        checkpoint: Path | None = None,
        resume: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Visit the examples ``epochs`` times in random order, a step each; with ``held_out`` ones
        stop ``patience`` epochs after the best, whose weights are kept.

        ``checkpoint`` is written after every epoch; with ``resume`` training goes on from it where
        it is there, and on a CPU ends in the same bits as without a stop.

        Raises:
            InputError: a checkpoint of other settings, or a loss that is not finite.
        """
        if resume and checkpoint is not None and checkpoint.exists():
            self.restore(checkpoint)
        while len(self.history) < epochs and not self._stalled(patience):
            order = torch.randperm(len(examples), generator=self.generator).tolist()
            losses = [
                self._step(loss(examples[i], self.generator), epochs * len(examples)) for i in order
            ]
            judged = self._judged(held_out, loss)
            self._note(Epoch(len(self.history) + 1, epochs, sum(losses) / len(losses), judged))
            if checkpoint is not None:
                self.save(checkpoint)
            if progress is not None:
                progress(self.history[-1])
        if self.best:
            self.model.load_state_dict(self.best)

    def _step(self, loss: Float[Tensor, ""], steps: int) -> float:
        """One of ``steps`` steps of the whole training."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * 0.5 * (1 + cos(pi * self.steps / steps))
        if not torch.isfinite(loss):
            raise InputError(
                f"the training loss became {float(loss.detach())} in epoch {len(self.history) + 1};"
                " lower the rate, and check the images for extreme intensities"
            )
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT)
        self.optimiser.step()
        self.steps += 1
        return float(loss.detach())

    @torch.no_grad()
    def _judged(self, held_out: Sequence[Example], loss: Loss[Example]) -> float | None:
        """The mean loss of examples that it does not learn from, with the same random numbers every
        time.
        """
        if not held_out:
            return None
        return sum(
            float(loss(example, torch.Generator().manual_seed(self.seed))) for example in held_out
        ) / len(held_out)

    def _note(self, epoch: Epoch) -> None:
        log.info(
            "epoch %d of %d: loss %.5f%s",
            epoch.number,
            epoch.epochs,
            epoch.loss,
            "" if epoch.held_out is None else f", held out {epoch.held_out:.5f}",
        )
        self.history.append(epoch)
        if epoch.held_out is not None and self._best_epoch() == epoch.number:
            self.best = {
                name: value.detach().clone() for name, value in self.model.state_dict().items()
            }

    def _best_epoch(self) -> int:
        """The first epoch of the least held-out loss; 0 where nothing is held out."""
        judged = [
            (epoch.held_out, epoch.number) for epoch in self.history if epoch.held_out is not None
        ]
        return min(judged)[1] if judged else 0

    def _stalled(self, patience: int) -> bool:
        best = self._best_epoch()
        return best > 0 and len(self.history) - best >= patience

    def save(self, path: Path) -> None:
        """Write all of it, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()} | {
            f"best.{name}": value for name, value in self.best.items()
        }
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{name}": value for name, value in state.items()}
        write_tensors(
            path,
            KIND,
            tensors | {"rng": self.generator.get_state()},
            {
                "of": self.description,
                "steps": self.steps,
                "history": [asdict(epoch) for epoch in self.history],
            },
        )

    def restore(self, path: Path) -> None:
        """Go on from what ``save`` wrote.

        Raises:
            InputError: damaged, or of other settings.
        """
        tensors, written = read_tensors(path, KIND)
        if written.get("of") != self.description:
            raise InputError(
                f"{path} is a checkpoint of {written.get('of')}, but this training is"
                f" {self.description}; train with the same settings, or without resume"
            )
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimiser": {}, "rng": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimiser"].items():
            index, _, rest = name.partition(".")
            state.setdefault(int(index), {})[rest] = value
        self.model.load_state_dict(parts["model"])
        self.optimiser.load_state_dict(
            {"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]}
        )
        self.generator.set_state(parts["rng"][""])
        self.best = {
            name: value.to(self.model.state_dict()[name].device)
            for name, value in parts["best"].items()
        }
        self.steps, self.history = (
            written["steps"],
            [Epoch(**epoch) for epoch in written["history"]],
        )
