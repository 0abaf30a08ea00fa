"""Progress: lines at sensible times where no bar can be seen."""

import io
import sys

import pytest
from tqdm import tqdm

from chromacc_lib import progress
from chromacc_lib.progress import Lines


class Terminal(io.StringIO):
    """What a terminal is to a program: text that says it is one."""

    def isatty(self):
        """It is one."""
        return True


@pytest.fixture
def wait(monkeypatch):
    """Return a function that lets some seconds pass."""
    now = [1_000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def pass_by(seconds):
        now[0] += seconds

    return pass_by


def work(bar, wait, steps, seconds, each=1):
    with bar:
        for _ in range(steps):
            wait(seconds)
            bar.update(each)


def test_a_short_step_says_nothing(wait, capsys):
    work(Lines(30, "curation", "regions"), wait, 30, 0.9)
    assert capsys.readouterr().err == ""


def test_a_line_every_tenth_or_thirty_seconds_whichever_is_rarer(wait, capsys):
    work(Lines(30, "curation", "regions"), wait, 30, 20)  # a tenth is a minute
    lines = capsys.readouterr().err.splitlines()
    assert lines[3] == "... curation: 40% (12 of 30 regions, 3.0 regions/min), about 6 min left" and len(lines) == 10
    work(Lines(30, "curation", "regions"), wait, 30, 2)  # a tenth is six seconds
    assert capsys.readouterr().err.splitlines() == [
        "... curation: 50% (15 of 30 regions, 30.0 regions/min), about 30 s left",
        "... curation: 100% (30 of 30 regions, 30.0 regions/min), about 0 s left"]


def test_nobody_waits_longer_than_five_minutes(wait, capsys):
    work(Lines(1_000, "curation", "regions"), wait, 20, 60)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" (")[2].partition(" ")[0] for line in lines] == ["5", "10", "15", "20"]
    assert lines[0].endswith("about 16.6 h left")


def test_bytes_are_gigabytes_and_what_was_there_is_not_taken_for_speed(wait, capsys):
    work(Lines(40e9, "downloads", "B", 20e9), wait, 2, 100, 4e9)
    assert capsys.readouterr().err.splitlines() == [
        "... downloads: 60% (24.0 of 40.0 GB, 40.0 MB/s), about 7 min left",
        "... downloads: 70% (28.0 of 40.0 GB, 40.0 MB/s), about 5 min left"]
    work(Lines(0, "downloads", "B"), wait, 1, 40, 3.2e9)
    assert capsys.readouterr().err == "... downloads: 3.2 GB, 80.0 MB/s\n", "of a total that is not known"


@pytest.mark.parametrize("seconds, each, rate", [
    (40, 1, "1.5 windows/min"), (40, 4096, "102.4 windows/s"), (3600, 1, "1.0 windows/h")])  # fmt: skip
def test_rates_are_over_the_time_that_makes_them_one_or_more(wait, capsys, seconds, each, rate):
    work(Lines(0, "predicting", "windows"), wait, 1, seconds, each)
    assert capsys.readouterr().err == f"... predicting: {each:,} windows, {rate}\n"


def test_somebody_who_watches_is_told_each_second_and_in_long_runs_less_often(wait, capsys, monkeypatch):
    monkeypatch.setenv(progress.WATCHED, "1")
    work(Lines(100, "curation", "regions"), wait, 100, 0.5)
    assert len(capsys.readouterr().err.splitlines()) == 50
    work(Lines(36_000, "curation", "regions"), wait, 36_000, 1)  # ten hours
    assert 500 < len(capsys.readouterr().err.splitlines()) < 1500


def test_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(progress.progress(3, "what", "things"), Lines)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.progress(3, "what", "things") as bar:
        bar.update(2)
    assert isinstance(bar, tqdm) and "2/3" in sys.stderr.getvalue() and "things/s" in sys.stderr.getvalue()
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert isinstance(progress.progress(3, "what", "things"), Lines)


def test_a_line_is_told_above_the_bar(monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.progress(3, "folds", "folds") as bar:
        bar.update()
        progress.tell("K562: skill +0.1")
        bar.update()
    assert capsys.readouterr().out == "K562: skill +0.1\n"
    cleared, redrawn = sys.stderr.getvalue().rstrip().rsplit("\r", 1)
    assert "2/3" in redrawn and "1/3" in cleared
