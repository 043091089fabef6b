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
    """What a model gains over the baseline: ``metrics``, name -> difference of the fractions.

    ``gap_share``: the share of the baseline's gap to the teacher that the first metric's gain closes; None
    without a teacher, or with one that is not above the baseline.
    """

    model: str
    baseline: str
    metrics: Metrics
    gap_share: float | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Which model the others are compared with, and which one is their teacher.

    Where none is named, the baseline is the first that is not the teacher, which is compared with nobody.
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
        rows = [["percent", *models, *(f"gain of {gain.model}" for gain in gains)]]
        for name in next(iter(models.values())):
            cells = [f"{100 * metrics[name]:.1f}" for metrics in models.values()]
            rows.append([name, *cells, *(f"{rounded_percent(gain.metrics[name]):+.1f}" for gain in gains)])
        return text_table(rows, narrowest=9)

    def sentences(self, models: Mapping[str, Metrics]) -> list[str]:
        """One sentence for each gain: its size and its share of the gap to the teacher."""
        found = []
        for gain in self.gains(models):
            name, value = next(iter(gain.metrics.items()))
            of = {model: f"{100 * metrics[name]:.1f}" for model, metrics in models.items()}
            text = (
                f"{gain.model} {points(value, gain.baseline, f' of {name}')} "
                f"({of[gain.model]} against {of[gain.baseline]})"
            )
            if gain.gap_share is not None and is_gain(value):
                text += f": {100 * gain.gap_share:.0f} % of the gap to {self.teacher} ({of[self.teacher]})"
            found.append(text + ".")
        return found


def rounded_percent(fraction: float) -> float:
    """Percent with one digit; adding 0 makes 0.0 of a rounded -0.0."""
    return round(100 * fraction, 1) + 0.0


def is_gain(difference: float) -> bool:
    """Whether a difference, a fraction, is more than 0.0 points in a table."""
    return 100 * difference >= 0.05


def points(difference: float, other: str, of: str = "") -> str:
    """A difference, a fraction, as the words "gains 1.2 points over other"; a tie neither gains nor loses."""
    if is_gain(-difference):
        return f"loses {-100 * difference:.1f} points{of} to {other}"
    return f"gains {f'{100 * difference:.1f}' if is_gain(difference) else 'no'} points{of} over {other}"


def text_table(rows: Sequence[Sequence[str]], first: int = 0, narrowest: int = 8) -> str:
    """Rows of texts, the head first, in columns: the first to the left, the others to the right."""
    first = max(first, *(len(row[0]) for row in rows)) + 1
    widths = [max(narrowest, len(title) + 2) for title in rows[0][1:]]
    return "\n".join(
        f"{label:<{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for label, *cells in rows
    )


#: Neither baseline nor teacher is named.
ALONE = Comparison()
