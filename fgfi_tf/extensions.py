"""``--extensions``: files and modules of others, imported for what they register. Imports no TensorFlow."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
import zlib
from collections.abc import Iterable
from pathlib import Path

from fgfi_tf.errors import UserError, first_line
from fgfi_tf.paths import user_path
from fgfi_tf.registries import Registry

_SUFFIX = ".py"
_LOADED: set[str] = set()
_BROUGHT: set[str] = set()  # modules that came with extensions


def resolve(text: str) -> tuple[str, ...]:
    """What ``--extensions`` names, separated by commas: files as absolute paths, modules as they are.

    Raises:
        UserError: a file that is not there, or what cannot be a module's name.
    """
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if part.endswith(_SUFFIX) or "/" in part:
            path = user_path(part).absolute()
            if not path.is_file():
                raise UserError(
                    f"--extensions={part}: no such file ({path}); a run folder remembers where its "
                    "extensions were: pass --extensions with where they are now"
                )
            part = str(path)
        elif not all(part.split(".")):
            raise UserError(
                f"--extensions={part}: is neither a file that ends in {_SUFFIX} nor a module's name"
            )
        found.append(part)
    return tuple(found)


def is_there(name: str) -> bool:
    """Whether there is such a file, or a module that can be imported."""
    if name.endswith(_SUFFIX):
        return Path(name).is_file()
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its package
        return False
    except Exception:  # the package raises it while it is imported: loading says so
        return True


def any_loaded() -> bool:
    """Whether this process has imported an extension."""
    return bool(_LOADED)


def load(names: Iterable[str], flag: str = "--extensions") -> None:
    """Imports what :func:`resolve` gives, each once in a process.

    Args:
        names: absolute paths of files, and names of modules.
        flag: who names them, for messages.

    Raises:
        UserError: one that is missing, that raises an error, or that registers nothing.
    """
    for name in names:
        key = os.path.realpath(name) if name.endswith(_SUFFIX) else name
        if key in _LOADED:
            continue
        before, modules = Registry.total, set(sys.modules)
        try:
            _import(name)
        except Exception as error:
            raise UserError(f"{flag}={name}{_told(name, error)}") from error
        if Registry.total == before and name not in _BROUGHT:
            raise UserError(
                f"{flag}={name}: registers nothing: it is to call register() of fgfi_tf.models.registry, "
                "fgfi_tf.data.registry or fgfi_tf.evaluation.registry"
            )
        _LOADED.add(key)
        _BROUGHT.update(set(sys.modules) - modules)


def _import(name: str) -> None:
    """Imports a file, as a module whose name no other one has, or a module."""
    if not name.endswith(_SUFFIX):
        importlib.import_module(name)
        return
    module_name = f"fgfi_tf_extension_{Path(name).stem}_{zlib.crc32(name.encode()):08x}"
    spec = importlib.util.spec_from_file_location(module_name, name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # where dataclasses look for their module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise


def _told(name: str, error: Exception) -> str:
    """What an error says, its type, and the last line of the file that it went through."""
    if isinstance(error, FileNotFoundError) and error.filename == name:
        return ": no such file; pass --extensions with the place where it is now"
    if isinstance(error, ModuleNotFoundError) and (error.name == name or name.startswith(f"{error.name}.")):
        return ": no such module (is its folder in PYTHONPATH?)"
    if isinstance(error, UserError):
        return f": {error}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
    if isinstance(error, SyntaxError) and error.filename == name:
        lines.append(error.lineno)
    where = f", line {lines[-1]}" if lines else ""
    return f"{where}: {type(error).__name__}: {first_line(error)}"
