"""What `chromacc run` shows while notebooks run: their lines as they come, how far they are, and a table of stages.

In a log all of it is plain lines. A terminal has a status line besides, which is rewritten in place: the time since the
stage began, and the last line of progress as a bar.
"""

import datetime
import re
import shutil
import threading
import time
from collections.abc import Sequence
from typing import TextIO

from chromacc_lib.progress import MARK

__all__ = ["Output", "clock", "is_terminal", "stage_table"]

INDENT = "    "
BAR_CELLS = 20
_SHARE = re.compile(r"^(?P<what>.*): (?P<percent>\d+)% \((?P<rest>.*)$")
_ERASE = "\r\033[K"  # to the line's beginning, and clear it


def is_terminal(out: TextIO) -> bool:
    """Say whether a line that was written there can be rewritten."""
    return bool(getattr(out, "isatty", lambda: False)())


def clock(seconds: float) -> str:
    """Return a time as h:mm:ss."""
    return str(datetime.timedelta(seconds=round(seconds)))


def stage_table(rows: Sequence[tuple[str, str, float | None]]) -> str:
    """Return the table of stages: (name, state, seconds of its last run or None), with their sum in the last line."""
    lines = [f"  {'stage':<28}{'state':<14}{'time':>9}"]
    lines += [f"  {name:<28}{state:<14}{'-' if took is None else clock(took):>9}" for name, state, took in rows]
    total = sum(took for _, _, took in rows if took is not None)
    return "\n".join([*lines, f"  {'all':<42}{clock(total):>9}"])


class Output:
    """Where papermill writes what a notebook prints while it runs: whole lines, indented below their stage's.

    A context manager; `stream()` gives the objects to write to, one for standard output and one for standard error.
    """

    def __init__(self, out: TextIO, name: str) -> None:
        self._out, self._name, self._live = out, name, is_terminal(out)
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._began, self._status, self._streams = time.monotonic(), "", []

    def __enter__(self) -> "Output":
        if self._live:
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Print what is left of lines without an end, and clear the status line."""
        for stream in self._streams:
            stream.close()
        self._ended.set()
        if self._live:
            self._ticker.join()
            self._out.write(_ERASE)
            self._out.flush()

    def stream(self) -> "_Stream":
        """Return a new object to write to."""
        self._streams.append(_Stream(self))
        return self._streams[-1]

    def show(self, lines: Sequence[str]) -> None:
        """Print whole lines; on a terminal a line of progress becomes the status line instead."""
        with self._lock:
            if not self._live:
                self._out.writelines(f"{INDENT}{line}\n" for line in lines)
                return
            for line in lines:
                if line.startswith(MARK):
                    self._status = line.removeprefix(MARK)
                else:
                    self._out.write(f"{_ERASE}{INDENT}{line}\n")
            self._write_status()

    def flush(self) -> None:
        """Hand on what was printed."""
        self._out.flush()

    def _tick(self) -> None:
        while not self._ended.wait(1):
            with self._lock:
                self._write_status()

    def _write_status(self) -> None:
        text = f"{INDENT}{self._name} {clock(time.monotonic() - self._began)}  {_bar(self._status)}".rstrip()
        self._out.write(_ERASE + text[: shutil.get_terminal_size().columns - 1])
        self._out.flush()


class _Stream:
    """One of a notebook's streams: keeps what is no whole line yet."""

    def __init__(self, output: Output) -> None:
        self._output, self._rest = output, ""

    def write(self, text: str) -> None:
        """Print the lines that are whole by now."""
        *lines, self._rest = (self._rest + text).split("\n")
        self._output.show(lines)

    def flush(self) -> None:
        """Hand on what was printed."""
        self._output.flush()

    def close(self) -> None:
        """Print what is left of a line without an end."""
        if self._rest:
            self.write("\n")


def _bar(text: str) -> str:
    """Return a line of progress with a bar, where it says which share is done."""
    found = _SHARE.match(text)
    if not found:
        return text
    done = round(BAR_CELLS * min(int(found["percent"]), 100) / 100)
    return f"{found['what']} {'█' * done}{'░' * (BAR_CELLS - done)} {found['percent']}% ({found['rest']}"
