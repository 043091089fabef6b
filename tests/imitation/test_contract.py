"""imitation knows no detector and no dataset: its imports, and the protocol that stands for a detector."""

import ast
import inspect

from places import REPOSITORY

from fgfi_tf.imitation.contract import Network
from fgfi_tf.models.detector import Detector

ALLOWED = ("devices", "errors", "geometry", "imitation", "replica", "streams")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imitation_imports_no_detector_and_no_dataset():
    files = sorted((REPOSITORY / "fgfi_tf" / "imitation").glob("*.py"))
    ours = {(file.name, name) for file in files for name in imported(file) if name.startswith("fgfi_tf")}
    assert len(ours) > 10
    assert [pair for pair in sorted(ours) if pair[1].split(".")[1] not in ALLOWED] == []


def test_a_detector_is_what_the_distiller_asks_for():
    members = {name for name in vars(Network) if not name.startswith("_")} | set(Network.__annotations__)
    assert len(members) > 10
    for name in sorted(members):
        assert hasattr(Detector, name), name
        wanted = vars(Network).get(name)
        if inspect.isfunction(wanted):
            theirs = inspect.signature(getattr(Detector, name)).parameters
            assert list(theirs) == list(inspect.signature(wanted).parameters), name
