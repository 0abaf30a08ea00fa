"""Folds: each held-out cell type has a model that never saw it; what is done stays, and what fails is named."""

import json

import distributed
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from chromacc_lib import ChromaccError, cli, folds
from chromacc_lib.cache import file_lock
from chromacc_lib.curation import CurationParameters
from chromacc_lib.folds import leave_one_out

SETTINGS = {"window_bp": 1000, "n_bins": 10, "validation_cell_types": "[E]", "test_chromosomes": "[chrT5, chrT6]",
            "validation_chromosomes": "[chrT4]", "d_model": 32, "sequence_layers": 1, "encoder_layers": 1, "epochs": 1,
            "batch_windows": 16, "cells_per_window": 3, "n_bootstrap": 20, "device": "cpu", "precision": "32-true"}  # fmt: skip


@pytest.fixture(scope="module")
def scheduler():
    """The address of a scheduler in this process, whose worker has all that is imported already."""
    with distributed.LocalCluster(processes=False, n_workers=1, threads_per_worker=1, protocol="tcp://",
                                  dashboard_address="127.0.0.1:0") as cluster:  # fmt: skip
        yield cluster.scheduler_address


def run(project, address, *more, named=("D", "F")):
    """Run the command on some cell types, one fold at a time."""
    given = [f"{name}={value}" for name, value in SETTINGS.items()]
    return cli.main(["folds", str(project.manifest), str(project.genome_fasta), "--out", str(project.folder / "out"),
                     "--cell-types", *named, "--dask-address", address, "--set", *given, *more])  # fmt: skip


def test_two_folds_one_fails_first_then_both_are_there_and_nothing_is_run_twice(project, scheduler, capsys):
    """Another curation holds fold F's dataset: F is named, D is done, and only F is run the second time."""
    out = project.folder / "out"
    with file_lock(out / "F" / ".dataset.curating", "here"):
        assert run(project, scheduler) == 1
    told = capsys.readouterr()
    assert "1 of 2 folds failed:\n  F: " in told.err and "another curation is writing there" in told.err
    table = pd.read_csv(out / "folds.csv")
    assert table["fold"].tolist() == ["D", "D", "F"] and table["error"].notna().tolist() == [False, False, True]
    first = {path: path.read_bytes() for path in (out / "D").glob("*.json")}
    assert len(first) == 2

    assert run(project, scheduler) == 0
    told = capsys.readouterr().out
    assert "of 2 folds" in told and "cell-type-specific" in told
    assert {path: path.read_bytes() for path in (out / "D").glob("*.json")} == first, "not run again"
    assert not (out / "F" / "log.txt").read_text().count("Nothing has changed")
    table = pd.read_csv(out / "folds.csv")
    assert table["fold"].tolist() == ["D", "D", "F", "F", "mean of 2 folds", "mean of 2 folds"]
    assert table["error"].isna().all() and "on the mean of 2 folds: 2 cell types say little" in told
    over = json.loads((out / "folds.json").read_text())["over_folds"]
    assert [row["skill"] for row in over] == table["skill"].tolist()[4:]
    table = table[:4]
    _compare_with_metrics(table, out)
    for name in ("D", "F"):
        split = json.loads((out / name / "dataset" / "curation.json").read_text())["cell_types"]
        assert split["test"] == [name] and split["validation"] == ["E"] and len(split["train"]) == 4

    _only_what_is_missing_is_done(project, scheduler, out)


def _compare_with_metrics(table, out):
    """Every number of the table is one of evaluation_metrics.json, of the headline quadrant."""
    for (fold, stratum), rows in table.groupby(["fold", "stratum"]):
        row, result = rows.iloc[0], json.loads((out / fold / "evaluation_metrics.json").read_text())
        quadrant, specific = result["headline"]["quadrant"], result["strata"]["varying"]
        model = result["quadrants"][quadrant] if stratum == "all" else specific["model"]
        for name in ("skill", "pr_auc"):
            assert row[name] == model[name]["value"] and row[f"{name}_low"] == model[name]["low"] <= row[name]
        assert row["base_rate"] == model["base_rate"]["value"] and row["test_cell_types"] == fold
        assert row["windows"] == (result["sizes"][quadrant] if stratum == "all" else specific["sizes"])["windows"]
        for name, entry in result["baselines"].items():
            entry = entry[quadrant] if stratum == "all" else specific["baselines"][name]
            assert row[f"pr_auc_{name}"] == entry["pr_auc"]["value"]
            assert row[f"pr_auc_difference_{name}_high"] == entry["pr_auc_difference"]["high"]
            assert row[f"model_skill_{name}"] == entry["model_skill"]["value"]
        assert row["skill_average"] == 0
    written = json.loads((out / "folds.json").read_text())["folds"]
    assert [row["skill"] for row in written] == table["skill"].tolist()


def _only_what_is_missing_is_done(project, scheduler, out):
    """Fold F lost its evaluation, as if killed there, and D was evaluated by other code: both are evaluated again, with
    the models that are there.
    """
    older = json.loads((out / "D" / "fold.json").read_text()) | {"evaluated_by": "other code"}
    (out / "D" / "fold.json").write_text(json.dumps(older))
    (out / "D" / "evaluation_metrics.json").unlink()
    record = json.loads((out / "F" / "fold.json").read_text())
    (out / "F" / "fold.json").write_text(json.dumps(record | {"rows": []}))
    model = (out / "F" / "model" / "model.safetensors").stat().st_mtime_ns
    (out / "F" / "evaluation_metrics.json").unlink()
    assert run(project, scheduler) == 0
    again = json.loads((out / "F" / "fold.json").read_text())
    assert (out / "F" / "evaluation_metrics.json").is_file() and again["rows"] == record["rows"]
    assert (out / "D" / "evaluation_metrics.json").is_file()
    assert json.loads((out / "D" / "fold.json").read_text())["evaluated_by"] == again["evaluated_by"]
    assert (out / "F" / "model" / "model.safetensors").stat().st_mtime_ns == model


def test_an_error_that_nobody_foresaw_in_a_process_of_its_own_is_named_too(project):
    (project.folder / "out").mkdir()
    (project.folder / "out" / "D").write_text("a file where a folder is to be")
    with pytest.raises(ChromaccError, match="1 of 1 folds failed:\n  D: FileExistsError: ") as caught:
        leave_one_out(project.manifest, project.genome_fasta, project.folder / "out", ["D"], workers=1)
    assert isinstance(caught.value.__cause__, FileExistsError)
    table = pd.read_csv(project.folder / "out" / "folds.csv")
    assert np.isnan(table["seconds"][0]) and "FileExistsError" in table["error"][0]


@pytest.mark.parametrize(("named", "parameters", "match"), [
    (["Z"], {}, "no cell type called Z; it has: A, B, C, D, E, F"),
    (["D"], {"test_cell_types": ("D",)}, "each fold tests one of its own"),
    (["D", "E"], {"validation_cell_types": ("E",)}, "E would be held out for validation and tested by a fold"),
    (["D"], {"cell_types": ("A", "D")}, "at least 2 are needed"),
])  # fmt: skip
def test_what_no_fold_could_run_with_is_refused_at_once(project, named, parameters, match):
    with pytest.raises(ChromaccError, match=match):
        leave_one_out(project.manifest, project.genome_fasta, project.folder / "out", named, CurationParameters(**parameters))
    assert not (project.folder / "out").exists()


def test_the_mean_over_folds_has_students_t_over_folds_and_says_how_few_there_are():
    listed = [{"fold": name, "stratum": "all", "test_cell_types": name, "windows": 100, "skill": skill,
               "skill_low": skill - 0.1, "skill_high": skill + 0.1, "pr_auc": pr_auc, "seconds": 2.0, "error": ""}
              for name, skill, pr_auc in (("A", 0.1, 0.5), ("B", 0.3, None), ("C", 0.2, 0.7))]  # fmt: skip
    failed = {"fold": "D", "stratum": "all", "seconds": np.nan, "error": "no file"}
    (row,) = folds._over_folds([*listed, failed])
    low, high = stats.t.interval(0.95, 2, loc=0.2, scale=stats.sem([0.1, 0.3, 0.2]))
    assert (row["fold"], row["windows"], row["seconds"], row["error"]) == ("mean of 3 folds", 300, 6.0, "")
    assert [row[name] for name in ("skill", "skill_low", "skill_high")] == pytest.approx([0.2, low, high])
    assert np.isnan(row["pr_auc"])  # unknown in one of them
    assert folds._over_folds([listed[0], failed]) == []
    text = folds._verdict(pd.DataFrame([*listed, row]))
    assert "in 2 of 3 folds" in text and f"skill +0.200 (95% t-interval {low:+.3f} to {high:+.3f})" in text
    assert "3 cell types say little about others" in text


def test_cell_types_that_are_not_named_only_ever_train(project):
    for named in ((), ("D", "F"), ("D",)):
        jobs = folds._plan(project.manifest, project.genome_fasta, project.folder / "out", named, CurationParameters(),
                           folds._Job("", "", "", CurationParameters(), folds.TrainingConfig(), {}, 0, False, "cpu", {}, {}))
        assert list(jobs) == list(named or project.cell_types)
        for name, job in jobs.items():
            assert job.parameters.test_cell_types == (name,) and job.folder.endswith(f"/out/{name}")
            held = set(job.parameters.validation_cell_types)
            assert held and held <= ({*(named or project.cell_types), "none"} - {name})
    assert jobs["D"].parameters.validation_cell_types == ("none",)


def test_the_command_knows_the_parameters_of_the_notebooks(project, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(folds, "leave_one_out", lambda *a, **k: calls.append((a, k)) or pd.DataFrame(
        [dict.fromkeys(["fold", "stratum", "windows", "base_rate", "skill", "skill_low", "skill_high", "pr_auc",
                        "pr_auc_average"], 1)]))  # fmt: skip
    assert run(project, "tcp://host:1", "patience=2", "model={gate: additive}", named=("K", "L")) == 0
    (_, _, out, named, parameters, training, sizes), options = calls[0]
    assert out == project.folder / "out" and named == ["K", "L"] and options["patience"] == 2
    assert parameters.test_chromosomes == ("chrT5", "chrT6") and parameters.validation_cell_types == ("E",)
    assert training.epochs == 1 and sizes["d_model"] == 32 and sizes["gate"] == "additive"
    assert options["n_bootstrap"] == 20 and options["device"] == "cpu" and options["dask_address"] == "tcp://host:1"
    for name in ("test_cell_types=[D]", "run_dir=x", "epoch=2"):
        assert run(project, "tcp://host:1", name) == 1
        assert f"unknown parameter {name.split('=')[0]!r}" in capsys.readouterr().err
