"""A continuous stage that begins where a trained encoder says."""

from dataclasses import dataclass, replace

from inrreg.amortised.network import AmortisedNePhi, codes_only
from inrreg.core.image_pair import ImagePair
from inrreg.optimisation.stage_result import Progress, StageResult
from inrreg.stages.gradient_registration import Registration
from inrreg.transforms import Transform


@dataclass(frozen=True, eq=False)
class Predicted:
    """Runs ``stage`` on the map that ``network`` predicts for the pair, seen through ``initial``,
    instead of on the identity: instance optimisation.

    It fits the codes of the pair and, unless ``decoders`` is False, the decoders with them. The
    network is part of the settings and never changes: a run fits copies of its tensors. The model
    in ``stage.transform`` is not built.
    """

    network: AmortisedNePhi
    stage: Registration
    decoders: bool = True

    @property
    def name(self) -> str:
        return self.stage.name

    def run(
        self,
        pair: ImagePair,
        initial: Transform | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> StageResult:
        """The result of the stage.

        Raises:
            InputError: a pair of another number of dimensions than the network's.
        """
        predicted = self.network.start(pair, initial)
        return replace(
            self.stage, transform=predicted if self.decoders else codes_only(predicted)
        ).run(pair, initial, seed=seed, progress=progress)
