"""Finished chunks of a long prediction, kept on disk until all of them are there: what a kill leaves is not lost.

A chunk is a file that appears when it is whole. The folder's name is a digest of all that the chunks are made from:
what was left by other inputs is never taken up.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

__all__ = ["Chunks"]

PREFIX = ".chunks-"


class Chunks:
    """The chunks 0 to n - 1 of one prediction, each {name: array}, in a hidden folder of the output folder."""

    def __init__(self, out: Path, made_from: object, n: int) -> None:
        digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
        self.folder, self.n = out / f"{PREFIX}{digest[:16]}", n

    def open(self) -> list[int]:
        """Make the folder, remove those of other inputs, and return the numbers of the chunks that are still to do."""
        for other in self.folder.parent.glob(f"{PREFIX}*"):
            if other != self.folder:
                shutil.rmtree(other)
        self.folder.mkdir(parents=True, exist_ok=True)
        return [number for number in range(self.n) if not self.path(number).is_file()]

    def path(self, number: int) -> Path:
        """Where a chunk lies."""
        return self.folder / f"{number:07d}.npz"

    def write(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a chunk, whole or not at all."""
        part = self.folder / f".{number:07d}.{os.getpid()}.part"
        with open(part, "wb") as handle:
            np.savez(handle, **arrays)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(part, self.path(number))

    def read(self, number: int) -> dict[str, np.ndarray]:
        """Read a chunk."""
        with np.load(self.path(number), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    def remove(self) -> None:
        """Remove the folder, when its chunks have gone into the results."""
        shutil.rmtree(self.folder)
