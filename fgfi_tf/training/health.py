"""What a run's numbers say will not work, each told once: losses of exactly 0, a dead adaptation, a loss that
drowns the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fgfi_tf.training.config import AUTO, ExperimentConfig

# So many steps in a row must show it: a few batches without an object are no fault, and both losses fall fast
# at the start.
STEPS = 10
SIZE_STEPS = 100
FACTOR = 10.0


class Health:
    """Looks at the means of a run's losses (the detector's ``losses`` by name) and says what is wrong."""

    def __init__(self, config: ExperimentConfig, losses: Sequence[str], warn: Callable[[str], None]):
        self._config, self._warn = config, warn
        self._losses = [name for name in losses if name != "weight_decay"]
        self._lasting: dict[str, int] = {}
        self._told: set[str] = set()

    def __call__(self, previous: int, step: int, values: Mapping[str, float]) -> None:
        """Looks at the means of the steps ``previous + 1`` to ``step``; see ``Distiller``."""
        steps, config = step - previous, self._config
        zero = [name for name in self._losses if self._lasts(name, values.get(name) == 0.0, steps)]
        if zero:
            self._once(
                "zero",
                f"{', '.join(zero)} {'was' if len(zero) == 1 else 'were'} exactly 0 in {STEPS} steps and "
                "more: nothing is learnt from it. No anchor may fit into the network input (a larger "
                "--input_size), or the images hold no object",
            )
        imitates = config.imitation and config.imitation_weight != 0
        begun = previous >= config.imitation_warmup_steps
        if imitates and begun and not 0 < config.imitation_end_step < step:
            self._check_adaptation(values, steps)
            self._check_size(values, steps)

    def _check_adaptation(self, values: Mapping[str, float], steps: int) -> None:
        masked, active = values.get("imitation_mask_share"), values.get("imitation_active_share")
        if self._lasts("dead", active == 0.0 and masked != 0.0, steps):
            self._once(
                "dead",
                f"every output of the imitation's adaptation was 0 in {STEPS} steps and more: it is dead, "
                "and the student learns nothing from its teacher. Start anew with a lower --learning_rate or "
                "--lr_warmup_steps, or with --imitation_adaptation=linear, which cannot die",
            )

    def _check_size(self, values: Mapping[str, float], steps: int) -> None:
        imitation = values.get("imitation_loss", 0.0)
        detection = sum(values.get(name, 0.0) for name in self._losses)
        apart = imitation > 0 and detection > 0 and not 1 / FACTOR <= imitation / detection <= FACTOR
        if not self._lasts("size", apart, steps, SIZE_STEPS):
            return
        which = "larger" if imitation > detection else "smaller"
        ratio = max(imitation, detection) / min(imitation, detection)
        weight, hint = self._config.imitation_weight, ""
        if weight != AUTO:
            hint = f"; --imitation_weight={weight * detection / imitation:.3g} would make them equal"
        self._once(
            "size",
            f"the imitation loss ({imitation:.3g}) is {ratio:.0f} times {which} than the detection losses "
            f"({detection:.3g}){hint}",
        )

    def _lasts(self, key: str, found: bool, steps: int, least: int = STEPS) -> bool:
        self._lasting[key] = self._lasting.get(key, 0) + steps if found else 0
        return self._lasting[key] >= least

    def _once(self, key: str, text: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self._warn(text)
