"""The six real notebooks, run in sequence with the smoke profile: the whole road from tracks to report."""

import io
import json
import re

import nbformat
import pandas as pd
import pytest
from browser import assert_page_opens, needs_chromium, open_browser
from test_fetch import large, stream  # noqa: F401
from test_report import Links, assert_offline
from test_structure import NOTEBOOKS

from chromacc_lib import project_path
from chromacc_lib.dataset import load_arrays
from chromacc_lib.parameters import read_profile
from chromacc_lib.pipeline import run
from chromacc_lib.simulate import simulate

PREDICTION_COLUMNS = {
    "tss_distance",
    "observed_tracks",
    "cell_type",
    "cell_type_split",
    "window",
    "chrom",
    "start",
    "end",
    "window_split",
    "kind",
    "gc",
    "score",
    "label",
    "predicted_score",
    "predicted_probability",
    "average_score",
    "average_label",
    "truth",
}
ARTEFACTS = [
    "run.json",
    "index.html",
    "model/model.safetensors",
    "model/config.json",
    "model/normalization.json",
    "model/history.csv",
    "model/model_card.md",
    "model/SHA256SUMS",
    "model/evaluation.json",
    "model/diagnosis.json",
    "predictions.parquet",
    "baselines.parquet",
    "evaluation_metrics.json",
    "collapse_diagnostics.json",
    "interpretation/attributions.npz",
    "interpretation/motifs.csv",
    "interpretation/patterns.meme",
    "prediction/summary.json",
    "prediction/qc.html",
]


HOSTILE = " <script>alert(1)</script>"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The settings that keep a run of the real notebooks out of the project's own data and reports.

    The simulation is there already, and is kept: the names of its cell types end in a script.
    """
    base = tmp_path_factory.mktemp("smoke")
    asked = {name: setting.value for name, setting in read_profile("smoke", project_path("notebooks/profiles"))[1].items()}
    simulate(base / "raw", asked["sim_genome_mb"], asked["sim_cell_types"], workers=1)
    for name in ("tracks.tsv", "truth.tsv"):
        table = pd.read_csv(base / "raw" / name, sep="\t", dtype=str, keep_default_na=False)
        table.assign(cell_type=table["cell_type"] + HOSTILE).to_csv(base / "raw" / name, sep="\t", index=False)
    activity = pd.read_csv(base / "raw" / "truth" / "tf_activity.tsv", sep="\t", index_col=0)
    activity.set_axis(activity.index + HOSTILE).to_csv(base / "raw" / "truth" / "tf_activity.tsv", sep="\t")
    return [f"run_dir={base / 'reports'}", f"dataset_dir={base / 'dataset'}", f"raw_dir={base / 'raw'}"]


@pytest.fixture(scope="module")
def smoke(places):
    """The folder of a finished run of the smoke profile."""
    return run("smoke", places)


def test_every_stage_is_done(smoke):
    stages = json.loads((smoke / "run.json").read_text())["stages"]
    assert {name: entry["state"] for name, entry in stages.items()} == dict.fromkeys(NOTEBOOKS, "done")


@pytest.mark.parametrize("name", ARTEFACTS + [f"{n}.{kind}" for n in NOTEBOOKS for kind in ("ipynb", "html")])
def test_artefact_is_there(smoke, name):
    assert (smoke / name).stat().st_size > 0


def test_a_track_of_an_unseen_cell_type_is_written(smoke):
    assert list((smoke / "prediction").glob("*.bw")) and list((smoke / "prediction").glob("*.bed"))


def test_nothing_half_written_is_left(smoke):
    assert [
        p.name for p in smoke.rglob("*") if p.name.endswith((".part", ".running.ipynb", ".failed.ipynb"))
    ] == []


def test_predictions_hold_test_chromosomes_whole_and_of_the_others_what_they_serve(smoke, places):
    """Of training chromosomes a sample, in every cell type; validation chromosomes in validation cell types alone."""
    table = pd.read_parquet(smoke / "predictions.parquet")
    assert set(table.columns) == PREDICTION_COLUMNS
    arrays = load_arrays(places[1].removeprefix("dataset_dir="))
    windows, cells = (some["split"].value_counts() for some in (arrays.windows, arrays.cell_types))
    seen = read_profile("smoke", project_path("notebooks/profiles"))[1]["seen_windows"].value
    assert seen < windows["train"], "a sample"
    assert table["window_split"].value_counts().to_dict() == {
        "test": windows["test"] * cells.sum(), "train": seen * cells.sum(),
        "validation": windows["validation"] * cells["validation"],
    }  # fmt: skip
    assert set(table.loc[table["window_split"] == "validation", "cell_type_split"]) == {"validation"}
    assert not table.duplicated(["window", "cell_type"]).any()
    assert table["predicted_score"].notna().all()


def test_a_cell_type_called_like_a_script_is_text_on_every_page(smoke, tried):
    """From the manifest through dataset, model, evaluation and prediction; figures are pictures."""
    pages = {name: (smoke / f"{name}.html").read_text() for name in ("index", *NOTEBOOKS, "prediction/qc")}
    cells = set(pd.read_parquet(smoke / "predictions.parquet", columns=["cell_type"])["cell_type"])
    assert len(cells) > 3 and all(name.endswith(HOSTILE) for name in cells)
    shown = {name: text.count("&lt;script&gt;alert(1)&lt;/script&gt;") for name, text in pages.items()}
    for name, text in pages.items():
        assert Links(text).scripts == 0 and "<script>alert" not in text, name
    named = [name for name in pages if shown[name]]
    assert set(pages) == set(named)
    tried(f"cell types called{HOSTILE} through all six notebooks", f"no script on {len(pages)} pages; shown as text on {len(named)}")


@pytest.mark.parametrize("name", ["index", *NOTEBOOKS])
def test_page_is_offline_says_simulated_and_has_alt_text(smoke, name):
    text = (smoke / f"{name}.html").read_text()
    assert_offline(text)
    page = Links(text)
    assert page.scripts == 0
    assert "SIMULATED DATA" in text
    assert [alt for alt in page.alts if not alt or alt.startswith("No description")] == []
    for anchor in page.anchors:
        assert anchor.startswith(("#", "http")) or (smoke / anchor).exists(), anchor


@needs_chromium
def test_every_page_opens_in_a_browser_without_network(smoke):
    with open_browser() as browser:
        seen = {name: assert_page_opens(browser, smoke / f"{name}.html") for name in ("index", *NOTEBOOKS, "prediction/qc")}
    for name, page in seen.items():
        assert page["images"] and "SIMULATED DATA" in page["text"][:100], name


def test_the_report_shows_four_figures_the_calibration_and_the_motifs(smoke):
    n_motifs = bool(len(pd.read_csv(smoke / "interpretation" / "motifs.csv")))
    assert len(Links((smoke / "index.html").read_text()).alts) == 4 + 1 + n_motifs


def test_the_unseen_cell_type_is_predicted_from_its_manifest_as_in_the_evaluation(smoke):
    summary = json.loads((smoke / "prediction" / "summary.json").read_text())
    assert set(pd.read_csv(smoke / "prediction" / "manifest.tsv", sep="\t")["kind"]) <= {"histone", "tf", "expression"}
    table = pd.read_parquet(smoke / "predictions.parquet")
    table = table[(table["cell_type"] == summary["cell_type"]) & (table["window_split"] == "test")]
    assert len(table) and set(table["cell_type_split"]) == {"test"}
    alone = pd.read_parquet(smoke / "prediction" / summary["files"]["windows"])
    both = table.merge(alone, on=["chrom", "start", "end"], suffixes=("", "_alone"), validate="one_to_one")
    assert len(both) == len(table)
    for column in ("predicted_score", "predicted_probability", "average_score"):
        assert (both[column] == both[f"{column}_alone"]).all(), column


def test_the_pages_fit_in_a_mail(smoke):
    assert sum(path.stat().st_size for path in smoke.rglob("*.html")) < 15e6


def test_a_second_run_does_nothing(smoke, places, capsys):
    run("smoke", places)
    assert capsys.readouterr().out.count("up to date") == len(NOTEBOOKS)


# --- over the network ----------------------------------------------------------------------------------------


def test_tracks_that_are_streamed_are_counted_on_the_page(large, stream, tmp_path):  # noqa: F811
    """Notebook 01 from a local server: what it says beforehand, and the table of what came, add up to what was sent."""
    _, served = stream
    out = io.StringIO()
    settings = [
        f"run_dir={tmp_path / 'reports'}", f"dataset_dir={tmp_path / 'dataset'}", f"raw_dir={tmp_path / 'raw'}",
        f"manifest={tmp_path / 'remote.tsv'}", f"genome_fasta={large.genome_fasta}", "window_bp=1000", "n_bins=10",
        "test_cell_types=[D]", "validation_cell_types=[none]",
    ]  # fmt: skip
    folder = run("local", settings, until="01", out=out)
    assert {path.endswith(".bw") for path, _ in served.asked} == {True, False}, "tracks by their blocks, peaks whole"
    terminal = out.getvalue()
    order = ["downloads: 4 file(s)", "files opened, none refused", "12 remote tracks of", "remote tracks were fetched"]
    assert sorted(order, key=terminal.index) == order
    streamed = json.loads((tmp_path / "dataset" / "curation.json").read_text())["streamed"]
    assert streamed["files"] == 12 and streamed["fetched_bytes"] > 0
    notebook = nbformat.read(folder / "01_data_curation.ipynb", as_version=4)
    (html,) = [
        output.data["text/html"]
        for cell in notebook.cells if cell.cell_type == "code" and "network_bytes" in cell.source
        for output in cell.outputs if "data" in output
    ]  # fmt: skip
    rows = re.findall(r"<td>([^<]*)</td>\s*<td>([\d,]+)</td>", html)
    table = {what: int(number.replace(",", "")) for what, number in rows}
    whole = sum(len(data) for path, data in served.files.items() if not path.endswith(".bw"))
    assert table["all over the network"] == served.sent - whole
    assert table["what the check above read"] > 0
    assert table["fetched of them"] == streamed["fetched_bytes"]


# --- real tracks ---------------------------------------------------------------------------------------------


def test_real_tracks_go_through_the_same_notebooks(real_folder, tmp_path):
    """K562 and two chromosomes held out; HepG2 has no histone marks, and its TF tracks none of chr1: missing, not zero."""
    out = run("local", [
        f"run_dir={tmp_path / 'reports'}", f"dataset_dir={tmp_path / 'dataset'}", f"raw_dir={tmp_path / 'raw'}",
        f"manifest={real_folder / 'tracks.tsv'}", f"genome_fasta={real_folder / 'hg38_subset.fa.gz'}",
        "test_cell_types=[K562]", "validation_cell_types=[none]", "test_chromosomes=[chr17, chr20]",
        "validation_chromosomes=[chr2]", "cells_per_window=3", "max_positive_windows=240", "epochs=1", "n_bootstrap=50",
        "n_windows=24", "n_mutagenesis=2", "n_backgrounds=8",
    ])  # fmt: skip
    stages = json.loads((out / "run.json").read_text())["stages"]
    assert [stages[name]["state"] for name in NOTEBOOKS] == ["done"] * len(NOTEBOOKS)
    for name in (*NOTEBOOKS, "index"):
        text = (out / f"{name}.html").read_text()
        assert_offline(text)
        assert "SIMULATED" not in text.partition("</style>")[2].partition("<pre")[0]
    metrics = json.loads((out / "evaluation_metrics.json").read_text())
    assert metrics["simulated"] is False and metrics["verdict"].startswith("On real data, 1 unseen cell type")
    table = pd.read_parquet(out / "predictions.parquet")
    assert set(table.loc[table["cell_type_split"] == "test", "cell_type"]) == {"K562"} and table["truth"].isna().all()
    assert json.loads((out / "prediction" / "summary.json").read_text())["cell_type"] == "K562"
