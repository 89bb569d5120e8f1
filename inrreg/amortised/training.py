"""Training of encoder and decoders without any truth: the mean over pairs of the cost that a
``Registration`` would make small pair by pair.

So the network is taught by the same similarities and penalties, at the same sites, that go on from
its prediction afterwards. A small penalty on the codes that the encoder adds keeps those of a new
pair among those that the decoders know.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.amortised.network import AmortisedNePhi, encoder_input
from inrreg.core.errors import InputError
from inrreg.core.grid import Cube
from inrreg.core.image_pair import ImagePair
from inrreg.objective.step import Level, Samples, Step
from inrreg.optimisation.training_loop import Progress, Run
from inrreg.stages.gradient_registration import Registration
from inrreg.transforms import NeuralModel, Transform
from inrreg.transforms.composite import frozen_start
from inrreg.transforms.description import described

TRAINING_FIELDS = (
    "similarities",
    "penalties",
    "sampler",
    "penalty_sampler",
    "mask_margin_mm",
    "use_moving_mask",
)
"""The fields of a registration that influence training."""


@dataclass(frozen=True, eq=False)
class Example:
    """What training needs of a pair: its ``images`` on its ``cube``, both at the spacing of
    training, and the map that they are seen through.
    """

    images: Float[Tensor, "2 *size"]
    cube: Cube
    level: Level
    start: Transform | None


@dataclass(frozen=True)
class Training:
    """``epochs`` visits to every pair, with Adam from ``rate`` to 0, images at ``spacing_mm``.

    ``prior`` weighs the mean square of the codes that the encoder adds. Where pairs are held out,
    training ends ``patience`` epochs after the best for them.

    Raises:
        InputError: no epoch or patience, a rate or spacing that is not above 0, or a negative
            prior.
    """

    epochs: int = 100
    spacing_mm: float = 4.0
    rate: float = 1e-3
    prior: float = 0.001
    patience: int = 20
    channels: tuple[int, ...] = (16, 32, 64)

    def __post_init__(self) -> None:
        if (
            min(self.epochs, self.patience) < 1
            or not min(self.rate, self.spacing_mm) > 0
            or self.prior < 0
        ):
            raise InputError(
                "training needs at least 1 epoch and a patience of 1, a rate and a spacing above 0"
                f" and no negative prior, got {self}"
            )


def train(
    pairs: Sequence[ImagePair],
    registration: Registration,
    settings: Training | None = None,
    *,
    initial: Sequence[Transform | None] | None = None,
    held_out: Sequence[ImagePair] = (),
    held_out_initial: Sequence[Transform | None] | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> AmortisedNePhi:
    """A network whose start of ``registration``, with its ``NeuralModel("nephi")``, is near its end
    on pairs like ``pairs``, each seen through its ``initial``; on ``device``.

    Guiding landmarks of the pairs take no part.

    ``checkpoint`` is written after every epoch; with ``resume`` training goes on from it where it
    is there, and on a CPU ends in the same bits as without a stop.

    Raises:
        InputError: no pair, pairs of 2-D and of 3-D images, another transform than NePhi, or a
            checkpoint of other settings.
    """
    settings = settings or Training()
    network = untrained(registration, pairs[0].fixed.grid.ndim if pairs else 3, settings, seed).to(
        device
    )
    examples, held_out_examples = (
        _examples(each, starts, network, registration, settings, device)
        for each, starts in ((pairs, initial), (held_out, held_out_initial))
    )
    return train_on(
        examples,
        network,
        registration,
        settings,
        held_out=held_out_examples,
        seed=seed,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )


def train_on(
    examples: Sequence[Example],
    network: AmortisedNePhi,
    registration: Registration,
    settings: Training,
    *,
    held_out: Sequence[Example] = (),
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> AmortisedNePhi:
    """Train ``network`` in place on examples that are at hand, on the device they are on; see
    ``train`` for the rest.
    """
    if not examples:
        raise InputError("training needs at least one pair")

    def loss(example: Example, generator: torch.Generator) -> Float[Tensor, ""]:
        return training_loss(network, example, registration, settings.prior, generator)

    training_fields = {name: described(getattr(registration, name)) for name in TRAINING_FIELDS}
    run = Run(
        network,
        settings.rate,
        seed,
        {
            "training": asdict(settings),
            "architecture": network.architecture(),
            "registration": training_fields,
        },
    )
    run.fit(
        examples,
        loss,
        settings.epochs,
        held_out=held_out,
        patience=settings.patience,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )
    return network.requires_grad_(False)


def untrained(
    registration: Registration, ndim: int, settings: Training, seed: int
) -> AmortisedNePhi:
    """The network for the transform of ``registration``: it predicts the identity.

    Raises:
        InputError: another transform than ``NeuralModel("nephi")`` without a lattice.
    """
    model = registration.transform
    if (
        not isinstance(model, NeuralModel)
        or model.network != "nephi"
        or model.lattice_mm is not None
    ):
        raise InputError(
            "an encoder predicts the codes of NePhi; give a registration with"
            f" transform=NeuralModel('nephi'), without `lattice_mm`, not {model}"
        )
    return AmortisedNePhi(
        ndim, model.options, model.scale_mm, settings.channels, torch.Generator().manual_seed(seed)
    )


def example(
    pair: ImagePair,
    network: AmortisedNePhi,
    registration: Registration,
    spacing_mm: float,
    initial: Transform | None = None,
) -> Example:
    """What ``registration`` would see of ``pair`` at ``spacing_mm``; on the device of the pair."""
    cube = Cube.around(pair.fixed.grid)
    start = frozen_start(initial, pair.fixed.device)
    return Example(
        encoder_input(pair, start, cube, network.encoder.size),
        cube,
        registration.level(pair, spacing_mm),
        start,
    )


def training_loss(
    network: AmortisedNePhi,
    example: Example,
    registration: Registration,
    prior: float,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """The cost of the predicted map, and ``prior`` times the mean square of what the encoder adds
    to the shared codes.
    """
    codes = network(example.images)
    added = torch.cat(
        [codes.whole - network.decoders.whole, (codes.local - network.decoders.local).flatten()]
    )
    return (
        cost(
            registration,
            example.level,
            network.transform(codes, example.cube),
            example.start,
            generator,
        )
        + prior * added.square().mean()
    )


def cost(
    registration: Registration,
    level: Level,
    transform: Transform,
    start: Transform | None,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """What ``registration`` makes small, at sites that ``generator`` chooses: the same generator,
    the same sites.
    """
    terms = (
        (registration.similarities, registration.sampler),
        (registration.penalties, registration.penalty_sampler),
    )
    steps = [
        (
            each,
            Step(
                Samples(level, sampler.draw(level.fixed_mask, generator)),
                transform.materialised(),
                start,
            ),
        )
        for each, sampler in terms
        if each
    ]
    return torch.stack([term.weight * term(step) for each, step in steps for term in each]).sum()


def _examples(
    pairs: Sequence[ImagePair],
    initial: Sequence[Transform | None] | None,
    network: AmortisedNePhi,
    registration: Registration,
    settings: Training,
    device: torch.device | str,
) -> list[Example]:
    starts = initial or [None] * len(pairs)
    if len(starts) != len(pairs):
        raise InputError(
            f"{len(pairs)} pairs and {len(starts)} initial transforms; give one a pair, or none"
        )
    if any(pair.fixed.grid.ndim != network.ndim for pair in pairs):
        raise InputError(
            "pairs of 2-D and of 3-D images cannot be trained on together; train a network for each"
        )
    return [
        example(
            pair.to(device),
            network,
            registration,
            settings.spacing_mm,
            start,
        )
        for pair, start in zip(pairs, starts, strict=True)
    ]
