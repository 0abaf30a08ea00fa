"""What a result came from: hashes of files and folders, the library code that a notebook reaches, versions,
commit; and the writing of a record, whole or not at all.
"""

import ast
import csv
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from chromacc_lib import ChromaccError, project_path

__all__ = [
    "digest",
    "hash_file",
    "hash_path",
    "snapshot",
    "written_since",
    "reached_sources",
    "input_files",
    "git_state",
    "dependency_versions",
    "shown_path",
    "write_atomically",
]

_PACKAGE = Path(__file__).resolve().parent
_CHUNK = 1 << 20  # bytes read at a time


def digest(value: object) -> str:
    """Return the SHA-256 of a value made of dicts, lists, text, numbers; the order of dict keys does not
    matter.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    sha = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def hash_path(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's names and contents together (a zarr store is one
    output).
    """
    if path.is_dir():
        return digest({p.relative_to(path).as_posix(): hash_file(p) for p in path.rglob("*") if p.is_file()})
    return hash_file(path)


def shown_path(path: Path) -> str:
    """Return a path as it stands in run.json: relative to the project's root where it lies inside, else
    absolute.
    """
    root = project_path("")
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def snapshot(folders: Iterable[Path]) -> dict[Path, tuple[int, int, int]]:
    """Return (size, mtime in ns, inode) of each visible file below the folders; names with a leading dot are
    left out.
    """
    found = {}
    for folder in folders:
        for directory, _, names in os.walk(folder):
            for name in names:
                if not name.startswith("."):
                    path = Path(directory) / name
                    stat = path.stat()
                    found[path] = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return found


def written_since(before: dict[Path, tuple], folders: Iterable[Path]) -> list[Path]:
    """Return what was written below the folders since the snapshot, sorted; a changed zarr store counts as
    one path.
    """
    changed = (path for path, state in snapshot(folders).items() if before.get(path) != state)
    return sorted({_whole(path) for path in changed})


def _whole(path: Path) -> Path:
    """Return the zarr store that a file lies in, or the file itself."""
    stores = [parent for parent in path.parents if parent.suffix == ".zarr"]
    return stores[-1] if stores else path


def reached_sources(code: str, package: Path = _PACKAGE) -> dict[str, str]:
    """Return the SHA-256 of each chromacc_lib module that the code imports, directly or through other
    modules.

    `code` is plain Python (without IPython magics). The package's own __init__ is always among them.
    """
    reached, waiting = {}, {"__init__", *_imported(code, package)}
    while waiting:
        module = waiting.pop()
        source = (package / f"{module}.py").read_text(encoding="utf-8")
        reached[module] = hashlib.sha256(source.encode()).hexdigest()
        waiting |= _imported(source, package) - reached.keys()
    return reached


def _imported(source: str, package: Path) -> set[str]:
    """Return the modules of the package that a source text imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = f"{package.name}.{node.module or ''}".rstrip(".") if node.level else node.module
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    inside = {name.split(".")[1] for name in names if name.startswith(f"{package.name}.")}
    return {name for name in inside if (package / f"{name}.py").is_file()}


def input_files(parameters: dict[str, object]) -> list[Path]:
    """Return the files that a stage reads because a parameter names them, sorted.

    Every text parameter that names an existing file counts; where the parameter is a manifest, the local
    files in its `path_or_url` column count too. What is missing or malformed is left to the notebook's own
    check to report.
    """
    found = set()
    for name, value in parameters.items():
        if isinstance(value, str) and value and project_path(value).is_file():
            path = project_path(value).resolve()
            found.add(path)
            if name.endswith("manifest"):
                found |= _manifest_files(path)
    return sorted(found)


def _manifest_files(manifest: Path) -> set[Path]:
    """Return the existing local files that a manifest names, relative to its folder."""
    with open(manifest, encoding="utf-8-sig", errors="replace", newline="") as handle:
        named = {row.get("path_or_url") or "" for row in csv.DictReader(handle, delimiter="\t")}
    local = {manifest.parent / name for name in named if name and "://" not in name}
    return {path.resolve() for path in local if path.is_file()}


def git_state() -> dict[str, object]:
    """Return {"git_commit": full hash, "git_modified": bool}, or None for both where the project is no git
    checkout.
    """

    def git(*arguments: str) -> str | None:
        """What git prints, None where it fails or is not there."""
        try:
            done = subprocess.run(
                ["git", "-C", str(project_path("")), *arguments], capture_output=True, text=True
            )
        except FileNotFoundError:  # no git on this machine
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "--verify", "HEAD")
    return {"git_commit": commit, "git_modified": bool(git("status", "--porcelain")) if commit else None}


def dependency_versions() -> dict[str, str]:
    """Return the installed version of each dependency of chromacc, in the order of pyproject.toml.

    Raises ChromaccError when chromacc itself is not installed in this environment.
    """
    try:
        requirements = importlib.metadata.requires("chromacc") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ChromaccError(
            "chromacc is not installed in this environment: run `make run`, or pip install -e ."
        ) from error
    names = [re.match(r"[\w.-]+", text)[0] for text in requirements if "extra ==" not in text]
    return {name: importlib.metadata.version(name) for name in names}


def write_atomically(path: Path, text: str) -> Path:
    """Write a text file under a temporary name, rename it, and return its path: it is there whole, or as
    before.
    """
    temporary = path.with_name(f".{path.name}.part")
    with open(temporary, "w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)
    return path
