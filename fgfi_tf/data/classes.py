"""Which classes of a dataset's labels are learnt, which are merged, and which are ignored.

Class names are data: ``--classes=car,van=car,truck=ignore`` learns ``car``, takes every ``van`` for one, and
ignores trucks in training and evaluation. The choice is applied when records are read, not when they are
written: records hold the names of the labels, so that one set of them serves every choice.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fgfi_tf.data import text_files
from fgfi_tf.errors import UserError
from fgfi_tf.options import did_you_mean
from fgfi_tf.paths import user_path

#: What a name is set equal to where its objects are to be ignored.
IGNORE = "ignore"
_FILE = re.compile(r".*[/\\].*|.*\.(txt|names|cfg)")


@dataclasses.dataclass(frozen=True)
class ClassChoice:
    """What a user, or a trained model, says of classes; see the module. Letter case is not told apart.

    Attributes:
        learnt: names in the order of the detector's classes; () leaves it to the dataset and its labels.
        renamed: lower-case name of the labels -> name of ``learnt``, or ``IGNORE``.
        strict: whether a name of the labels that is neither listed nor known to the dataset is an error.
    """

    learnt: tuple[str, ...] = ()
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    strict: bool = False

    @property
    def merges(self) -> str:
        """What is merged and ignored, as ``--classes`` takes it."""
        return ",".join(f"{name}={to}" for name, to in self.renamed.items())

    def of_model(self, class_names: Sequence[str]) -> ClassChoice:
        """The same merges for a model's own classes: what labels hold besides is no error.

        Raises UserError where one of its classes is to be merged into another or ignored.
        """
        known = {name.lower(): name for name in class_names} | {IGNORE: IGNORE}
        for name in sorted(self.renamed.keys() & known.keys()):
            raise UserError(
                f"--classes: {name}={self.renamed[name]}: {name!r} is a class of the model itself"
            )
        renamed = {name: known[to.lower()] for name, to in self.renamed.items() if to.lower() in known}
        return ClassChoice(tuple(class_names), renamed)


def parse(text: str) -> ClassChoice:
    """The choice that ``--classes`` names: a list with commas, or a file of one entry a line.

    An entry is a class to learn, ``NAME=CLASS``, or ``NAME=ignore``. Without any class to learn (``van=car``
    alone) those of the dataset are meant.

    Raises:
        UserError: the file cannot be read, an entry is malformed or contradicts another.
    """
    text = text.strip()
    if not text:
        return ClassChoice()
    entries = text.split(",")
    path = user_path(text) if "=" not in text else Path()
    if "," not in text and (_FILE.fullmatch(text) or path.is_file()):
        lines = text_files.read_text(path).splitlines()
        entries = [line for line in lines if line.strip() and not line.strip().startswith("#")]
        if not entries:
            raise UserError(f"--classes={text}: the file is empty; it must hold a class name a line")
    learnt: dict[str, str] = {}
    renamed: dict[str, str] = {}
    for entry in entries:
        name, equals, to = (part.strip() for part in entry.partition("="))
        if not name or (equals and not to) or "=" in to:
            raise UserError(f"--classes: {entry!r} is neither NAME, NAME=CLASS nor NAME={IGNORE}")
        if name.lower() == IGNORE:
            raise UserError(f"--classes: {entry!r}: write NAME={IGNORE} for each class to be ignored")
        if name.lower() in learnt or name.lower() in renamed:
            raise UserError(f"--classes: {name!r} is named twice (letter case is not told apart)")
        (renamed if equals else learnt)[name.lower()] = to if equals else name
    if learnt:
        learnt_or_ignored = learnt | {IGNORE: IGNORE}
        for name, to in renamed.items():
            if to.lower() not in learnt_or_ignored:
                raise UserError(f"--classes: {name}={to}: {to!r} is none of {', '.join(learnt.values())}")
            renamed[name] = learnt_or_ignored[to.lower()]
    return ClassChoice(tuple(learnt.values()), renamed, strict=bool(learnt))


@dataclasses.dataclass(frozen=True)
class ClassTable:
    """The classes of one prepared split, resolved: every name of its labels has a place.

    Attributes:
        learnt: the names that a detector learns, its classes in order.
        ignored: the others, of which no object is learnt.
        index: lower-case name of the labels -> index into ``names``.
        unknown: objects by class that neither the user nor the dataset names, of ``ignored``.
    """

    learnt: tuple[str, ...]
    ignored: tuple[str, ...]
    index: Mapping[str, int]
    unknown: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The learnt names, then the ignored ones."""
        return (*self.learnt, *self.ignored)

    def indices(self, names: Iterable[str]) -> np.ndarray:
        """int32 [N] into ``names`` of objects with these names of the labels."""
        return np.array([self.index[name.lower()] for name in names], np.int32)


def resolve(
    choice: ClassChoice,
    counts: Mapping[str, int],
    published: Sequence[str],
    ignored: Sequence[str],
    where: str,
) -> ClassTable:
    """The table of a split.

    Args:
        choice: what the user or the model says.
        counts: objects of the split by the name in its labels.
        published: the classes that the dataset learns where the user names none; () for those of the labels.
        ignored: further classes that the dataset is known to hold.
        where: what messages call the split.

    Raises:
        UserError: ``choice`` is strict and the labels hold what it does not name, or nothing is learnt.
    """
    found = _spellings(counts)
    known = {name.lower(): name for name in (*published, *ignored)}
    learnt = choice.learnt or tuple(published)
    renamed = dict(choice.renamed)
    if not choice.learnt and not (learnt and (not found or known.keys() & found.keys())):
        # no published classes, or labels of something else in a published layout
        learnt = tuple(sorted((name for key, name in found.items() if key not in renamed), key=str.lower))
        learnt = _with_targets(learnt, renamed)
    by_key = {name.lower(): name for name in learnt if name.lower() not in renamed}
    learnt = tuple(by_key.values())
    if renamed and found and not learnt:
        raise UserError(
            f"{where}: --classes leaves no class to learn; the labels hold {listed(counts)}: name some"
        )
    for name, to in renamed.items():
        if to != IGNORE and to.lower() not in by_key:
            raise UserError(f"--classes: {name}={to}: {to!r} is none of {', '.join(learnt)}")
    others = [known.get(key, found.get(key, key)) for key, to in renamed.items() if to == IGNORE]
    others += [name for key, name in known.items() if key not in by_key and key not in renamed]
    named = {*by_key, *renamed, *known}
    unknown = {name: counts_of(counts, key) for key, name in found.items() if key not in named}
    if unknown and choice.strict:
        targets = {to.lower() for key, to in renamed.items() if key in found}
        have = {name: int(name.lower() in found or name.lower() in targets) for name in learnt}
        hint = absent(have, unknown)
        raise UserError(
            f"{where}: the labels hold classes that --classes does not name: {listed(unknown)}; add each, or "
            f"{next(iter(unknown))}=CLASS or {next(iter(unknown))}={IGNORE}" + (f" ({hint})" if hint else "")
        )
    names = (*learnt, *others, *unknown)
    index = {name.lower(): place for place, name in enumerate(names)}
    index |= {name: index[to.lower()] for name, to in renamed.items() if to != IGNORE}
    return ClassTable(learnt, (*others, *unknown), index, unknown)


def absent(learnt: Mapping[str, int], others: Iterable[str]) -> str:
    """A line on the classes that ``--classes`` names and no label has, with what may have been meant.

    Args:
        learnt: objects by class to learn.
        others: the names of the labels that are not learnt.
    """
    known = {name.lower() for name in others}
    missing = []
    for name in (name for name, count in learnt.items() if not count):
        hint = did_you_mean(name.lower(), known)
        missing.append(f"{name} ({hint})" if hint.startswith("did") else name)
    return f"--classes names what no label is of: {', '.join(missing)}" if missing else ""


def counts_of(counts: Mapping[str, int], key: str) -> int:
    """Objects of a class in any spelling of its name."""
    return sum(count for name, count in counts.items() if name.lower() == key)


def listed(counts: Mapping[str, int], most: int = 20) -> str:
    """``helmet 12, vest 3``, and how many more there are."""
    shown = [f"{name} {count}" for name, count in list(counts.items())[:most]]
    more = len(counts) - most
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _with_targets(learnt: tuple[str, ...], renamed: Mapping[str, str]) -> tuple[str, ...]:
    """Classes that objects are merged into are learnt, even where the labels do not hold them."""
    have = {name.lower() for name in learnt} | {IGNORE}
    extra = {to.lower(): to for to in renamed.values() if to.lower() not in have}
    return tuple(sorted((*learnt, *extra.values()), key=str.lower)) if extra else learnt


def _spellings(counts: Mapping[str, int]) -> dict[str, str]:
    """Lower-case name -> its most frequent spelling, in the order of the names."""
    by_key: dict[str, collections.Counter] = {}
    for name, count in sorted(counts.items()):
        by_key.setdefault(name.lower(), collections.Counter())[name] += count
    return {key: spellings.most_common(1)[0][0] for key, spellings in sorted(by_key.items())}
