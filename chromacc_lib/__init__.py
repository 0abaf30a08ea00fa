"""chromacc: chromatin accessibility in cell types that nobody has assayed.

The library behind the numbered notebooks: flat, one verb a module, imported in the order that the data flows.
"""

import os
from pathlib import Path

__all__ = ["ChromaccError", "cores", "project_path"]

__version__ = "0.1.0"

_ROOT = Path(__file__).resolve().parent.parent


class ChromaccError(Exception):
    """An error whose message is meant for the user: what, where, got, needed, and what to do."""


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def project_path(path: str | Path) -> Path:
    """Return `path` as it is when absolute, else taken from the project's root, whatever the working directory."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else _ROOT / path
