"""Where the tests find files. Not in conftest.py: there are several modules of that name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("FGFI_SHARED_DATA", REPOSITORY.parent / "shared"))
GOLDEN = Path(__file__).resolve().parent / "golden"
CASES = Path(__file__).resolve().parent / "cases"


def shared_path(relative: str) -> Path:
    """A path of the shared reference data; skips the test, with the reason, where it is absent."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"the shared reference data is absent: {path}")
    return path
