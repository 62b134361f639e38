"""Finding the application that MODULE:ATTR names, and saying in one line why there is none."""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any

from trioserve.core.application import Application
from trioserve.core.errors import ConfigError

_PACKAGE = Path(__file__).parent.parent


def load(spec: str) -> Application:
    """The application that MODULE:ATTR names.

    Raises:
        ConfigError: there is none; says why in one line.
    """
    module_name, _, attribute = spec.partition(":")
    names = [*module_name.split("."), *attribute.split(".")]
    if not all(name.isidentifier() for name in names) or module_name.endswith(".py"):
        raise ConfigError(f"{spec!r} is not MODULE:ATTR; for an `app = App()` in main.py it is main:app")
    found = import_module(module_name)
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ConfigError(f"module {module_name!r} has no attribute {attribute!r}")
        found = getattr(found, name)
    if not (hasattr(found, "endpoint") and hasattr(found, "hooks") and hasattr(found, "rules")):
        raise ConfigError(f"{spec} is no application but of type {type(found).__name__}; it should be a trioserve.App")
    return found  # type: ignore[no-any-return]


def import_module(name: str) -> Any:
    """The module `name`, looked for in the current directory first.

    Raises:
        ConfigError: there is none, or it cannot be imported.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(f"there is no module {name!r} in {here} or among the installed ones") from error
        raise ConfigError(f"cannot import {name!r}: {described(error)}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"cannot import {name!r}: {described(error)}") from error


def described(error: BaseException) -> str:
    """An exception in one line, with the place in the user's code where it came up."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    place = next((frame for frame in reversed(frames) if is_users(frame.filename)), frames[-1])
    return f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"


def is_users(filename: str) -> bool:
    """False for a file of the standard library, of an installed package, or of trioserve."""
    paths = sysconfig.get_paths()
    others = (paths["stdlib"], paths["purelib"], paths["platlib"], str(_PACKAGE))
    return not filename.startswith((*others, "<frozen"))
