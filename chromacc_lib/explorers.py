"""Panels for JupyterLab: browse loci, ask what if, look at attention, follow a training. They hold no computation.

A panel is controls above one figure, which is drawn anew when a control is let go. An error is shown in full where the
figure was: ipywidgets would otherwise lose it. Notebooks tag the cells that show a panel `skip-execution`; nbclient, and
with it papermill and nbconvert, leaves such cells out of a headless run.
"""

from __future__ import annotations

import html
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
import traitlets
import xarray as xr
from torch import nn

from chromacc_lib import ChromaccError, plots
from chromacc_lib.attention import attention_maps, rollout
from chromacc_lib.batches import RegionData
from chromacc_lib.dataset import Arrays, window_table, window_tracks
from chromacc_lib.fit import TrainingProgress, training_progress
from chromacc_lib.look import Change, WhatIf, break_motif, insert_motif, matrix_of, place_of, view_window
from chromacc_lib.model import MODALITIES

__all__ = [
    "LocusChooser", "Panel", "TrainingPanel", "explore_attention", "explore_locus", "explore_tracks", "explore_what_if",
    "follow_training",
]  # fmt: skip

WIDE = {"description_width": "initial"}
ROW = widgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="2px 14px")
BUTTONS = {"style": WIDE | {"button_width": "auto"}, "layout": widgets.Layout(width="max-content")}
AS_IT_IS, INSERT, BREAK = "as it is", "insert the motif", "break its best match"
INPUTS = list(zip(("sequence", "all histone marks", "all TF tracks", "expression", "locus average"), MODALITIES))
MEAN, ROLLOUT = "mean of all", "rollout"
Drawn = tuple[object, str]  # a figure and its alt text


# --- what all panels are made of -------------------------------------------------------------------------------


@contextmanager
def _telling(output: widgets.Output) -> Iterator[None]:
    """Show an error in `output`, ours in its own words and any other in full; what was shown before goes."""
    output.outputs = ()
    try:
        yield
    except ChromaccError as error:
        output.append_stderr(f"{error}\n")
    except Exception:
        output.append_stderr(traceback.format_exc())


def _picture(drawn: Drawn) -> str:
    """A figure with its alt text as HTML; it is closed."""
    fig, alt = drawn
    return f'<img style="max-width: 100%" alt="{html.escape(alt)}" src="data:image/png;base64,{plots.png(fig)}">'


class Panel(widgets.VBox):
    """Controls above a figure; `draw` gets their values by name, and returns a figure and its alt text.

    rows: names of the controls that stand beside each other; by default all of them. settle: called before each drawing;
    it may bring some controls into line with others.
    """

    def __init__(
        self, controls: Mapping[str, widgets.Widget], draw: Callable[..., Drawn], rows: Sequence[Sequence[str]] = (),
        settle: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.controls, self._draw, self._settle, self._held = dict(controls), draw, settle, False
        self.figure, self.messages = widgets.HTML(), widgets.Output()
        boxes = [widgets.Box([self.controls[name] for name in row], layout=ROW) for row in rows or [list(controls)]]
        super().__init__([*boxes, self.messages, self.figure])
        for control in self.controls.values():
            control.observe(self._redraw, "value")
        self._redraw()

    @contextmanager
    def _holding(self) -> Iterator[None]:
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def set(self, **values: object) -> None:
        """Set several controls by name, and draw once."""
        with self._holding():
            for name, value in values.items():
                self.controls[name].value = value
        self._redraw()

    def _redraw(self, _: object = None) -> None:
        if self._held:
            return
        picture = ""  # where drawing fails, the old figure would stand for something that it does not show
        with _telling(self.messages):
            with self._holding():
                self._settle()
            picture = _picture(self._draw(**{name: control.value for name, control in self.controls.items()}))
        self.figure.value = picture


class LocusChooser(widgets.VBox):
    """Choose a window: by chromosome and number along it, or by a place such as chr8:1,250,000. `value`: its index."""

    value = traitlets.Int()

    def __init__(self, windows: pd.DataFrame, start: int | None = None, among: np.ndarray | None = None) -> None:
        """windows: chrom, start, end (0-based half-open), kind, split. among: indices to choose from; None = all."""
        chosen = windows.reset_index(drop=True).iloc[np.arange(len(windows)) if among is None else among]
        if chosen.empty:
            raise ChromaccError("LocusChooser: there is no window to choose from.")
        self._windows = chosen.sort_values(["chrom", "start"])
        self._going = False
        by_chrom = self._windows.groupby("chrom")
        self._of = {chrom: by_chrom.get_group(chrom).index.to_numpy() for chrom in chosen["chrom"].unique()}
        names = {f"{chrom} ({self._windows.at[order[0], 'split']})": chrom for chrom, order in self._of.items()}
        self.chromosome = widgets.Dropdown(options=names, description="chromosome", style=WIDE,
                                           layout=widgets.Layout(width="230px"))
        self.number = widgets.IntSlider(min=1, description="window", continuous_update=False, style=WIDE,
                                        layout=widgets.Layout(width="330px"))
        self.place = widgets.Text(description="go to", placeholder="chromosome:position", continuous_update=False, style=WIDE,
                                  layout=widgets.Layout(width="230px"))
        self.told, self.messages = widgets.HTML(), widgets.Output()
        super().__init__([widgets.Box([self.chromosome, self.number, self.place], layout=ROW), self.told, self.messages])
        self._go(chosen.index[0] if start is None else int(start))
        for control in (self.chromosome, self.number, self.place):
            control.observe(self._choose, "value")

    def _go(self, window: int) -> None:
        """Set all controls to a window, and only then the value."""
        row, order = self._windows.loc[window], self._of[self._windows.at[window, "chrom"]]
        self._going = True
        try:
            self.chromosome.value, self.number.max = row["chrom"], len(order)
            self.number.value = int(np.flatnonzero(order == window)[0]) + 1
        finally:
            self._going = False
        self.told.value = (f"{row['chrom']}:{row['start']:,}-{row['end']:,}, {row['kind']} window {window}; "
                           f"{self.number.value} of {len(order)} on this chromosome")
        self.value = int(window)

    def _choose(self, change: dict) -> None:
        """Take what one of the controls says."""
        if self._going:
            return
        with _telling(self.messages):
            if change["owner"] is self.chromosome:
                self._go(self._of[change["new"]][0])
            elif change["owner"] is self.number:
                self._go(self._of[self.chromosome.value][change["new"] - 1])
            elif change["new"].strip():
                self._go(self._nearest(change["new"]))

    def _nearest(self, place: str) -> int:
        chrom, _, position = place.strip().replace(",", "").partition(":")
        first = position.partition("-")[0]
        if chrom not in self._of or not first.isdigit():
            raise ChromaccError(f"{place!r} is no place here; needed chromosome:position, with a chromosome of "
                                f"{', '.join(self._of)}")
        rows = self._windows.loc[self._of[chrom]]
        outside = np.maximum(0, np.maximum(rows["start"] - int(first), int(first) + 1 - rows["end"]))
        return int(outside.idxmin())


def _cell_types(names: Sequence[str], splits: Sequence[str], start: str = "") -> widgets.Dropdown:
    """A list of cell types, each with its split."""
    options = {f"{name} ({split})": name for name, split in zip(names, splits)}
    return widgets.Dropdown(options=options, value=start or names[0], description="cell type", style=WIDE)


# --- panels ----------------------------------------------------------------------------------------------------


def explore_tracks(dataset: xr.Dataset, cell_types: Sequence[str], start: int = 0) -> Panel:
    """Browse the tracks of a dataset, window by window, side by side in the cell types that are selected.

    cell_types: those selected at first; start: index of the window shown at first. No model is needed.
    """
    windows, length = window_table(dataset), int(dataset.attrs["window_bp"])
    names, splits = dataset["cell_type"].values.tolist(), dataset["cell_type_split"].values.tolist()
    options = {f"{name} ({split})": name for name, split in zip(names, splits)}

    def draw(locus: int, cells: tuple[str, ...]) -> Drawn:
        """Tracks of one window."""
        if not cells:
            raise ChromaccError("select a cell type, or several with Ctrl or Shift")
        place = place_of(windows, locus, bool(dataset.attrs["simulated"]))
        fig = plots.plot_window_tracks({cell: window_tracks(dataset, locus, cell) for cell in cells}, length, place)
        return fig, f"Accessibility, histone and TF tracks of {place} in {', '.join(cells)}."

    return Panel({
        "locus": LocusChooser(windows, start),
        "cells": widgets.SelectMultiple(options=options, value=tuple(cell_types), rows=5, style=WIDE,
                                        description="cell types (several: Ctrl)"),
    }, draw)  # fmt: skip


def explore_locus(
    model: nn.Module, data: RegionData, arrays: Arrays, start: int = 0, cell_type: str = "", seed: int = 1
) -> Panel:
    """Browse windows with what was measured, predicted and attributed there, and the tracks that the model read.

    start, cell_type: shown at first.
    """

    def draw(locus: int, cell: str) -> Drawn:
        """One window in one cell type."""
        view = view_window(model, data, arrays, locus, cell, seed)
        told = ", ".join(f"{name} {value:.2f}" for name, value in view.scores.items())
        return plots.plot_locus(view), (f"{view.title}: profiles measured, average and predicted; contribution of each base; "
                                        f"input tracks. Scores: {told}.")

    cells = arrays.cell_types
    return Panel({"locus": LocusChooser(arrays.windows, start),
                  "cell": _cell_types(cells["cell_type"].tolist(), cells["split"].tolist(), cell_type)}, draw)  # fmt: skip


def explore_what_if(ask: WhatIf, start: int = 0, cell_type: str = "", motif: str = "CTCF") -> Panel:
    """Change a window's inputs and see the prediction move: signals of tracks, inputs hidden, a motif, the cell type.

    start, cell_type, motif: at first; motif: a TF of JASPAR or bases.
    """
    length = int(ask.dataset.attrs["window_bp"])
    matrix_of(motif)  # a motif that is not known is refused now; and JASPAR takes some seconds, once
    as_measured = lru_cache(maxsize=64)(ask.predict)  # while the changes move, this one stays

    def draw(locus: int, cell: str, hidden: tuple[str, ...], edit: str, motif: str, centre: int, strand: str,
             **left: int) -> Drawn:  # fmt: skip
        """Prediction before and after."""
        sequence, edited = None, None
        if edit != AS_IT_IS:
            bases, matrix = ask.sequence(locus), matrix_of(motif)
            sequence, match = insert_motif(bases, matrix, centre, strand) if edit == INSERT else break_motif(bases, matrix)
            edited = match.start, match.end
        signal = {name: share / 100 for name, share in left.items() if share != 100}
        before, after = as_measured(locus), ask.predict(locus, Change(signal, hidden, sequence))
        at = ask.cell_types.index(cell)
        fig = plots.plot_what_if(ask.measured(locus, cell), before, after, ask.cell_types, at, ask.title(locus, cell), edited)
        return fig, (f"{ask.title(locus, cell)}: predicted score {before.score[at]:.2f} with all inputs as measured, "
                     f"{after.score[at]:.2f} with them changed; the same in every cell type.")

    share = lambda name: widgets.IntSlider(100, 0, 200, 10, description=name, readout_format="d", continuous_update=False,
                                           style={"description_width": "90px"}, layout=widgets.Layout(width="300px"))
    splits = ask.dataset["cell_type_split"].values.tolist()
    controls = {
        "locus": LocusChooser(ask.windows, start), "cell": _cell_types(ask.cell_types, splits, cell_type),
        "hidden": widgets.SelectMultiple(options=INPUTS + [(name, name) for name in ask.tracks], rows=5, style=WIDE,
                                         description="hidden (several: Ctrl)"),
        "edit": widgets.ToggleButtons(options=[AS_IT_IS, INSERT, BREAK], description="sequence", **BUTTONS),
        "motif": widgets.Combobox(value=motif, options=ask.dataset["feature"].values.tolist(), description="motif", style=WIDE,
                                  placeholder="TF or bases", continuous_update=False,
                                  layout=widgets.Layout(width="200px")),
        "centre": widgets.IntSlider(length // 2, 0, length, description="insert at (bp)", continuous_update=False, style=WIDE,
                                    layout=widgets.Layout(width="330px")),
        "strand": widgets.ToggleButtons(options=["+", "-"], description="strand", **BUTTONS),
    } | {name: share(name) for name in ask.tracks}  # fmt: skip
    return _with_reset(Panel(controls, draw, [
        ["locus"], ["cell", "hidden"], ["edit"], ["motif", "centre", "strand"], ask.tracks]), ["locus", "cell", "motif"])


def _with_reset(panel: Panel, kept: Sequence[str]) -> Panel:
    """Add a button that sets every control but `kept` to what it was at first."""
    first = {name: control.value for name, control in panel.controls.items() if name not in kept}
    button = widgets.Button(description="all as measured", tooltip="undo every change of the inputs")
    button.on_click(lambda _: panel.set(**first))
    at = len(panel.children) - 2
    panel.children = (*panel.children[: at - 1], widgets.HTML("signal left, % of what was measured (where it was):"),
                      panel.children[at - 1], button, *panel.children[at:])  # fmt: skip
    return panel


def explore_attention(
    model: nn.Module, data: RegionData, arrays: Arrays, windows: np.ndarray | None = None, cell_type: str = ""
) -> Panel:
    """Look at one attention map: a window, a cell type, one of three stacks, a layer, a head.

    windows: indices to choose from; None = all. Sequence and encoder have a layer and a head, or the mean of all, or the
    rollout; the fusion has heads. Its keys are the modalities. The maps are those of the forward strand.
    """
    names, length = arrays.cell_types["cell_type"].tolist(), arrays.sequence.shape[1]
    maps_of = lru_cache(maxsize=16)(lambda window, cell: {
        name: weights[0].numpy() if name == "sequence" else weights[0, 0].numpy()
        for name, weights in attention_maps(model, data, np.array([window]), np.array([names.index(cell)])).items()})

    def draw(locus: int, cell: str, stack: str, layer: int | str, head: int | str) -> Drawn:
        """One map."""
        weights = maps_of(locus, cell)[stack]  # (layer, head, T, T), or (T, head, 6)
        told = "mean of all heads" if head == MEAN else f"head {head}"
        if stack == "fusion":
            shown = weights.mean(1) if head == MEAN else weights[:, head - 1]
        elif layer == ROLLOUT:
            shown, told = rollout(weights), "rollout of all layers"
        else:
            told = ("mean of all layers" if layer == MEAN else f"layer {layer}") + f", {told}"
            of_layer = weights.mean(0) if layer == MEAN else weights[layer - 1]
            shown = of_layer.mean(0) if head == MEAN else of_layer[head - 1]
        keys = [*MODALITIES, "null"] if stack == "fusion" else None
        received = shown.mean(0)
        most = keys[received.argmax()] if keys else f"bin {received.argmax() + 1} of {len(received)}"
        title = f"{stack}, {told}: {cell}, {place_of(arrays.windows, locus, arrays.simulated)}"
        return (plots.plot_attention(shown, keys, length // len(shown), title),
                f"Attention map, {title}; {most} receives most, {received.max():.2f} on average.")

    cells = _cell_types(names, arrays.cell_types["split"].tolist(), cell_type)
    config = model.config
    controls = {
        "locus": LocusChooser(arrays.windows, None if windows is None else windows[0], windows), "cell": cells,
        "stack": widgets.ToggleButtons(options=["encoder", "fusion", "sequence"], description="stack", **BUTTONS),
        "layer": widgets.Dropdown(description="layer", style=WIDE, layout=widgets.Layout(width="200px")),
        "head": widgets.Dropdown(description="head", style=WIDE, layout=widgets.Layout(width="200px")),
    }  # fmt: skip
    sizes = {"encoder": (config.encoder_layers, config.encoder_heads), "fusion": (0, config.encoder_heads),
             "sequence": (config.sequence_layers, config.sequence_heads)}

    def settle() -> None:
        """Offer the layers and heads that the stack has; what was chosen stays where it can."""
        n_layers, n_heads = sizes[controls["stack"].value]
        for control, options in ((controls["layer"], [MEAN, ROLLOUT, *range(1, n_layers + 1)] if n_layers else [MEAN]),
                                 (controls["head"], [MEAN, *range(1, n_heads + 1)])):
            before = control.value
            control.options = [(str(option), option) for option in options]
            control.value = before if before in options else MEAN
        controls["layer"].disabled, controls["head"].disabled = not n_layers, controls["layer"].value == ROLLOUT

    return Panel(controls, draw, [["locus"], ["cell", "stack"], ["layer", "head"]], settle)


# --- a training under way --------------------------------------------------------------------------------------


class TrainingPanel(widgets.VBox):
    """Follows a training by the files of its model folder, in this or any other process, until it is finished.

    A thread looks every `every_s` seconds, so that it goes on while this notebook trains. It ends when the training does,
    after `give_up_s` seconds without any sign of one, or when the button is released; pressed again, it goes on.
    """

    def __init__(self, model_dir: str | Path, every_s: float, give_up_s: float) -> None:
        self._dir, self._every_s, self._give_up_s = model_dir, every_s, give_up_s
        self.status, self.figure, self.messages = widgets.HTML(), widgets.HTML(), widgets.Output()
        self.follow = widgets.ToggleButton(value=True, description="follow", icon="play",
                                           tooltip="look at the training's files while pressed")
        super().__init__([widgets.Box([self.follow, self.status], layout=ROW), self.messages, self.figure])
        self.follow.observe(self._switch, "value")
        self._switch({"new": True})

    def _switch(self, change: dict) -> None:
        if change["new"]:
            self._over = threading.Event()
            self.thread = threading.Thread(target=self._follow, args=(self._over,), daemon=True)
            self.thread.start()
        else:
            self._over.set()

    def _follow(self, over: threading.Event) -> None:
        """Look until it is over; then release the button, unless it was pressed again."""
        before, began, quiet_s = None, False, 0.0
        with _telling(self.messages):
            while not over.is_set():
                now = training_progress(self._dir)
                changed = before is not None and (now.quiet_s < before.quiet_s or now.state != before.state)
                sign = now.state == "training" or changed
                began, quiet_s = began or sign, 0.0 if sign else quiet_s + self._every_s
                if before is None or changed or len(now.history) != len(before.history):
                    self.figure.value = self._drawn(now)
                before, ended = now, began and now.state == "finished"
                over_quiet = quiet_s > self._give_up_s
                told = f" No sign of a training for {self._give_up_s / 60:.0f} min: not followed any longer." if over_quiet else ""
                self.status.value = html.escape(_status(now, self._dir) + told)
                if ended or over_quiet:
                    break
                over.wait(self._every_s)
        if self._over is over:
            self.follow.value = False

    @staticmethod
    def _drawn(now: TrainingProgress) -> str:
        if now.history.empty:
            return ""
        last = now.history.iloc[-1]
        return _picture((plots.plot_followed(now.history, now.epochs), (
            f"Training, epoch {last['epoch']:.0f} of {now.epochs}: error, skill, spread and gradient norm by epoch. Last: "
            f"validation MSE {last['validation_mse']:.4f}, skill {last['validation_skill']:+.3f}.")))  # fmt: skip


def _status(now: TrainingProgress, model_dir: str | Path) -> str:
    """How far a training is, in a line or two."""
    if now.state == "none":
        return f"{model_dir}: no training was seen there yet; one shows after its first 100 steps, or its first epoch."
    done = len(now.history)
    told = f"{now.state}: {done} of {now.epochs} epochs"
    if now.state == "finished":
        told += f"; stopped early: {now.stopped}" if now.stopped else ""
    elif now.state == "training" and done:
        left = max(0.0, (now.epochs - done) * now.history["seconds"].median() - now.quiet_s)
        told += f", about {_duration(left)} left"
    if done:
        last = now.history.iloc[-1]
        told += f"; skill {last['validation_skill']:+.3f}, {last['samples_per_second']:,.0f} samples/s"
    told += f"; files written {_duration(now.quiet_s)} ago."
    return told + (f" The monitor: {'; '.join(now.warnings)}." if now.warnings else " The monitor saw no sign of a collapse."
                   if done else "")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


_FOLLOWED: list[TrainingPanel] = []  # the last one; its cell may be run again


def follow_training(model_dir: str | Path, every_s: float = 2.0, give_up_s: float = 600.0) -> TrainingPanel:
    """Follow the training of a model folder, by whichever process; a panel of an earlier call is let go."""
    for panel in _FOLLOWED:
        panel.follow.value = False
    _FOLLOWED[:] = [TrainingPanel(model_dir, every_s, give_up_s)]
    return _FOLLOWED[0]
