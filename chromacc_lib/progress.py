"""Progress: how far a long step is; a bar where one can be seen, and a plain line now and then where not."""

import os
import sys
import threading
import time

from tqdm import tqdm

__all__ = ["MARK", "WATCHED", "Lines", "progress", "tell"]

MARK = "... "     # a line of progress starts so: pages of reports leave it out, since it told of a moment
EVERY_S = 30      # s between two lines at least; each is of another tenth, too,
LONGEST_S = 300   # s, or of so long a wait
WATCHED = "CHROMACC_WATCHED"  # environment variable: somebody watches the lines, and they come more often:
WATCHED_S = 1     # s between two of them at least,
WATCHED_PART = 200  # or this part of the time so far, so that a long run does not leave thousands


class Lines:
    """The part of tqdm that is used here, as lines on standard error, such as

        ... curation: 40% (12 of 30 regions, 3.0 regions/min), about 6 min left

    total, done: what there is to do (0 = not known), and what was done before. unit: in the plural, or "B" = bytes.
    `update` may be called by several threads; n below 0 takes back what was counted.
    """

    def __init__(self, total: float, what: str, unit: str, done: float = 0) -> None:
        self.total, self.what, self.unit, self.n = total, what, unit, done
        self._before, self._told = done, done
        self._began = self._told_at = time.monotonic()
        self._lock, self._watched = threading.Lock(), bool(os.environ.get(WATCHED))

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        """Leave things as they are: what was done is said by whoever did it."""

    def close(self) -> None:
        """Do nothing, like `__exit__`."""

    def update(self, n: float = 1) -> None:
        """Add to what was done, and print a line if it is time for one."""
        with self._lock:
            self.n += n
            now = time.monotonic()
            since = now - self._told_at
            if self._watched:
                due = since >= max(WATCHED_S, (now - self._began) / WATCHED_PART)
            else:
                due = since >= EVERY_S and (self.n - self._told >= self.total / 10 or since >= LONGEST_S)
            if due:
                self._told, self._told_at = self.n, now
                print(MARK + self._text(now - self._began), file=sys.stderr, flush=True)

    def _text(self, seconds: float) -> str:
        done, total = (f"{n / 1e9:,.1f}" if self.unit == "B" else f"{n:,}" for n in (self.n, self.total))
        unit = "GB" if self.unit == "B" else self.unit
        here = self.n - self._before
        rate = f", {_rate(here / seconds, self.unit)}" if here > 0 and seconds > 0 else ""
        if not self.total:
            return f"{self.what}: {done} {unit}{rate}"
        text = f"{self.what}: {self.n / self.total:.0%} ({done} of {total} {unit}{rate})"
        return f"{text}, about {_duration((self.total - self.n) * seconds / here)} left" if here > 0 else text


def progress(total: float, what: str, unit: str, done: float = 0, leave: bool = True) -> tqdm | Lines:
    """Return a context manager whose `update(n)` shows that n more are done: tqdm's bar, or `Lines`.

    A bar is for a terminal and for Jupyter; TQDM_DISABLE (set for the notebooks of `chromacc run`, whose pages would
    keep it as a frozen line) and any other standard error make it lines. For the arguments see `Lines`; leave: the
    bar stays when it is done.
    """
    in_jupyter = type(sys.stderr).__module__.startswith("ipykernel.")
    if os.environ.get("TQDM_DISABLE") or not (in_jupyter or sys.stderr.isatty()):
        return Lines(total, what, unit, done)
    return tqdm(total=total or None, initial=done, desc=what, unit=unit, unit_scale=unit == "B", leave=leave)


def tell(text: str) -> None:
    """Print a line on standard output, above the bar where one stands."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def _duration(seconds: float) -> str:
    """Return a time in words, in the unit that fits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _rate(a_second: float, unit: str) -> str:
    """Return a rate in words, over the time that makes it 1 or more; bytes in MB."""
    if unit == "B":
        return f"{a_second / 1e6:,.1f} MB/s"
    for seconds, name in ((1, "s"), (60, "min")):
        if a_second * seconds >= 1:
            return f"{a_second * seconds:,.1f} {unit}/{name}"
    return f"{a_second * 3600:,.1f} {unit}/h"
