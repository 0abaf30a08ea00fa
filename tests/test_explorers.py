"""Panels: they draw what their controls say, lose no error, leave no figure open, and can be worked by the keyboard."""

import base64
import re
import threading

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from test_fit import settings
from test_look import arrays, model  # noqa: F401 (fixtures)

from chromacc_lib import ChromaccError, explorers, plots
from chromacc_lib.batches import RegionData
from chromacc_lib.callbacks import Callback
from chromacc_lib.dataset import open_dataset
from chromacc_lib.explorers import LocusChooser, Panel, TrainingPanel
from chromacc_lib.fit import fit
from chromacc_lib.look import WhatIf
from chromacc_lib.streaming import open_training_data

WINDOWS = pd.DataFrame({"chrom": ["chr2", "chr2", "chr10", "chr1"], "start": [500, 100, 100, 100], "end": [600, 200, 200, 200],
                        "kind": "peak", "split": ["test", "test", "train", "train"]})  # fmt: skip


def image(panel):
    """The PNG that a panel shows, checked to have alt text; b"" without one."""
    if not panel.figure.value:
        return b""
    alt, data = re.fullmatch(r'<img style="[^"]+" alt="([^"]+)" src="data:image/png;base64,([^"]+)">', panel.figure.value).groups()
    png = base64.b64decode(data)
    assert alt and png.startswith(b"\x89PNG")
    return png


def told(output):
    return "".join(each["text"] for each in output.outputs)


@pytest.fixture
def data(arrays):  # noqa: F811
    return RegionData(arrays)


@pytest.fixture
def panels(model, arrays, data, curated):  # noqa: F811
    """One of each that has a figure."""
    dataset = open_dataset(curated[1])
    return {
        "tracks": explorers.explore_tracks(dataset, ["A", "B"]),
        "locus": explorers.explore_locus(model, data, arrays, 3, "D"),
        "what if": explorers.explore_what_if(WhatIf(model, curated[1]), 3, "D"),
        "attention": explorers.explore_attention(model, data, arrays, np.array([7, 2, 5]), "D"),
    }


# --- what all of them are made of ----------------------------------------------------------------------------


def small_panel(draw, **options):
    return Panel({"a": widgets.IntSlider(1, 0, 9), "b": widgets.IntSlider(2, 0, 9)}, draw, **options)


def test_a_panel_draws_what_its_controls_say_once_a_change():
    seen = []
    panel = small_panel(lambda a, b: (seen.append((a, b)), (Figure(figsize=(1 + a, 1)), f'<{a}> & "{b}"'))[1])
    first = image(panel)
    panel.controls["a"].value = 3
    assert seen == [(1, 2), (3, 2)] and image(panel) != first
    assert 'alt="&lt;3&gt; &amp; &quot;2&quot;"' in panel.figure.value
    panel.set(a=5, b=6)
    assert seen[2:] == [(5, 6)]


def test_an_error_is_shown_and_no_figure_that_shows_something_else():
    def draw(a, b):
        if a == 5:
            raise ChromaccError("five is not allowed; take four")
        if a == 6:
            raise KeyError("lost")
        return Figure(figsize=(1, 1)), "fine"

    panel = small_panel(draw)
    panel.controls["a"].value = 5
    assert told(panel.messages) == "five is not allowed; take four\n" and image(panel) == b""
    panel.controls["a"].value = 6
    assert "Traceback" in told(panel.messages) and "KeyError: 'lost'" in told(panel.messages) and image(panel) == b""
    panel.controls["a"].value = 7
    assert told(panel.messages) == "" and image(panel)


def test_an_error_while_controls_are_brought_into_line_is_shown_as_well():
    panel = small_panel(lambda a, b: (Figure(figsize=(1, 1)), "fine"), settle=lambda: 1 / 0)
    assert "ZeroDivisionError" in told(panel.messages) and image(panel) == b""


def test_no_figure_is_left_open(panels):
    before = plt.get_fignums()
    for panel in panels.values():
        for number in (2, 3):
            panel.controls["locus"].number.value = number
            assert image(panel)
    assert plt.get_fignums() == before


def controls_of(widget):
    if isinstance(widget, widgets.Box):
        for child in widget.children:
            yield from controls_of(child)
    elif not isinstance(widget, (widgets.HTML, widgets.Output)):
        yield widget


def test_every_control_has_a_name_and_answers_when_it_is_let_go(panels, tmp_path):
    following = TrainingPanel(tmp_path, 0.01, 0.0)
    following.thread.join()
    for panel in (*panels.values(), following):
        found = list(controls_of(panel))
        assert found and all(control.description for control in found)
        assert [c.description for c in found if getattr(c, "continuous_update", False)] == []


# --- where ---------------------------------------------------------------------------------------------------


def test_windows_are_numbered_along_their_chromosome():
    chooser = LocusChooser(WINDOWS)
    assert (chooser.value, chooser.chromosome.value, chooser.number.value, chooser.number.max) == (0, "chr2", 2, 2)
    assert list(dict(chooser.chromosome.options)) == ["chr2 (test)", "chr10 (train)", "chr1 (train)"], "as in the dataset"
    chooser.number.value = 1
    assert chooser.value == 1 and "chr2:100-200, peak window 1; 1 of 2" in chooser.told.value
    chooser.chromosome.value = "chr10"
    assert (chooser.value, chooser.number.value, chooser.number.max) == (2, 1, 1)


@pytest.mark.parametrize("place, window", [("chr2:150", 1), ("chr2:1", 1), ("chr2:349", 1), ("chr2:350", 0), ("chr2:1,000-2,000", 0),
                                           (" chr1:100 ", 3)])
def test_a_place_is_the_window_that_holds_it_or_the_nearest(place, window):
    chooser = LocusChooser(WINDOWS, 2)
    chooser.place.value = place
    assert chooser.value == window and told(chooser.messages) == ""


@pytest.mark.parametrize("place", ["chr3:100", "chr2", "chr2:", "chr2:here", "100"])
def test_what_is_no_place_is_said_and_changes_nothing(place):
    chooser = LocusChooser(WINDOWS, 2)
    chooser.place.value = place
    assert chooser.value == 2 and "needed chromosome:position, with a chromosome of chr2, chr10, chr1" in told(chooser.messages)


def test_every_window_can_be_chosen_and_each_choice_is_one_change():
    chooser, seen = LocusChooser(WINDOWS, 1), []
    chooser.observe(lambda change: seen.append(change["new"]), "value")
    for chrom in ("chr1", "chr10", "chr2"):
        chooser.chromosome.value = chrom
    chooser.number.value = 2
    assert seen == [3, 2, 1, 0]


def test_only_the_windows_asked_for_are_offered():
    chooser = LocusChooser(WINDOWS, 3, np.array([3, 0]))
    assert dict(chooser.chromosome.options) == {"chr1 (train)": "chr1", "chr2 (test)": "chr2"}
    chooser.place.value = "chr2:1"
    assert chooser.value == 0
    with pytest.raises(ChromaccError, match="no window to choose from"):
        LocusChooser(WINDOWS, among=np.array([], int))


# --- the panels ----------------------------------------------------------------------------------------------


def test_each_panel_shows_another_picture_for_another_cell_type(panels):
    for name, panel in panels.items():
        before = image(panel)
        panel.set(**({"cells": ("C",)} if name == "tracks" else {"cell": "C"}))
        assert told(panel.messages) == "" and image(panel) not in (b"", before), name


def test_tracks_want_a_cell_type(panels):
    panels["tracks"].controls["cells"].value = ()
    assert "select a cell type" in told(panels["tracks"].messages)


def test_each_what_if_moves_the_picture_and_the_button_takes_all_back(panels):
    panel = panels["what if"]
    first = image(panel)
    for change in ({"H3K27ac": 0}, {"hidden": ("prior",)}, {"edit": explorers.INSERT}, {"centre": 200}, {"strand": "-"},
                   {"motif": "GATAAGGATAAG"}, {"edit": explorers.BREAK}):  # fmt: skip
        before = image(panel)
        panel.set(**change)
        assert told(panel.messages) == "" and image(panel) != before, change
    (button,) = [control for control in controls_of(panel) if isinstance(control, widgets.Button)]
    panel.set(motif="CTCF")
    button.click()
    assert image(panel) == first


def test_a_motif_that_is_none_is_said(panels):
    panel = panels["what if"]
    panel.set(edit=explorers.INSERT, motif="no such TF")
    assert "neither a TF of JASPAR" in told(panel.messages) and image(panel) == b""


def test_layers_and_heads_are_those_of_the_stack(panels, model):  # noqa: F811
    panel = panels["attention"]
    layer, head, stack = (panel.controls[name] for name in ("layer", "head", "stack"))
    assert [value for _, value in layer.options] == [explorers.MEAN, explorers.ROLLOUT, 1, 2]
    assert [value for _, value in head.options] == [explorers.MEAN, 1, 2, 3, 4]
    seen = {image(panel)}
    for change in ({"layer": 2}, {"head": 4}, {"layer": explorers.ROLLOUT}, {"stack": "sequence"}, {"layer": 1},
                   {"stack": "fusion"}):  # fmt: skip
        panel.set(**change)
        assert told(panel.messages) == "" and image(panel) not in seen, change
        seen.add(image(panel))
    assert layer.disabled and [value for _, value in layer.options] == [explorers.MEAN]
    stack.value = "encoder"
    assert not layer.disabled and told(panel.messages) == ""


def test_attention_is_offered_for_the_windows_asked_for(panels):
    chooser = panels["attention"].controls["locus"]
    assert chooser.value == 7
    assert sorted(int(w) for order in chooser._of.values() for w in order) == [2, 5, 7]


# --- a training under way ------------------------------------------------------------------------------------


class Watched(Callback):
    """Waits after each epoch until the panel has seen it, and notes what it showed."""

    def __init__(self, panel):
        self.panel, self.seen = panel, []

    def on_epoch(self, state):
        wanted, waiting = f"training: {len(state.history)} of {state.config.epochs} epochs", threading.Event()
        for _ in range(1000):
            if wanted in self.panel.status.value:
                break
            waiting.wait(0.02)
        self.seen.append((self.panel.status.value, image(self.panel)))


def test_a_training_is_followed_while_it_runs_and_let_go_when_it_is_finished(curated, tmp_path):
    plots.use_style()
    panel = TrainingPanel(tmp_path / "model", 0.02, 60.0)
    assert image(panel) == b"" and panel.follow.value
    config, sizes = settings()
    read, data = open_training_data(curated[1], 0)
    # the checkpoint of an epoch is written before the callbacks that are given here are called
    watched = Watched(panel)
    fit(curated[1], tmp_path / "model", read, data, config, sizes, device="cpu", say=lambda text: None, callbacks=[watched])
    panel.thread.join(20)
    assert not panel.thread.is_alive() and not panel.follow.value
    assert [status.partition("epochs")[0] for status, _ in watched.seen] == ["training: 1 of 2 ", "training: 2 of 2 "]
    assert all("left" in status and "skill" in status for status, _ in watched.seen)
    assert len({picture for _, picture in watched.seen} - {b""}) == 2
    assert panel.status.value.startswith("finished: 2 of 2 epochs") and told(panel.messages) == ""


def test_where_nothing_trains_it_lets_go_and_says_so(tmp_path):
    panel = TrainingPanel(tmp_path / "model", 0.01, 0.03)
    panel.thread.join(10)
    assert not panel.follow.value and "no training was seen there yet" in panel.status.value
    assert "not followed any longer" in panel.status.value
    panel.follow.value = True  # pressed again
    panel.thread.join(10)
    assert not panel.follow.value


def test_the_button_lets_go(tmp_path):
    panel = TrainingPanel(tmp_path / "model", 0.01, 60.0)
    panel.follow.value = False
    panel.thread.join(10)
    assert not panel.thread.is_alive()


def test_an_error_of_the_thread_is_shown(tmp_path):
    (tmp_path / "checkpoint.pt").write_text("no checkpoint")
    panel = TrainingPanel(tmp_path, 0.01, 60.0)
    panel.thread.join(10)
    assert "this checkpoint cannot be read" in told(panel.messages) and not panel.follow.value


def test_a_cell_that_is_run_again_lets_the_first_panel_go(tmp_path):
    first = explorers.follow_training(tmp_path, 0.01)
    second = explorers.follow_training(tmp_path, 0.01)
    first.thread.join(10)
    assert not first.thread.is_alive() and second.thread.is_alive()
    second.follow.value = False
    second.thread.join(10)
