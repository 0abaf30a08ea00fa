"""Problems: what is wrong with a file, said so that all of them can be listed at once, each with its remedy."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from chromacc_lib import ChromaccError

__all__ = ["YAML_ERRORS", "FileProblem", "Problem", "machine_remedy", "problem_of", "require_no_problems", "written_by"]


# besides its own, PyYAML raises what values are made with: for dates that are none, keys that are lists, `!!int ""`
YAML_ERRORS = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
MACHINE = {  # what an error of the machine is called by Python, numpy, torch, zarr, safetensors and arrow: its remedy
    r"No space left|File too large|Disk quota|Errno (27|28|122)\b|StorageFull|FileTooLarge": (
        "the disk is full, or a quota is reached: free some, and start again; what was finished is kept"),
    r"MemoryError|OutOfMemoryError|out of memory|can't allocate memory|Cannot allocate memory|Errno 12\b": (
        "memory ran out: lower batch_windows (0: as many as fit), or train from disk with stream_windows; with fewer "
        "windows (max_positive_windows) all stages need less"),
    r"Read-only file system|Permission denied|Errno (13|30)\b": (
        "needed permission to read it, or to write there: change it, or choose another folder"),
}


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one file. `row`: 1-based line in `file`, 0 where no line can be named.

    `fatal` False is a note: the data are used all the same, and the reader should know how. Where `needed` is "",
    `what` is a whole message.
    """

    file: str
    row: int
    what: str
    got: str
    needed: str
    remedy: str
    fatal: bool = True

    def __str__(self) -> str:
        place = f"{self.file}, line {self.row}" if self.row else self.file
        level = "" if self.fatal else "note: "
        if not self.needed:
            return f"{level}{place}: {self.what}"
        return f"{level}{place}: {self.what}; got {self.got}; needed {self.needed}. {self.remedy}"


class FileProblem(ChromaccError):
    """Raised where a file cannot be used; carries the `Problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


def machine_remedy(text: str) -> str:
    """Return what to do about an error of the machine, by its type and message: no space, no memory, no permission.

    "" = it is none.
    """
    return next((remedy for words, remedy in MACHINE.items() if re.search(words, text)), "")


def problem_of(error: ChromaccError, where: str, fatal: bool = True) -> Problem:
    """Return what an error says as a Problem, so that it can be listed beside others; where: what it is about."""
    return error.problem if isinstance(error, FileProblem) else Problem(where, 0, str(error), "", "", "", fatal)


def require_no_problems(problems: Sequence[Problem]) -> None:
    """Raise one ChromaccError that lists every fatal problem; notes never raise."""
    fatal = [problem for problem in problems if problem.fatal]
    if fatal:
        listing = "\n".join(f"  {i}. {problem}" for i, problem in enumerate(fatal, start=1))
        raise ChromaccError(f"{len(fatal)} problem(s) in the input; nothing was written:\n{listing}")


def written_by(notebook: str, path: Path) -> Path:
    """Return a path; raise ChromaccError that names the notebook to run when nothing is there."""
    if not path.exists():
        raise ChromaccError(f"{path}: not there; run notebook {notebook} first, with the same run_dir")
    return path
