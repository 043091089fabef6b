"""Several models side by side: gains over a baseline, and their share of the gap to the teacher.

Knows no protocol: it sees named fractions, of which the first is the one that counts (``Result.metrics``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from fgfi_tf.errors import UserError

Metrics = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Gain:
    """What a model gains over the baseline.

    Attributes:
        model, baseline: their names.
        metrics: name -> difference of the fractions.
        gap_share: the share of the baseline's gap to the teacher that the first metric's gain closes; None
            without a teacher, or with one that is not above the baseline.
    """

    model: str
    baseline: str
    metrics: Metrics
    gap_share: float | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Which model the others are compared with, and which one is their teacher.

    Attributes:
        baseline: name of the baseline; empty: the first that is not the teacher.
        teacher: name of the teacher, which is compared with nobody; empty: there is none.
    """

    baseline: str = ""
    teacher: str = ""

    def check(self, names: Sequence[str]) -> None:
        """Raises UserError where baseline or teacher is none of the models, or both are the same."""
        for flag in ("baseline", "teacher"):
            name = getattr(self, flag)
            if name and name not in names:
                raise UserError(f"--{flag}={name} is none of the compared models: {', '.join(names)}")
        if self.teacher and self.teacher == self.baseline:
            raise UserError(f"--baseline={self.baseline} cannot be the --teacher as well")

    def pairs(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """(baseline, model) for each model that is compared."""
        students = [name for name in names if name != self.teacher]
        baseline = self.baseline or next(iter(students), "")
        return [(baseline, name) for name in students if name != baseline]

    def gains(self, models: Mapping[str, Metrics]) -> list[Gain]:
        """The gain of each compared model; ``models``: name -> fractions, the same ones for all."""
        found = []
        for baseline, model in self.pairs(models):
            base, own = models[baseline], models[model]
            share = None
            if self.teacher:
                ranking = next(iter(own))
                gap = models[self.teacher][ranking] - base[ranking]
                share = (own[ranking] - base[ranking]) / gap if gap > 0 else None
            found.append(Gain(model, baseline, {key: own[key] - base[key] for key in own}, share))
        return found

    def table(self, models: Mapping[str, Metrics]) -> str:
        """A column for each model and each gain, a line for each metric, in percent."""
        gains = self.gains(models)
        titles = [*models, *(f"gain of {gain.model}" for gain in gains)]
        widths = [max(9, len(title) + 2) for title in titles]
        names = list(next(iter(models.values())))
        first = max(map(len, ["percent", *names])) + 1
        lines = [f"{'percent':<{first}}" + "".join(f"{t:>{w}}" for t, w in zip(titles, widths, strict=True))]
        for name in names:
            cells = [f"{100 * metrics[name]:.1f}" for metrics in models.values()]
            cells += [f"{100 * gain.metrics[name]:+.1f}" for gain in gains]
            cells = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
            lines.append(f"{name:<{first}}{cells}")
        return "\n".join(lines)

    def sentences(self, models: Mapping[str, Metrics]) -> list[str]:
        """One sentence for each gain: its size and its share of the gap to the teacher."""
        return [self._sentence(gain, models) for gain in self.gains(models)]

    def _sentence(self, gain: Gain, models: Mapping[str, Metrics]) -> str:
        ranking, value = next(iter(gain.metrics.items()))
        verb = "gains" if value >= 0 else "loses"
        text = (
            f"{gain.model} {verb} {abs(100 * value):.1f} points of {ranking} over {gain.baseline} "
            f"({100 * models[gain.model][ranking]:.1f} against {100 * models[gain.baseline][ranking]:.1f})"
        )
        if gain.gap_share is not None:
            teacher = f"{self.teacher} ({100 * models[self.teacher][ranking]:.1f})"
            text += f": {100 * gain.gap_share:.0f} % of the gap to {teacher}"
        return text + "."


#: Neither baseline nor teacher is named.
ALONE = Comparison()
