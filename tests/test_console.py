"""What a run shows: plain lines in a log, a status line that is rewritten in place on a terminal, a table of stages."""

import io
import re
import threading

import pytest
from test_progress import Terminal

from chromacc_lib import console
from chromacc_lib.console import Output, clock, stage_table

LINE = "... predicting: 55% (11 of 20 windows, 2.0 windows/s), about 5 s left\n"


def screen(text):
    """What a terminal shows in the end: a carriage return goes to the line's beginning, ESC[K clears from there."""
    lines = [""]
    for part in re.split(r"(\n|\r\x1b\[K)", text):
        if part == "\n":
            lines.append("")
        elif part == "\r\x1b[K":
            lines[-1] = ""
        else:
            lines[-1] += part
    return lines


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


def test_a_log_has_plain_lines():
    out = io.StringIO()
    with Output(out, "02_training") as output:
        printed, warned = output.stream(), output.stream()
        printed.write("one\ntw")
        warned.write(LINE)
        printed.write("o\nthe end")
    assert out.getvalue() == f"    one\n    {LINE}    two\n    the end\n"


def test_a_terminal_has_a_status_line_with_a_bar_and_keeps_no_progress(wide, monkeypatch):
    out, now = Terminal(), [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with Output(out, "06_prediction") as output:
        stream = output.stream()
        now[0] += 65
        stream.write("device: CPU\n" + LINE)
        shown = screen(out.getvalue())
        assert shown == ["    device: CPU",
                         "    06_prediction 0:01:05  predicting " + "█" * 11 + "░" * 9
                         + " 55% (11 of 20 windows, 2.0 windows/s), about 5 s left"]  # fmt: skip
        stream.write("done")
    assert screen(out.getvalue()) == ["    device: CPU", "    done", ""]


def test_the_status_line_is_no_wider_than_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    out = Terminal()
    with Output(out, "06_prediction") as output:
        output.stream().write(LINE)
        assert len(screen(out.getvalue())[-1]) == 39


def test_the_clock_goes_on_while_a_notebook_says_nothing(wide):
    heard = threading.Event()

    class Listener(Terminal):
        def write(self, text):
            if "02_training 0:00:01" in text:
                heard.set()
            return super().write(text)

    with Output(Listener(), "02_training"):
        assert heard.wait(30)


def test_the_table_of_stages():
    assert stage_table([("01_data_curation", "up to date", 71.2), ("02_training", "done", 7206.7), ("03_evaluation", "not run", None)]) == (
        "  stage                       state              time\n"
        "  01_data_curation            up to date      0:01:11\n"
        "  02_training                 done            2:00:07\n"
        "  03_evaluation               not run               -\n"
        "  all                                         2:01:18")  # fmt: skip
    assert clock(59.6) == "0:01:00"
