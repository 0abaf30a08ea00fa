"""Figures: alt text reaches the notebook, figures are closed, axes are labelled, undefined values are said to be so."""

import base64
import importlib

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from chromacc_lib import ChromaccError, plots, project_path
from chromacc_lib.matching import match_summary


@pytest.fixture(autouse=True)
def no_figure_left_open():
    plots.use_style()
    yield
    plt.close("all")


@pytest.fixture
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    score = rng.normal(1, 1, 200)
    return pd.DataFrame({
        "cell_type": np.repeat(["a", "b"], 100), "score": score, "average_score": score + rng.normal(size=200),
        "predicted_score": score + 0.5 * rng.normal(size=200), "label": (score > 1).astype(int),
        "predicted_probability": rng.uniform(size=200),
    })


def texts(fig) -> str:
    """Return all that is written in a figure."""
    return "\n".join(text.get_text() for text in fig.findobj(plt.Text))


def assert_labelled(fig) -> None:
    """Every row has a label at its left, every column one below."""
    fig.canvas.draw()
    for ax in fig.axes:
        spec = ax.get_subplotspec()
        if spec is not None and spec.is_last_row():
            assert ax.get_xlabel(), ax.get_title()


def test_every_figure_of_the_parts_is_found_in_plots():
    parts = [path.stem for path in project_path("chromacc_lib").glob("plots_*.py")]
    public = {name for part in parts for name in importlib.import_module(f"chromacc_lib.{part}").__all__}
    assert len(parts) > 1 and public == set(plots.__all__)


def test_show_sends_a_png_with_its_alt_text_and_closes_the_figure():
    InteractiveShell.instance()
    fig, _ = plt.subplots()
    with capture_output() as captured:
        plots.show(fig, alt="A line that rises.", width=300)
    (output,) = captured.outputs
    assert output.metadata == {"image/png": {"alt": "A line that rises.", "width": 300}}
    assert base64.b64decode(output.data["image/png"]).startswith(b"\x89PNG")
    assert output.data["text/plain"] == "A line that rises."
    assert not plt.fignum_exists(fig.number)


def test_show_refuses_a_figure_without_alt_text():
    fig, _ = plt.subplots()
    with pytest.raises(ChromaccError, match="alt text is empty"):
        plots.show(fig, alt=" ")


def test_colours_go_by_name_and_unknown_names_are_refused():
    assert plots.colour("model") == plots.PALETTE["model"]
    with pytest.raises(ChromaccError, match="no colour is called 'modell'; known names: model"):
        plots.colour("modell")


def _lightness(colour: str) -> float:
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in
                        matplotlib.colors.to_rgb(colour))
    return 116 * (0.2126 * red + 0.7152 * green + 0.0722 * blue) ** (1 / 3) - 16


@pytest.mark.parametrize("pair", [("model", "average"), ("average", "measured"), ("model", "measured")])
def test_what_stands_side_by_side_differs_in_lightness_too(pair):
    """So that print in grey and every colour vision keep them apart; 10 of 100 steps of CIE lightness at least."""
    assert abs(_lightness(plots.PALETTE[pair[0]]) - _lightness(plots.PALETTE[pair[1]])) > 10


def test_predicted_against_measured_has_a_panel_a_cell_type_and_predictor(rows):
    fig = plots.plot_predicted_measured(rows)
    mse = ((rows["score"] - rows["predicted_score"]) ** 2)[:100].mean()
    assert f"a: model\nMSE {mse:.3f}" in texts(fig) and "b: average" in texts(fig)
    assert_labelled(fig)


def test_roc_pr_gives_areas_and_base_rate_and_leaves_unknown_labels_out(rows):
    rows.loc[:9, "label"] = -1
    fig = plots.plot_roc_pr(rows)
    assert f"base rate {rows['label'][10:].mean():.3f}" in texts(fig)
    assert "model, AUROC" in texts(fig) and "average, AUPRC" in texts(fig)
    assert_labelled(fig)


def test_intervals_draw_points_and_say_undefined():
    panels = {"Skill": {"model": {"value": 0.4, "low": 0.2, "high": 0.6},
                        "average": {"value": 0.0, "low": 0.0, "high": 0.0},
                        "training_mean": {"value": np.nan, "low": np.nan, "high": np.nan}, "T_cell": {}}}
    fig = plots.plot_intervals(panels, {"Skill": "1 - MSE / MSE"})
    ax = fig.axes[0]
    lines = {tuple(np.ravel(line.get_xdata())) for line in ax.lines}
    assert (0.2, 0.6) in lines and (0.4,) in lines
    assert sum("undefined" in text.get_text() for text in ax.texts) == 2
    assert [label.get_text() for label in ax.get_yticklabels()] == ["model", "average", "training mean", "T_cell"]
    assert_labelled(fig)


def test_error_by_spread_has_a_line_a_predictor():
    table = pd.DataFrame({"model": [0.1, 0.2], "average": [0.1, 0.5]}, index=[0.2, 0.9])
    fig = plots.plot_error_by_spread(table)
    assert [line.get_label() for line in fig.axes[0].lines] == ["model", "average"]
    assert_labelled(fig)


def test_calibration_names_each_cell_type():
    curve = {"brier": 0.1, "expected_calibration_error": 0.02, "bins": [{"predicted": 0.2, "observed": 0.3, "n": 9}]}
    fig = plots.plot_calibration({"K562": curve})
    assert "K562, ECE 0.020, Brier 0.100" in texts(fig)
    assert_labelled(fig)


def test_calibration_before_and_after_stand_side_by_side():
    curve = {"brier": 0.1, "expected_calibration_error": 0.02, "bins": [{"predicted": 0.2, "observed": 0.3, "n": 9}]}
    fig = plots.plot_calibration({"K562": curve}, {"K562": curve | {"expected_calibration_error": 0.01}})
    assert [ax.get_title() for ax in fig.axes] == ["As predicted", "Recalibrated"]
    assert "K562, ECE 0.020" in texts(fig) and "K562, ECE 0.010" in texts(fig)
    assert_labelled(fig)


def test_error_by_distance_names_held_out_cell_types_and_marks_what_is_far():
    table = pd.DataFrame({"cell_type": ["a", "b", "c"], "split": ["train", "test", "validation"],
                          "distance": [0.8, 1.4, np.nan], "mse": [0.1, 0.3, 0.2], "skill": [0.5, 0.2, 0.4]})
    fig = plots.plot_error_by_distance(table, 1.0)
    assert "b" in [text.get_text() for text in fig.axes[0].texts] and len(fig.axes[0].texts) == 1
    assert any(np.ravel(line.get_xdata()).tolist() == [1.0, 1.0] for line in fig.axes[1].lines)
    assert_labelled(fig)


def test_normalizations_have_a_panel_each_and_name_the_choice():
    values = {name: np.random.default_rng(1).gamma(2, 1, (6, 3, 4)) for name in ("raw", "arcsinh", "quantile")}
    values["quantile"][:, 1] = np.nan  # a missing track
    splits = pd.Series({"a": "train", "b": "test", "c": "validation"})
    fig = plots.plot_normalizations(values, ["a", "b", "c"], splits, "CTCF, bin mean", "arcsinh")
    assert [ax.get_title() for ax in fig.axes] == ["raw", "arcsinh (chosen)", "quantile"]
    assert [text.get_text() for text in fig.axes[0].get_yticklabels()] == ["a", "b", "c"]
    assert fig.axes[0].get_ylim()[0] > fig.axes[0].get_ylim()[1]  # first cell type on top
    assert_labelled(fig)


def test_match_has_a_row_a_covariate_and_a_column_a_split():
    rng = np.random.default_rng(2)
    names = ["gc", "repeats", "tss_distance"]
    peaks, pool = rng.random((20, 3)), rng.random((60, 3))
    match = {"train": match_summary(peaks, np.arange(20) < 15, pool, pool[:15], names, ["gc"]),
             "test": match_summary(peaks[:1], np.zeros(1, dtype=bool), pool[:0], pool[:0], names, ["gc"])}
    fig = plots.plot_match(match)
    assert len(fig.axes) == 6 and fig.axes[1].get_title() == "test: KS –, matched –"
    labels = [fig.axes[i].get_xlabel() for i in (0, 2, 4)]
    assert labels == ["GC content (%)", "soft-masked bases (%)", "log10(1 + bp to the nearest TSS)"]
    assert [fig.axes[i].get_ylabel() for i in (0, 2, 4)] == ["windows (%)"] * 3
    assert 50 < fig.axes[0].get_xlim()[1] <= 102
    assert_labelled(fig)


def test_loci_have_a_profile_and_tracks_a_cell_type():
    table = pd.DataFrame({"cell_type": np.repeat(["a", "b"], 3), "bp": [50, 150, 250] * 2, "measured": 1.0,
                          "average": 0.5, "model": 0.8})
    tracks = {"best: chr1:0-300": {"a": np.zeros((2, 3)), "b": np.full((2, 3), np.nan)}}
    fig = plots.plot_loci({"best: chr1:0-300": table}, tracks, ["H3K27ac", "CTCF"])
    assert len(fig.axes) == 5  # two profiles, two heat maps, one colour bar
    assert "best: chr1:0-300\na" in texts(fig) and "H3K27ac" in texts(fig)
    assert_labelled(fig)


def test_assay_worth_has_a_panel_a_cell_type_and_says_what_is_undefined():
    known = {"pr_auc": 0.03, "pr_auc_low": 0.01, "pr_auc_high": 0.05}
    gone = dict.fromkeys(known, np.nan)

    def row(cell_type, assay, values):
        """One line of `assays.worth_table`."""
        return {"cell_type": cell_type, "assay": assay, **values, **{f"first_{k}": 2 * v for k, v in values.items()}}

    table = pd.DataFrame([row("all", "CTCF", known), row("all", "H3K27ac", known), row("K562", "H3K27ac", known),
                          row("HepG2", "CTCF", gone)])
    fig = plots.plot_assay_worth(table)
    assert [ax.get_title() for ax in fig.axes] == ["all", "K562", "HepG2"]
    assert_labelled(fig)
    assert texts(fig).count("undefined") == 1 and "added first" in texts(fig)
    points = [[line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"] for ax in fig.axes]
    assert points == [[0.03, 0.03, 0.06, 0.06], [0.03, 0.06], []]
    assert fig.axes[0].get_yticklabels()[0].get_text() == "CTCF"


@pytest.fixture
def history() -> pd.DataFrame:
    """Three epochs of two branches and of what the monitor watches; the second branch got no gradient in the last."""
    epochs = np.arange(1, 4)
    return pd.DataFrame({
        "epoch": epochs, "grad_norm": 2.0, "grad_fusion": 1.0, "grad_encoder": [1.0, 0.5, 0.0], "update_fusion": 1e-3,
        "update_encoder": 1e-4, "variance_ratio": [0.2, 0.5, 0.6], "departure_ratio": [0.1, 0.2, 0.3], "effective_rank": 9.0,
        "token_similarity": [0.9, -0.2, 0.8], "attention_entropy_sequence": 0.9, "attention_entropy_fusion": 0.5,
        "attention_entropy_encoder": 0.8,
    })  # fmt: skip


def test_branches_are_drawn_as_shares_and_a_gradient_of_zero_leaves_a_gap(history):
    left, right = plots.plot_branches(history, ["fusion", "encoder"]).axes
    assert left.lines[0].get_ydata().tolist() == [0.5] * 3
    np.testing.assert_array_equal(left.lines[1].get_ydata(), [0.5, 0.25, np.nan])
    assert right.lines[1].get_ydata().tolist() == [1e-4] * 3 and "weights" in right.get_ylabel()
    old = history.drop(columns=["update_fusion", "update_encoder"])
    assert len(plots.plot_branches(old, ["fusion", "encoder"]).axes) == 1


@pytest.mark.parametrize("epochs", [1, 3])
def test_what_the_monitor_watches_lies_within_the_axes(history, epochs):
    fig = plots.plot_vitals(history.head(epochs))
    assert_labelled(fig)
    for ax in fig.axes:
        low, high = ax.get_ylim()
        assert ax.lines and all(low <= value <= high for line in ax.lines for value in line.get_ydata())
