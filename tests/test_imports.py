"""Imports go one way: data -> models -> imitation -> training -> evaluation -> export."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "fgfi_tf"
# What each room must not know, inside functions too; imports for type checkers alone do not count.
ALLOWED = "fgfi_tf.data.policies"  # names of resize and augmentation policies: a detector chooses some
_USERS = {"training", "studies", "export", "prediction", "deploy", "cli"}
FORBIDDEN = {
    "interop": {"models", "data", "imitation", "evaluation", *_USERS},
    "data": {"models", "imitation", "evaluation", *_USERS},
    "models": {"data", "imitation", "evaluation", *_USERS},
    "imitation": {"models", "data", "interop", "evaluation", *_USERS},
    "evaluation": {"models", "imitation", "interop", *_USERS},
    "training": {"studies", "export", "deploy"},
}


def imported(path: Path) -> set[str]:
    """Rooms and modules right below the package that a file imports."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        names = [name for name in names if name.startswith("fgfi_tf.") and not name.startswith(ALLOWED)]
        found |= {name.split(".")[1] for name in names}
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_go_one_way(room):
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    wrong = {str(path.relative_to(PACKAGE)): imported(path) & FORBIDDEN[room] for path in files}
    assert not {path: rooms for path, rooms in wrong.items() if rooms}


def test_what_is_shared_knows_no_room():
    shared = ("options", "registries", "extensions", "errors", "paths", "streams", "devices")
    for name in shared:
        assert imported(PACKAGE / f"{name}.py") <= {*shared}, name


def test_this_file_sees_imports(tmp_path):
    file = tmp_path / "a.py"
    file.write_text(
        "import fgfi_tf.data.images\nfrom fgfi_tf import cli\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from fgfi_tf.models import registry\n"
        "def f():\n    from fgfi_tf.training.config import option\n"
    )
    assert imported(file) == {"data", "cli", "training"}


def test_what_scripts_import_is_there():
    """The benchmark's scripts run too seldom for a name that has moved to be noticed."""
    for path in sorted((PACKAGE.parent / "scripts").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fgfi_tf"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")
