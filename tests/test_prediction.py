"""Prediction from a manifest: the same as from the curated dataset; files that round-trip; clear errors."""

import json
import re
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pytest
import torch
from conftest import PARAMETERS, write_bigwig, write_fasta, write_lines, write_manifest

from chromacc_lib import ChromaccError, cli, hub, plots, prediction, writers
from chromacc_lib.batches import RegionData
from chromacc_lib.cache import file_lock
from chromacc_lib.cell_inputs import EXPRESSION, cut_manifest, read_inputs
from chromacc_lib.curation import curate
from chromacc_lib.dataset import Arrays, load_arrays
from chromacc_lib.expectation import add_evaluation
from chromacc_lib.hub import complete_model_folder, model_card, open_model_folder, training_reference
from chromacc_lib.inference import predict_batch, predict_scores
from chromacc_lib.manifest import read_intervals, read_manifest
from chromacc_lib.model import ChromaccModel
from chromacc_lib.normalization import METHODS, file_constants
from chromacc_lib.places import prior_windows, region_windows
from chromacc_lib.prediction import LOCUS_PRIOR, predict_manifest, predict_windows
from chromacc_lib.prediction_page import write_qc_page
from chromacc_lib.quality import Quality, expression_distance
from chromacc_lib.training import TrainingConfig, TrainingResult, model_config, save_model
from chromacc_lib.writers import BigWigWriter, file_stem

CELL = "D"  # the test cell type of the tiny project
SILENT = {"say": lambda line: None, "device": "cpu"}


@dataclass(frozen=True)
class Trained:
    """A tiny project, its dataset, and the folder of a model of random weights, complete for prediction."""

    folder: Path
    manifest: Path
    genome_fasta: Path
    model_dir: Path
    dataset_dir: Path
    arrays: Arrays
    sizes: dict[str, int]


def random_model(arrays: Arrays) -> ChromaccModel:
    """A small untrained model with strong heads, so that every input moves every output."""
    torch.manual_seed(3)
    sizes = {"d_model": 16, "sequence_layers": 1, "encoder_layers": 1, "histone_blocks": 1}
    model = ChromaccModel(model_config(arrays, **sizes, histone_filters=8, tf_hidden=8))
    for head in (model.score_head[-1], model.label_head[-1], model.profile_head):
        torch.nn.init.normal_(head.weight, std=1.0)
    with torch.no_grad():  # half of the windows of cell type D are called open
        model.label_head[-1].bias -= predict_logits(model.eval(), arrays).median()
    return model


def predict_logits(model: ChromaccModel, arrays: Arrays) -> torch.Tensor:
    """Logits of D in every window."""
    return predict_batch(model, RegionData(arrays).batch(np.arange(len(arrays.windows)), np.array([3]))).logit


@pytest.fixture(scope="module")
def trained(curated, tmp_path_factory) -> Trained:
    return train(*curated, tmp_path_factory.mktemp("run") / "model")


def train(project, dataset_dir: Path, model_dir: Path) -> Trained:
    """Write the folder of a model of random weights."""
    arrays = load_arrays(dataset_dir)
    history = pd.DataFrame([{"epoch": 1, "validation_skill": 0.25, "validation_pearson": 0.5}])
    result = TrainingResult(
        random_model(arrays), history, 1, "cpu", "1 unseen cell type", {"CTCF": "MA0139.2"}
    )
    config = TrainingConfig(epochs=1)
    save_model(result, config, model_dir, {}, model_card(arrays, result, config))
    complete_model_folder(model_dir, dataset_dir, arrays)
    return Trained(
        project.folder,
        project.manifest,
        project.genome_fasta,
        model_dir,
        dataset_dir,
        arrays,
        dict(project.sizes),
    )


@pytest.fixture(scope="module")
def predicted(trained, tmp_path_factory) -> prediction.Prediction:
    """Cell type D, from a manifest without its accessibility."""
    out = tmp_path_factory.mktemp("predicted")
    cut_manifest(trained.manifest, CELL, out / "manifest.tsv")
    return predict_manifest(
        trained.model_dir, out / "manifest.tsv", trained.genome_fasta, out_dir=out, **SILENT
    )


@pytest.fixture
def inputs(trained):
    """The opened model folder and the inputs of D."""
    folder = open_model_folder(trained.model_dir)
    return folder, read_inputs(folder, trained.manifest, trained.genome_fasta, CELL, say=lambda line: None)


def rows_of(trained: Trained, cell_type: str, leave_out: tuple[str, ...] = ()) -> list[dict]:
    """Manifest rows of one cell type, with absolute paths, without accessibility and some targets."""
    table = read_manifest(trained.manifest)
    keep = (table["cell_type"] == cell_type) & ~table["kind"].str.startswith("accessibility")
    return table[keep & ~table["target"].isin(leave_out)].to_dict("records")


def predict(trained: Trained, rows: list[dict], folder: Path, **options) -> prediction.Prediction:
    folder.mkdir(exist_ok=True)
    manifest = write_manifest(folder / "tracks.tsv", rows)
    options = SILENT | {"out_dir": folder / "out"} | options
    return predict_manifest(trained.model_dir, manifest, trained.genome_fasta, **options)


# --- the model folder ---------------------------------------------------------------------------------------
def test_the_prior_is_what_the_dataset_gives_an_unseen_cell_type(trained):
    reference, arrays = open_model_folder(trained.model_dir).reference, trained.arrays
    for cell in (3, 4):  # D and E: test and validation
        weights = reference.state_weights(arrays.metadata[cell], bool(arrays.metadata_observed[cell]))
        assert np.array_equal(reference.prior(np.arange(len(arrays.windows)), weights), arrays.prior_profile[:, cell])
        assert np.array_equal(reference.score, arrays.prior_score[:, cell])
        assert np.array_equal(reference.observed, arrays.prior_observed[:, cell])
    assert reference.cell_types == ("A", "B", "C", "F") and reference.assembly == "tiny1"
    assert reference.simulated == arrays.simulated


def test_the_reference_by_hand(trained):
    arrays = trained.arrays
    changed = replace(
        arrays,
        accessibility=np.full_like(arrays.accessibility, np.nan),
        score=np.full_like(arrays.score, np.nan),
        histone=np.zeros_like(arrays.histone),
    )
    changed.accessibility[0, [0, 1]] = np.array([1.0, 3.0])[:, None]
    changed.accessibility[0, 3] = 99  # the test cell type's own must not enter
    changed.score[0, [0, 1]] = [2.0, 6.0]
    changed.histone[:, 0, 0, :, 0] = -0.5
    reference = training_reference([changed], "tiny1")
    assert np.allclose(reference.profile[0], [[2.0, 1.0]] * 10) and reference.score[0] == 4
    assert reference.observed[0] and not reference.observed[1:].any() and not reference.profile[1:].any()
    assert reference.track_mean[0, 0] == -0.5 and reference.track_spread[0, 0] == 0.5
    assert np.isnan(reference.track_mean[1, 1])  # B has no H3K4me3
    assert not reference.track_mean[0, 1:2].any()


def test_finding_windows_is_exact(trained):
    reference = open_model_folder(trained.model_dir).reference
    asked = reference.windows.iloc[[4, 0, 2]].copy()
    asked.iloc[1, asked.columns.get_loc("start")] += 1
    assert reference.find(asked).tolist() == [4, -1, 2]


@pytest.mark.parametrize("name", ["normalization.json", "locus_prior.npz"])
def test_an_incomplete_model_folder_is_refused_by_name(trained, tmp_path, name):
    shutil.copytree(trained.model_dir, tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    with pytest.raises(ChromaccError, match=name):
        open_model_folder(tmp_path / "model")


def test_a_damaged_prior_and_files_of_two_models_are_refused(trained, tmp_path):
    shutil.copytree(trained.model_dir, tmp_path / "model")
    other = json.loads((trained.model_dir / "normalization.json").read_text()) | {"n_bins": 20}
    (tmp_path / "model" / "normalization.json").write_text(json.dumps(other))
    with pytest.raises(ChromaccError, match="n_bins: model 10, normalization.json 20"):
        open_model_folder(tmp_path / "model")
    prior = tmp_path / "model" / "locus_prior.npz"
    prior.write_bytes(prior.read_bytes()[:-200])
    with pytest.raises(ChromaccError, match="no readable locus prior"):
        open_model_folder(tmp_path / "model")


def test_weights_of_another_model_are_refused(trained, tmp_path):
    shutil.copytree(trained.model_dir, tmp_path / "model")
    config = json.loads((trained.model_dir / "config.json").read_text())
    config["model"]["encoder_layers"] = 2
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ChromaccError, match=r"model\.safetensors does not fit"):
        open_model_folder(tmp_path / "model")


@pytest.mark.parametrize(("name", "change", "told"), [
    ("model.safetensors", lambda text: text[:-1000], "no readable weights"),
    ("model.safetensors", lambda text: text[:-1] + b"\x01", r"model\.safetensors not as written by the training"),
    ("config.json", lambda text: b"{", r"config\.json: no readable configuration"),
    ("config.json", lambda text: b"{}", r"no readable configuration of a model \(KeyError\('model'\)\)"),
    ("config.json", lambda text: text.replace(b'"d_model"', b'"width"'), "unknown: width"),
    ("config.json", lambda text: text.replace(b'"tfs"', b'"factors"'), r"unknown: factors; missing: tfs"),
    ("config.json", lambda text: text.replace(b'"H3K27ac"', b'"H3K4me3"', 1).replace(b'"H3K4me3",\n   "H3K4me3"',
                                              b'"H3K4me3",\n   "H3K27ac"'), r"config\.json not as written"),
    ("normalization.json", lambda text: b"{", r"normalization\.json: no readable JSON"),
    ("normalization.json", lambda text: text.replace(b".5", b".6", 1), r"normalization\.json not as written"),
])  # fmt: skip
def test_a_file_that_does_not_belong_is_refused_by_name(trained, tmp_path, name, change, told):
    shutil.copytree(trained.model_dir, tmp_path / "model")
    path = tmp_path / "model" / name
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert path.read_bytes() != before
    with pytest.raises(ChromaccError, match=told):
        open_model_folder(tmp_path / "model")


def test_files_of_another_run_with_the_same_tracks_are_refused_by_name(trained, tmp_path):
    shutil.copytree(trained.model_dir, tmp_path / "model")
    changed = replace(trained.arrays, score=trained.arrays.score + 1)
    with open(tmp_path / "model" / "locus_prior.npz", "wb") as handle:
        hub._write_reference(training_reference([changed], "tiny1"), handle)
    with pytest.raises(ChromaccError, match=r"locus_prior\.npz not as written by the training.*of another run"):
        open_model_folder(tmp_path / "model")
    (tmp_path / "model" / "SHA256SUMS").unlink()  # a folder of an older version
    assert open_model_folder(tmp_path / "model").reference.score[0] == trained.arrays.prior_score[0, 3] + 1


def test_a_folder_without_a_model_is_refused(trained, tmp_path):
    with pytest.raises(ChromaccError, match="holds no trained model"):
        predict_manifest(tmp_path, trained.manifest, trained.genome_fasta, cell_type=CELL, **SILENT)


def test_the_card_says_what_was_held_out(trained):
    card = (trained.model_dir / "model_card.md").read_text()
    assert "| training cell types | A, B, C, F |" in card and "| cell types never trained on | D |" in card
    assert "+0.250" in card and "H3K27ac, H3K4me3" in card and "SIMULATED" not in card
    assert "CTCF MA0139.2" in card and "Not evaluated yet" in card


# --- the same as from the dataset ---------------------------------------------------------------------------
@pytest.fixture(scope="module", params=METHODS)
def scaled(request, trained, curated, tmp_path_factory) -> Trained:
    """The tiny project under each normalisation."""
    if request.param == PARAMETERS.normalization:
        return trained
    project, folder = curated[0], tmp_path_factory.mktemp(request.param)
    parameters = replace(PARAMETERS, normalization=request.param)
    made = curate(
        project.manifest,
        project.genome_fasta,
        folder / "dataset",
        parameters,
        blacklist=project.blacklist,
        say=SILENT["say"],
    )
    return train(project, made.path, folder / "model")


@pytest.mark.parametrize(("cell_type", "cell"), [("D", 3), ("E", 4)])
def test_an_unseen_cell_type_is_predicted_as_from_the_dataset(scaled, tmp_path, cell_type, cell):
    predicted = predict(scaled, rows_of(scaled, cell_type), tmp_path)
    arrays, table = scaled.arrays, pd.read_parquet(predicted.windows)
    folder, every = open_model_folder(scaled.model_dir), np.arange(len(arrays.windows))
    score, probability = predict_scores(folder.model, RegionData(arrays), every, np.array([cell]))
    pd.testing.assert_frame_equal(
        table[["chrom", "start", "end"]], arrays.windows[["chrom", "start", "end"]], check_dtype=False
    )
    assert np.array_equal(table["average_score"], arrays.prior_score[:, cell])
    assert score.std() > 0.1  # else nothing could be told from the comparison
    assert np.array_equal(table["predicted_score"], score[:, 0])
    assert np.array_equal(table["predicted_probability"], probability[:, 0])
    together, _ = predict_scores(folder.model, RegionData(arrays), every, np.arange(6), batch_windows=8)
    assert np.array_equal(together[:, cell], score[:, 0])  # with others, as in the evaluation


def test_the_model_reads_exactly_what_the_dataset_holds(scaled, monkeypatch):
    batches, predict_batch = [], prediction.predict_batch
    monkeypatch.setattr(
        prediction, "predict_batch", lambda model, batch: batches.append(batch) or predict_batch(model, batch)
    )
    folder = open_model_folder(scaled.model_dir)
    inputs = read_inputs(folder, scaled.manifest, scaled.genome_fasta, CELL, say=SILENT["say"])
    assert inputs.files == tuple(file_constants(folder.normalization, [CELL], inputs.tracks)[0])
    predict_windows(folder, inputs, scaled.genome_fasta, scaled.arrays.windows)
    expected = RegionData(scaled.arrays).batch(np.arange(len(scaled.arrays.windows)), np.array([3]))
    for name, value in vars(expected).items():
        got = torch.cat([getattr(batch, name) for batch in batches])[: len(value)]  # the last batch is filled up
        assert got.dtype == value.dtype and torch.equal(got, value), name


@pytest.mark.parametrize("scaled", ["quantile", "s3norm"], indirect=True)
def test_files_that_the_normalisation_cannot_take_are_all_listed(scaled, tmp_path):
    rows = rows_of(scaled, CELL)
    chrom = scaled.arrays.windows.loc[scaled.arrays.windows["split"] == "test", "chrom"].iloc[0]
    for row in rows:
        if row["target"] in ("CTCF", "H3K27ac"):
            only = {chrom: [(0, 60_000, 1.0)]}
            row["path_or_url"] = str(write_bigwig(tmp_path / f"{row['target']}.bw", scaled.sizes, only))
    told = (
        r"(?s)2 problem.*D, H3K27ac \(\S*/H3K27ac.bw\): too sparse"
        r".*D, CTCF \(\S*/CTCF.bw\): too sparse.*needed above 0"
    )
    with pytest.raises(ChromaccError, match=told):
        predict(scaled, rows, tmp_path)


def test_chunks_and_workers_change_nothing(trained, predicted, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "CHUNK_WINDOWS", 7)
    again = predict(trained, rows_of(trained, CELL), tmp_path, workers=2)
    first, second = pd.read_parquet(predicted.windows), pd.read_parquet(again.windows)
    assert np.array_equal(first["predicted_score"], second["predicted_score"])
    assert (
        len(first) == len(second) > 20
        and again.summary["tracks"].keys() == predicted.summary["tracks"].keys()
    )
    for name, row in again.summary["tracks"].items():
        assert row["mean_z"] == pytest.approx(predicted.summary["tracks"][name]["mean_z"], abs=1e-9)


KILLED = """
import os, sys
from chromacc_lib import chunks, prediction
prediction.CHUNK_WINDOWS = 7
write = chunks.Chunks.write
def dying(self, number, arrays):
    if number == 3:
        os.kill(os.getpid(), 9)
    write(self, number, arrays)
chunks.Chunks.write = dying
prediction.predict_manifest(*sys.argv[1:4], "", sys.argv[4], device="cpu")
"""


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_killed_prediction_goes_on_and_ends_in_the_same_bytes(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "CHUNK_WINDOWS", 7)
    rows = rows_of(trained, CELL)
    whole = predict(trained, rows, tmp_path / "whole")
    (tmp_path / "killed").mkdir()
    manifest = write_manifest(tmp_path / "killed" / "tracks.tsv", rows)
    arguments = map(str, (trained.model_dir, manifest, trained.genome_fasta, tmp_path / "killed" / "out"))
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert files_of(tmp_path / "killed" / "out") == {}
    left, = (tmp_path / "killed" / "out").glob(".chunks-*")
    kept = {path.name: path.stat().st_mtime_ns for path in left.glob("*.npz")}
    assert len(kept) == 3
    said, written, write = [], [], prediction.Chunks.write
    monkeypatch.setattr(prediction.Chunks, "write", lambda self, number, arrays: written.append(number) or
                        write(self, number, arrays))
    again = predict(trained, rows, tmp_path / "killed", say=said.append)
    assert written == list(range(3, -(-len(trained.arrays.windows) // 7)))
    assert any(line.startswith("going on: 3 of") for line in said)
    assert files_of(again.bigwig.parent) == files_of(whole.bigwig.parent)
    assert not list(again.bigwig.parent.glob(".chunks-*"))


def test_chunks_of_other_inputs_are_not_taken_up(trained, tmp_path, monkeypatch):
    def fail(self, windows, profile):
        raise OSError("disk full")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="disk full"):
        patched.setattr(writers.PredictionWriters, "add", fail)
        predict(trained, rows_of(trained, CELL), tmp_path)
    before, = (tmp_path / "out").glob(".chunks-*")
    monkeypatch.setattr(prediction.Chunks, "remove", lambda self: None)
    said = []
    predict(trained, rows_of(trained, CELL, leave_out=("CTCF",)), tmp_path, say=said.append)
    after, = (tmp_path / "out").glob(".chunks-*")
    assert after != before and not any("before" in line for line in said)
    predict(trained, rows_of(trained, CELL, leave_out=("CTCF",)), tmp_path, threshold=0.9, say=said.append)
    assert any("chunks were predicted before" in line for line in said)  # the threshold is of the files alone


def test_processes_of_dask_give_the_same_bytes(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "CHUNK_WINDOWS", 16)
    one = predict(trained, rows_of(trained, CELL), tmp_path / "one")
    two = predict(trained, rows_of(trained, CELL), tmp_path / "two", processes=2)
    assert files_of(one.bigwig.parent) == files_of(two.bigwig.parent)


def test_two_predictions_do_not_write_one_folder(trained, tmp_path):
    with file_lock(tmp_path / "out" / ".lock", ""), pytest.raises(ChromaccError, match="another prediction is writing"):
        predict(trained, rows_of(trained, CELL), tmp_path)


def test_memory_does_not_grow_with_the_windows(trained):
    places = region_windows("genome", trained.genome_fasta, 1000, stride=1)
    n = len(places)
    tracemalloc.start()
    seen = sum(len(part) for part in places.chunks(2048))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == n == 6 * 59_001 and peak < 6_000_000  # bytes: one chromosome, a chunk; all would be 17 MB and more


def test_the_locus_average_beside_the_prediction_is_counted(predicted):
    table, density = pd.read_parquet(predicted.windows), predicted.summary["average_against_prediction"]
    counts = np.array(density["windows"])
    inner = [np.append(density["edges"][:-1], np.inf)] * 2
    known = table.dropna(subset="average_score")
    expected = np.histogram2d(known["average_score"].clip(0), known["predicted_score"].clip(0), inner)[0]
    assert np.array_equal(counts, expected) and counts.sum() == len(known)


# --- calibrated ---------------------------------------------------------------------------------------------
def test_probabilities_and_intervals_are_those_of_the_evaluation(trained, predicted, tmp_path):
    from test_expectation import write_run

    edge = float(pd.read_parquet(predicted.windows)["predicted_score"].median())
    shutil.copytree(trained.model_dir, write_run(tmp_path / "run", edge=edge) / "model")
    add_evaluation(tmp_path / "run" / "model", tmp_path / "run")
    moved = replace(trained, model_dir=tmp_path / "run" / "model")
    said = []
    made = predict(moved, rows_of(trained, CELL, leave_out=("CTCF",)), tmp_path / "a", say=said.append)
    table = pd.read_parquet(made.windows)
    logit = np.log(table["predicted_probability"] / (1 - table["predicted_probability"].astype(float)))
    assert np.allclose(table["calibrated_probability"], 1 / (1 + np.exp(-(logit / 2 + 0.5))), atol=1e-6)
    below = table["predicted_score"] < edge
    assert np.allclose(table["score_low"][below], table["predicted_score"][below] - 0.5)
    assert np.isinf(table["score_high"][~below]).all() and below.any()
    assert (made.summary["threshold"], made.summary["threshold_source"]) == (0.3, "evaluation of the model: highest F1")
    bed = pd.read_csv(made.bed, sep="\t", comment="#", header=None)
    called = table[table["predicted_probability"] >= 0.3].reset_index(drop=True)
    assert (bed[4] == np.rint(1000 * called["calibrated_probability"])).all() and len(bed) == len(called)
    first, folds = called.iloc[0], np.sinh(called[["predicted_score", "score_low", "score_high"]].iloc[0].clip(0))
    assert bed[3][0] == (f"open_1;p={first['calibrated_probability']:.3f};fold={folds.iloc[0]:.2f}"
                         f"({folds.iloc[1]:.2f}..{folds.iloc[2]:.2f})")
    assert "# probabilities: Temperature 2." in made.bed.read_text()
    expected = made.summary["expected_accuracy"]
    assert expected["exact"] and set(expected["missing"]) == {"CTCF"}
    assert any(line.startswith("expected accuracy: Shown") for line in said)
    assert json.loads((made.bed.parent / "summary.json").read_text()) == made.summary


# --- files --------------------------------------------------------------------------------------------------
def test_the_bigwig_round_trips(trained, predicted, inputs):
    made = predict_windows(*inputs, trained.genome_fasta, trained.arrays.windows)
    expected = np.maximum(np.sinh(made.profile[:, 0].astype(np.float64)), 0)
    with pyBigWig.open(str(predicted.bigwig)) as track:
        assert list(track.chroms().items()) == list(trained.sizes.items())
        for i in (0, 5, len(made.windows) - 1):
            window = made.windows.iloc[i]
            got = track.intervals(window["chrom"], int(window["start"]), int(window["end"]))
            starts = window["start"] + 100 * np.arange(10)
            assert [(a, b) for a, b, _ in got] == [(s, s + 100) for s in starts]
            assert np.allclose([value for _, _, value in got], expected[i], rtol=1e-5)
        assert track.header()["nBasesCovered"] == 1000 * len(made.windows)
        assert track.header()["minVal"] >= 0


def test_overlapping_windows_are_averaged(tmp_path):
    path = tmp_path / "x.bw"
    writer = BigWigWriter(path, {"chrA": 100, "chrB": 50})
    windows = pd.DataFrame({"chrom": ["chrA"] * 2, "start": [0, 10], "end": [20, 30]})
    writer.add(windows, np.array([[1.0, 2.0], [4.0, 6.0]]))  # bins of 10 bp
    last = pd.DataFrame({"chrom": ["chrA", "chrB"], "start": [25, 5], "end": [45, 25]})
    writer.add(last, np.array([[8.0, 1.0], [-1.0, 0.5]]))
    writer.close()
    with pyBigWig.open(str(path)) as track:
        got = [(a, b, np.arcsinh(value)) for a, b, value in track.intervals("chrA")]
        assert track.intervals("chrB") == ((5, 15, 0.0), (15, 25, pytest.approx(np.sinh(0.5))))
    values = [1.0, 3.0, 6.0, 7.0, 8.0, 1.0]
    edges = [(0, 10), (10, 20), (20, 25), (25, 30), (30, 35), (35, 45)]
    assert [(a, b) for a, b, _ in got] == edges
    assert np.allclose([value for *_, value in got], values, rtol=1e-5)


def test_the_bed_lists_open_windows(trained, predicted):
    table = pd.read_parquet(predicted.windows)
    bed = pd.read_csv(predicted.bed, sep="\t", comment="#", header=None)
    called = table[table["predicted_probability"] >= 0.5].reset_index(drop=True)
    assert 0 < len(bed) == len(called) < len(table) and predicted.summary["n_open_windows"] == len(bed)
    assert (bed[[0, 1, 2]].to_numpy() == called[["chrom", "start", "end"]].to_numpy()).all()
    assert (bed[4] == np.rint(1000 * called["predicted_probability"])).all() and bed[4].between(
        500, 1000
    ).all()
    assert (bed[7] - bed[6] == 100).all() and ((bed[6] >= bed[1]) & (bed[7] <= bed[2])).all()
    assert predicted.bed.read_text().startswith("# ")
    peaks = pd.read_csv(predicted.narrowpeak, sep="\t", header=None)
    assert peaks.shape[1] == 10 and (peaks[[0, 1, 2, 3, 4, 5]] == bed[[0, 1, 2, 3, 4, 5]]).all(axis=None)
    assert (peaks[9] == bed[6] - bed[1] + 50).all() and (peaks[[7, 8]] == -1).all(axis=None)
    with pyBigWig.open(str(predicted.bigwig)) as track:
        at = peaks.iloc[0]
        assert track.values(at[0], int(at[1] + at[9]), int(at[1] + at[9]) + 1)[0] == pytest.approx(at[6], rel=1e-3)
    read, problems = read_intervals(predicted.narrowpeak, trained.sizes)
    assert len(read) == len(peaks) and not any(problem.fatal for problem in problems)


def test_the_threshold_is_the_default_or_given(trained, predicted, tmp_path):
    assert predicted.summary["threshold"] == 0.5 and "no evaluation.json" in predicted.summary["threshold_source"]
    given = predict(trained, rows_of(trained, CELL), tmp_path / "b", threshold=0.99).summary
    assert given["n_open_windows"] < predicted.summary["n_open_windows"]
    with pytest.raises(ChromaccError, match="from 0 to 1"):
        predict(trained, rows_of(trained, CELL), tmp_path / "c", threshold=50)


def test_a_failure_leaves_what_was_there(trained, tmp_path, monkeypatch):
    first = predict(trained, rows_of(trained, CELL), tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def fail(self, windows, profile):
        raise OSError("disk full")

    monkeypatch.setattr(writers.PredictionWriters, "add", fail)
    with pytest.raises(OSError, match="disk full"):
        predict(trained, rows_of(trained, CELL), tmp_path)
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert after == before and set(before) == {*first.summary["files"].values(), "summary.json", ".lock"}


def test_another_cell_types_folder_is_not_overwritten_unasked(trained, tmp_path):
    predict(trained, rows_of(trained, CELL), tmp_path)
    with pytest.raises(ChromaccError, match=r"holds the prediction of D.*--overwrite"):
        predict(trained, rows_of(trained, "E"), tmp_path)
    predict(trained, rows_of(trained, "E"), tmp_path, overwrite=True)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"E.bw", "E.bed", "E.narrowPeak", "E.windows.parquet", "summary.json", ".lock"}


def test_names_of_files_are_safe():
    said = []
    assert file_stem("CD4+ T/cell", said.append) == "CD4+_T_cell" and len(said) == 1
    assert file_stem("../../etc/passwd", said.append) == "etc_passwd"
    assert file_stem("K562", said.append) == "K562" and len(said) == 2
    with pytest.raises(ChromaccError, match="no letter or digit"):
        file_stem("../", said.append)


# --- missing inputs -----------------------------------------------------------------------------------------
def test_a_missing_assay_is_the_same_as_a_hidden_one(trained, inputs, tmp_path):
    rows = rows_of(trained, CELL, leave_out=("H3K27ac", "expression"))
    made = predict(trained, rows, tmp_path)
    hidden = predict_windows(
        *inputs, trained.genome_fasta, trained.arrays.windows, [(), ("H3K27ac", EXPRESSION)]
    )
    got = pd.read_parquet(made.windows)["predicted_score"]
    assert np.array_equal(got, hidden.score[:, 1])
    assert np.abs(hidden.score[:, 0] - hidden.score[:, 1]).max() > 1e-3
    assert made.summary["inputs_missing"] == ["H3K27ac", "expression"]
    assert made.summary["inputs_present"] == ["H3K4me3", "CTCF"] and made.summary["expression"] is None
    assert made.summary["tracks"]["H3K27ac"]["observed_share"] == 0
    assert made.summary["tracks"]["H3K27ac"]["mean_z"] is None


def test_a_track_without_data_on_a_chromosome_is_missing_there(trained, tmp_path):
    summary = predict(trained, rows_of(trained, "C"), tmp_path).summary
    elsewhere = (trained.arrays.windows["chrom"] != "chrT2").mean()
    assert summary["tracks"]["CTCF"]["observed_share"] == pytest.approx(elsewhere) and elsewhere < 1


def test_expression_alone_is_enough(trained, tmp_path):
    rows = rows_of(trained, CELL, leave_out=("H3K27ac", "H3K4me3", "CTCF"))
    summary = predict(trained, rows, tmp_path).summary
    assert summary["inputs_present"] == ["expression"] and summary["mean_abs_z_of_inputs"] is None


def test_accessibility_is_not_even_opened(trained, predicted, tmp_path):
    base = {"cell_type": CELL, "target": "accessibility", "path_or_url": "not_there.bw"}
    rows = [*rows_of(trained, CELL), base | {"kind": "accessibility_signal"}]
    made = predict(trained, rows, tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(made.windows), pd.read_parquet(predicted.windows))


def test_a_training_cell_type_is_pointed_out(trained, tmp_path):
    said = []
    summary = predict(trained, rows_of(trained, "A"), tmp_path, say=said.append).summary
    assert summary["trained_on_this_cell_type"] and any(
        "one of the model's training" in line for line in said
    )


def test_the_summary_says_what_it_is(trained, predicted):
    summary = json.loads((predicted.bigwig.parent / "summary.json").read_text())
    assert summary == json.loads(json.dumps(predicted.summary))
    assert (summary["cell_type"], summary["simulated"], summary["assembly"]) == (CELL, False, "tiny1")
    assert summary["n_windows"] == len(trained.arrays.windows) and summary["windows_without_locus_prior"] == 0
    table = pd.read_parquet(predicted.windows)
    r = np.corrcoef(table["predicted_score"], table["average_score"])[0, 1]
    assert summary["correlation_with_locus_average"] == pytest.approx(r, abs=1e-6)


def test_distance_from_training_by_hand(trained):
    arrays = trained.arrays
    reference = open_model_folder(trained.model_dir).reference
    row = hub.track_figures(arrays.histone[:, [3], 0], arrays.histone_observed[:, [3], 0])
    quality = Quality(reference)
    z = np.concatenate([arrays.histone, arrays.tf], axis=2)[:, 3]
    seen = np.concatenate([arrays.histone_observed, arrays.tf_observed], axis=2)[:, 3]
    every, nothing = np.arange(len(z)), np.full(len(z), np.nan)
    quality.add(z, seen, every, nothing, np.zeros(len(z)))
    table = quality.track_table(("H3K27ac", "H3K4me3", "CTCF"))
    assert table["H3K27ac"]["mean_z"] == pytest.approx(row[0][0])
    assert table["H3K27ac"]["training_mean_z"] == pytest.approx(np.mean(reference.track_mean[:, 0]))
    assert table["H3K27ac"]["far_from_training"] is False
    assert quality.average_correlation is None and quality.n_with_prior == 0
    few = Quality(reference)
    few.add(z[:5], seen[:5], every[:5], nothing[:5], np.zeros(5))
    assert few.track_table(("H3K27ac", "H3K4me3", "CTCF"))["H3K27ac"]["far_from_training"] is None
    shifted = Quality(reference)
    shifted.add(z + 5, seen, every, nothing, np.zeros(len(z)))
    assert shifted.track_table(("H3K27ac", "H3K4me3", "CTCF"))["H3K27ac"]["far_from_training"] is True


def test_distance_of_expression_by_hand(trained):
    folder = open_model_folder(trained.model_dir)
    of_a = np.log2(np.array([2.0, 1.0]))  # A: CTCF 1 TPM, GATA1 0 TPM
    distance = expression_distance(folder, of_a)
    assert distance["nearest_training_cell_type"] == "A" and distance["distance"] == pytest.approx(
        0, abs=1e-6
    )
    assert distance["training_median_to_nearest"] > 0
    assert expression_distance(folder, np.full(2, np.nan)) is None
    reference = replace(
        folder.reference, metadata=np.array([[0, np.nan], [np.nan, 3.0]] * 2, dtype=np.float32)
    )
    half = expression_distance(replace(folder, reference=reference), np.array([np.nan, of_a[1]]))
    assert half["nearest_training_cell_type"] == "B" and half["training_median_to_nearest"] == 0


# --- where --------------------------------------------------------------------------------------------------
def test_regions_become_windows_by_the_rule(trained, tmp_path):
    bed = write_lines(
        tmp_path / "r.bed",
        "chrT2\t5000\t5200",  # narrow: centred on 5100
        "chrT1\t10000\t11000",  # as wide as a window: itself
        "chrT1\t20000\t22300",  # tiled: 20000, 21000, and drawn back to end at 22300
        "chrT1\t10000\t11000",  # again
        "chrT1\t100\t200",  # centred on 150: reaches outside
        "elsewhere\t0\t500",
    )
    said = []
    chosen = region_windows(bed, trained.genome_fasta, 1000, said.append)
    got = list(chosen.windows.itertuples(index=False, name=None))
    assert got == [
        ("chrT1", 10000, 11000),
        ("chrT1", 20000, 21000),
        ("chrT1", 21000, 22000),
        ("chrT1", 21300, 22300),
        ("chrT2", 4600, 5600),
    ]
    assert [(count.kept, count.of) for count in chosen.counts] == [(5, 6), (6, 7), (5, 6)]
    assert len(chosen) == 5 and [len(part) for part in chosen.chunks(2)] == [2, 2, 1]
    pd.testing.assert_frame_equal(pd.concat(chosen.chunks(2), ignore_index=True), chosen.windows)
    assert any("elsewhere" in line for line in said)


def test_a_whole_chromosome_is_tiled_without_a_rest(trained, tmp_path):
    bed = write_lines(tmp_path / "r.bed", "chrT3\t0\t60000")
    windows = region_windows(bed, trained.genome_fasta, 1700).windows
    assert windows["start"].iloc[0] == 0 and windows["end"].iloc[-1] == 60_000 and len(windows) == 36
    assert (windows["start"].to_numpy()[1:] <= windows["end"].to_numpy()[:-1]).all()


def test_chromosomes_and_the_whole_genome_are_windows_at_a_stride(trained, tmp_path):
    fasta = trained.genome_fasta
    side_by_side = region_windows("chrT3", fasta, 1700)
    pd.testing.assert_frame_equal(
        side_by_side.windows, region_windows(write_lines(tmp_path / "r.bed", "chrT3\t0\t60000"), fasta, 1700).windows)
    some = region_windows("chrT5, chrT2", fasta, 1000, stride=250)
    assert list(dict.fromkeys(some.windows["chrom"])) == ["chrT2", "chrT5"] and len(some) == 2 * 237
    assert some.windows["start"].tolist()[:3] == [0, 250, 500] and some.windows["end"].iloc[-1] == 60_000
    whole = region_windows("genome", fasta, 1000, stride=7000)
    assert len(whole) == 6 * 10 == len(pd.concat(whole.chunks(7))) and "whole genome" in whole.name
    assert whole.digest != some.digest and whole.digest == region_windows("genome", fasta, 1000, stride=7000).digest
    with pytest.raises(ChromaccError, match=r"'chrX': no such file, and no chromosome.*chrT1, chrT2.*'genome'"):
        region_windows("chrX", fasta, 1000)
    with pytest.raises(ChromaccError, match="stride=-5"):
        region_windows("chrT1", fasta, 1000, stride=-5)
    with pytest.raises(ChromaccError, match="stride=100 is of regions"):
        predict(trained, rows_of(trained, CELL), tmp_path, stride=100)


def test_windows_without_a_locus_prior_are_predicted_without_it(trained, inputs, tmp_path):
    at = trained.arrays.windows.iloc[3]
    bed = write_lines(
        tmp_path / "r.bed",
        f"{at['chrom']}\t{at['start']}\t{at['end']}",
        f"{at['chrom']}\t{at['start'] + 200}\t{at['end'] + 200}",
    )
    said = []
    made = predict(trained, rows_of(trained, CELL), tmp_path, regions=bed, say=said.append)
    table = pd.read_parquet(made.windows)
    assert made.summary["windows_without_locus_prior"] == 1 and table["average_score"].isna().tolist() == [
        False,
        True,
    ]
    assert any("no locus prior for 1 of 2 windows" in line for line in said)
    alone = predict_windows(*inputs, trained.genome_fasta, table, [(), (LOCUS_PRIOR,)])
    assert np.abs(alone.score[1, 0] - alone.score[1, 1]) == 0 < np.abs(alone.score[0, 0] - alone.score[0, 1])
    assert np.array_equal(table["predicted_score"], alone.score[:, 0])
    with pyBigWig.open(str(made.bigwig)) as track:
        assert track.header()["nBasesCovered"] == 1200  # they overlap


def test_windows_of_n_are_left_out_and_counted(trained, inputs, tmp_path):
    genome = {chrom: "ACGT" * 15_000 for chrom in trained.sizes}
    genome["chrT1"] = "N" * 1060 + genome["chrT1"][1060:]
    fasta = write_fasta(tmp_path / "n.fa", genome)
    windows = pd.DataFrame({"chrom": "chrT1", "start": [0, 1000, 1100], "end": [1000, 2000, 2100]})
    made = predict_windows(*inputs, fasta, windows)
    assert made.windows["start"].tolist() == [1100]
    with pytest.raises(ChromaccError, match="none of 1 windows can be predicted"):
        predict_windows(*inputs, fasta, windows.iloc[:1])


def test_a_chunk_of_nothing_but_n_is_passed_over(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "CHUNK_WINDOWS", 7)
    lines = trained.genome_fasta.read_text().splitlines()
    fasta = write_lines(tmp_path / "n.fa", *["N" * 60 if 1 <= i <= 250 else line for i, line in enumerate(lines)])
    made = predict(replace(trained, genome_fasta=fasta), rows_of(trained, CELL), tmp_path, regions="chrT1")
    assert made.summary["n_windows"] == 45 and made.summary["counts"][-1].startswith("windows: kept 45 of 60")
    assert pd.read_parquet(made.windows)["start"].tolist() == list(range(15_000, 60_000, 1000))
    whole = write_lines(tmp_path / "all.fa", *["N" * 60 if 1 <= i <= 1000 else line for i, line in enumerate(lines)])
    with pytest.raises(ChromaccError, match="none of 60 windows can be predicted"):
        predict(replace(trained, genome_fasta=whole), rows_of(trained, CELL), tmp_path / "all", regions="chrT1")


def test_prior_windows_lie_on_the_fastas_chromosomes(trained, inputs, tmp_path):
    chosen = prior_windows(inputs[0], trained.genome_fasta)
    assert len(chosen.windows) == len(trained.arrays.windows)
    fasta = write_fasta(tmp_path / "one.fa", {"chrT5": "ACGT" * 15_000})
    part = prior_windows(inputs[0], fasta)
    assert set(part.windows["chrom"]) == {"chrT5"} and part.counts[0].of == len(trained.arrays.windows)


# --- bad input ----------------------------------------------------------------------------------------------
def test_a_manifest_with_two_cell_types_needs_a_name(trained, tmp_path):
    with pytest.raises(ChromaccError, match=r"6 cell types \(A, B, .*--cell-type"):
        predict_manifest(
            trained.model_dir, trained.manifest, trained.genome_fasta, out_dir=tmp_path, **SILENT
        )
    with pytest.raises(ChromaccError, match="no row of cell type 'Z'"):
        cut_manifest(trained.manifest, "Z", tmp_path / "m.tsv")


def test_tracks_that_the_model_does_not_know(trained, tmp_path):
    rows = [
        row | {"target": f"not {row['target']}", "kind": "histone"}
        for row in rows_of(trained, CELL)
        if row["kind"] != "expression"
    ]
    with pytest.raises(
        ChromaccError, match=r"knows none of the inputs of D: not H3K27ac.*reads histone: H3K27ac"
    ):
        predict(trained, rows, tmp_path)
    said = []
    some = predict(trained, [*rows_of(trained, CELL)[1:], rows[0]], tmp_path / "some", say=said.append)
    assert some.summary["inputs_unused"] == ["not H3K27ac (histone)"]
    assert some.summary["inputs_missing"] == ["H3K27ac"] and any("not used" in line for line in said)


def test_accessibility_alone_is_no_input(trained, tmp_path):
    row = {"cell_type": CELL, "target": "accessibility", "kind": "accessibility_peaks", "path_or_url": "x"}
    with pytest.raises(ChromaccError, match="accessibility rows only"):
        predict(trained, [row], tmp_path)


def test_every_problem_of_the_files_is_listed(trained, tmp_path):
    rows = rows_of(trained, CELL)
    rows[0] |= {"path_or_url": str(tmp_path / "gone.bw")}
    rows[1] |= {
        "path_or_url": str(write_bigwig(tmp_path / "other.bw", {"chrX": 5000}, {"chrX": [(0, 10, 1)]}))
    }
    with pytest.raises(ChromaccError, match=r"(?s)2 problem.*gone\.bw.*no chromosome shared"):
        predict(trained, rows, tmp_path)


def test_another_genome_is_refused_by_names_and_by_sequence(trained, tmp_path):
    named = write_fasta(tmp_path / "named.fa", {"1": "ACGT" * 15_000})
    rows = rows_of(trained, CELL, leave_out=("H3K27ac", "H3K4me3", "CTCF"))  # expression fits every genome
    with pytest.raises(ChromaccError, match=r"none of its chromosomes \(1\) is one of the model's"):
        predict(replace(trained, genome_fasta=named), rows, tmp_path)
    other = write_fasta(tmp_path / "other.fa", {chrom: "GC" * 30_000 for chrom in trained.sizes})
    with pytest.raises(ChromaccError, match="another GC content here: another genome"):
        predict(replace(trained, genome_fasta=other), rows, tmp_path)


@pytest.mark.parametrize(("lines", "message"), [
    (["1\t0\t500", "2\t5\t900"], "no chromosome shared with the FASTA"),
    (["chrT1\t500\t0"], "starts exceed ends"),
    (["chrT1\t59000\t70000"], "past the chromosome's end"),
    (["chrT1\t0\t10"], "no window is left to predict"),
])  # fmt: skip
def test_bad_regions_are_refused(trained, tmp_path, lines, message):
    bed = write_lines(tmp_path / "r.bed", *lines)
    with pytest.raises(ChromaccError, match=message):
        predict(trained, rows_of(trained, CELL), tmp_path, regions=bed)


def test_an_unknown_input_cannot_be_hidden(trained, inputs):
    with pytest.raises(ChromaccError, match="cannot hide H3K9me3: the model's inputs are H3K27ac"):
        predict_windows(*inputs, trained.genome_fasta, trained.arrays.windows, [("H3K9me3",)])


# --- manifest and command -----------------------------------------------------------------------------------
def test_the_cut_manifest_holds_no_accessibility(trained, tmp_path):
    rows = cut_manifest(trained.manifest, CELL, tmp_path / "deep" / "m.tsv")
    again = read_manifest(tmp_path / "deep" / "m.tsv")
    assert set(again["kind"]) == {"histone", "tf", "expression"} and set(again["cell_type"]) == {CELL}
    assert not any(Path(path).is_absolute() for path in rows["path_or_url"])
    assert all(Path(path).is_file() for path in again["path_or_url"])
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["m.tsv"]


def test_the_command_predicts(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["predict", "--model", str(trained.model_dir), "--manifest", str(trained.manifest)]
    command += ["--genome-fasta", str(trained.genome_fasta), "--out", "mine", "--device", "cpu"]
    assert cli.main(command) == 1 and "--cell-type" in capsys.readouterr().err
    assert cli.main([*command, "--cell-type", CELL]) == 0
    shown = capsys.readouterr().out
    assert "inputs present: H3K27ac, H3K4me3, CTCF, expression; missing: none" in shown
    assert (tmp_path / "mine" / "D.bw").stat().st_size > 0
    assert (tmp_path / "mine" / "qc.html").is_file() and "qc.html" in shown
    assert cli.main([*command, "--cell-type", CELL, "--regions", "chrT2,chrT4", "--stride", "500"]) == 0
    assert "238 windows in" in capsys.readouterr().out  # 2 x (1 + 59 x 2)
    assert cli.main([*command, "--cell-type", CELL, "--regions", "chrT9"]) == 1
    assert "'chrT9': no such file, and no chromosome" in capsys.readouterr().err


# --- the page -----------------------------------------------------------------------------------------------
def test_the_page_says_what_is_missing_and_what_to_expect(trained, predicted, tmp_path):
    from test_expectation import write_run

    shutil.copytree(trained.model_dir, write_run(tmp_path / "run") / "model")
    bare = write_qc_page(predicted).read_text()
    assert "Not known: the model folder holds no evaluation" in bare and "REAL DATA" in bare
    add_evaluation(tmp_path / "run" / "model", tmp_path / "run")
    moved = replace(trained, model_dir=tmp_path / "run" / "model")
    at = trained.arrays.windows.iloc[3]
    bed = write_lines(tmp_path / "r.bed", *(f"{at['chrom']}\t{at['start'] + n}\t{at['end'] + n}" for n in (0, 200)))
    rows = [row | {"cell_type": "<b>odd"} for row in rows_of(trained, CELL, leave_out=("H3K27ac",))]
    page = write_qc_page(predict(moved, rows, tmp_path, regions=bed))
    assert page == tmp_path / "out" / "qc.html"
    text = page.read_text()
    assert "&lt;b&gt;odd: predicted" in text and "<b>odd" not in text
    assert re.search(r"H3K27ac</th><td>missing", text) and re.search(r"CTCF</th><td>present, in 100%", text)
    assert "1 of 2 windows are no windows of the training data" in text
    assert "<td>0.300 (0.200 to 0.400)</td><td>0.500 (0.400 to 0.600)</td>" in text  # no prior, no marks; with them
    assert "H3K27ac +0.050" in text and "Temperature 2." in text
    assert text.count("<img ") == 2 == len(re.findall(r'<img src="data:image/png;base64,[^"]+" alt="[^"]{20,}"', text))
    assert not re.search(r"https?://", text)


# --- figures ------------------------------------------------------------------------------------------------
def test_figures_have_labels_and_close(predicted):
    bins = pd.DataFrame(
        {"start": [0, 100], "end": [100, 200], "average": [1.0, 2.0], "predicted": [0.0, 3.0]}
    )
    loci = {"here": bins.assign(measured=[np.nan, 4.0]), "there": bins.assign(measured=1.0)}
    costs = pd.DataFrame({"r": [0.7, 0.82]}, index=["H3K27ac", "CTCF"])
    figures = [
        plots.plot_browser(loci, "two loci", [(0, 100), (100, 200)]),
        plots.plot_knockouts(costs, 0.8, 0.6),
        plots.plot_input_distance(predicted.summary["tracks"]),
    ]
    for figure in figures:
        assert all(ax.get_xlabel() for ax in figure.axes[-1:]) and not any(
            ax.has_data() is False for ax in figure.axes
        )
        plots.show(figure, alt="a figure")
    browser = figures[0]
    assert browser.axes[0].get_ylim()[1] == pytest.approx(1.05 * 4)  # one scale for the rows of a locus
    assert browser.axes[1].get_ylim()[1] == pytest.approx(1.05 * 3)
