"""What a run's numbers say will not work, each told once: losses of exactly 0, a dead adaptation, a loss that
drowns the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.run_log import RunLog

# So many steps in a row must show it: a few batches without an object are no fault, and both losses fall fast
# at the start.
STEPS = 10
SIZE_STEPS = 100
FACTOR = 10.0


@dataclasses.dataclass
class Imitating:
    """The steps with imitation and its weight.

    Attributes:
        first: the first step with imitation, counted from 1.
        last: the last one, 0 for no end.
        weight: lambda; None where the run sets it itself (auto).
    """

    first: int = 1
    last: int = 0
    weight: float | None = 1.0


def watcher(
    config: ExperimentConfig, losses: Sequence[str], log: RunLog
) -> Callable[[int, int, Mapping[str, float]], None]:
    """A function of a summary, see :class:`Health`, that writes its warnings to the log."""
    imitating = None
    if config.imitation:
        weight = config.imitation_weight
        imitating = Imitating(
            config.imitation_warmup_steps + 1,
            config.imitation_end_step,
            None if isinstance(weight, str) else float(weight),
        )
    health = Health(losses, imitating)

    def watch(previous: int, step: int, values: Mapping[str, float]) -> None:
        for warning in health(previous, step, values):
            log.warn(warning)

    return watch


class Health:
    """Looks at the means of a run's losses.

    Args:
        losses: names of the detector's losses.
        imitating: None for a run without a teacher.
    """

    def __init__(self, losses: Sequence[str], imitating: Imitating | None = None):
        self._losses = [name for name in losses if name != "weight_decay"]
        self._imitating = imitating
        self._lasting: dict[str, int] = {}
        self._told: set[str] = set()

    def __call__(self, previous: int, step: int, values: Mapping[str, float]) -> list[str]:
        """New warnings, after the means of the steps ``previous + 1`` to ``step``; see ``Distiller``."""
        steps = step - previous
        zero = [name for name in self._losses if self._lasts(name, values.get(name) == 0.0, steps)]
        warnings = self._once("zero", self._zero(zero)) if zero else []
        if self._imitates(previous, step):
            found = {"dead": self._dead(values, steps), "size": self._size(values, steps)}
            warnings += [text for key, text in found.items() if text for text in self._once(key, text)]
        return warnings

    def _zero(self, names: Sequence[str]) -> str:
        verb = "was" if len(names) == 1 else "were"
        return (
            f"{', '.join(names)} {verb} exactly 0 in {STEPS} steps and more: nothing is learnt from it. "
            "No anchor may fit into the network input (a larger --input_size), or the images hold no object"
        )

    def _dead(self, values: Mapping[str, float], steps: int) -> str:
        masked, active = values.get("imitation_mask_share"), values.get("imitation_active_share")
        if not self._lasts("dead", active == 0.0 and masked != 0.0, steps):
            return ""
        return (
            f"every output of the imitation's adaptation was 0 in {STEPS} steps and more: it is dead, and "
            "the student learns nothing from its teacher. Start anew with a lower --learning_rate or "
            "--lr_warmup_steps, or with --imitation_adaptation=linear, which cannot die"
        )

    def _size(self, values: Mapping[str, float], steps: int) -> str:
        imitation = values.get("imitation_loss", 0.0)
        detection = sum(values.get(name, 0.0) for name in self._losses)
        apart = imitation > 0 and detection > 0 and not 1 / FACTOR <= imitation / detection <= FACTOR
        if not self._lasts("size", apart, steps, SIZE_STEPS):
            return ""
        which = "larger" if imitation > detection else "smaller"
        ratio = max(imitation, detection) / min(imitation, detection)
        hint = ""
        if self._imitating.weight:
            equal = self._imitating.weight * detection / imitation
            hint = f"; --imitation_weight={equal:.3g} would make them equal"
        return (
            f"the imitation loss ({imitation:.3g}) is {ratio:.0f} times {which} than the detection losses "
            f"({detection:.3g}){hint}"
        )

    def _imitates(self, previous: int, step: int) -> bool:
        when = self._imitating
        return (
            when is not None and when.weight != 0 and previous + 1 >= when.first and not 0 < when.last < step
        )

    def _lasts(self, key: str, found: bool, steps: int, least: int = STEPS) -> bool:
        self._lasting[key] = self._lasting.get(key, 0) + steps if found else 0
        return self._lasting[key] >= least

    def _once(self, key: str, text: str) -> list[str]:
        if key in self._told:
            return []
        self._told.add(key)
        return [text]
