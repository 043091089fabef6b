"""Values of flags that are lists of numbers."""

from __future__ import annotations

from fgfi_tf.data import policies
from fgfi_tf.errors import UserError


def parse_size(flag: str, text: str) -> tuple[int, int]:
    """'384x1248' to (384, 1248); raises UserError naming the flag."""
    try:
        return policies.pair(text)
    except ValueError as error:
        raise UserError(f"--{flag}={text}: {error}") from error


def parse_numbers(flag: str, text: str, kind: type = float) -> tuple:
    """'1,2' to (1, 2); raises UserError naming the flag."""
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UserError(f"--{flag}={text}: numbers separated by commas are expected") from error
