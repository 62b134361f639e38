"""The descriptors of this process."""

from __future__ import annotations

import os
from pathlib import Path


def open_files(path: Path) -> list[str]:
    """Those that are open on the file."""
    return [fd.name for fd in Path("/proc/self/fd").iterdir() if os.path.realpath(fd) == str(path)]
