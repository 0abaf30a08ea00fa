"""A sweep trains what its file says, keeps what it has, and compares seed by seed."""

import numpy as np
import pandas as pd
import pytest

from chromacc_lib import ChromaccError
from chromacc_lib.cli import main
from chromacc_lib.sweep import Sweep, read_sweep, run_sweep, summarise

TINY = {"d_model": 32, "sequence_layers": 1, "encoder_layers": 1, "encoder_heads": 4, "histone_filters": 8,
        "tf_hidden": 16, "epochs": 1, "batch_windows": 16, "cells_per_window": 3}  # fmt: skip


def write(tmp_path, text):
    (tmp_path / "sweep.yaml").write_text(text)
    return tmp_path / "sweep.yaml"


def test_a_grid_is_all_its_combinations_or_some_of_them_the_same_each_time(tmp_path):
    grid = "grid:\n  learning_rate: [0.001, 0.01]\n  encoder_layers: [1, 2, 3]\n"
    sweep = read_sweep(write(tmp_path, grid))
    assert len(sweep.settings) == 6 and sweep.settings["learning_rate 0.01, encoder_layers 3"]["encoder_layers"] == 3
    few = [tuple(read_sweep(write(tmp_path, grid + f"draw: 3\ndraw_seed: {seed}\n")).settings) for seed in (1, 1, 2)]
    assert few[0] == few[1] != few[2] and len(few[0]) == 3


@pytest.mark.parametrize(("text", "match"), [
    ("settings:\n  a: {learning_rat: 1}\n", "did you mean 'learning_rate'"),
    ("settings:\n  a: {seed: 1}\n", "'seed' is no setting"),
    ("settings: {a: {}}\ngrid: {epochs: [1]}\n", "not both"),
    ("seeds: [1]\n", "`settings` or `grid`"),
    ("settings: {}\n", "at least one setting"),
    ("settings: [", "cannot be read"),
    ("- 1\n", "got list"),
])  # fmt: skip
def test_a_file_that_is_no_sweep_is_refused(tmp_path, text, match):
    with pytest.raises(ChromaccError, match=match):
        read_sweep(write(tmp_path, text))


def test_what_is_trained_already_is_not_trained_again_and_a_failed_run_is_told(curated, tmp_path):
    """Two settings, one of which diverges; then one more is asked for: only that and the failed one are run."""
    said = []
    sweep = Sweep({"default": {}, "wild": {"learning_rate": 1e30, "clip_norm": 1e30}}, (1,), TINY)
    table = run_sweep(curated[1], sweep, tmp_path, 2, device="cpu", say=said.append)
    assert list(table["setting"]) == ["default", "wild"] and said[0].startswith("2 runs (2 settings x 1 seeds), 0 done")
    assert np.isfinite(table["validation_skill"][0]) and "lower learning_rate" in table["error"][1]
    again = Sweep({"default": {}, "huber": {"score_loss": "huber"}}, (1,), TINY)
    more = run_sweep(curated[1], again, tmp_path, 1, device="cpu", say=said.append)
    assert any("1 done before" in line for line in said) and list(more["setting"]) == ["default", "huber"]
    assert more["validation_skill"][0] == table["validation_skill"][0] != more["validation_skill"][1]


def test_a_run_of_other_code_is_trained_again(curated, tmp_path, monkeypatch):
    said, sweep = [], Sweep({"default": {}}, (1,), TINY)
    run_sweep(curated[1], sweep, tmp_path, 1, device="cpu", say=said.append)
    monkeypatch.setattr("chromacc_lib.sweep.reached_sources", lambda code: {"training": "changed"})
    run_sweep(curated[1], sweep, tmp_path, 1, device="cpu", say=said.append)
    assert sum("0 done before" in line for line in said) == 2 and sum("validation skill" in line for line in said) == 2


def test_the_command_prints_the_comparison(curated, tmp_path, capsys):
    base = ", ".join(f"{name}: {value}" for name, value in TINY.items())
    path = write(tmp_path, f"seeds: [1]\nwindows: 20\nbase: {{{base}}}\nsettings:\n  default:\n  no motifs: {{motif_prior: false}}\n")
    assert main(["sweep", str(curated[1]), str(path), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert "no motifs" in capsys.readouterr().out
    assert list(pd.read_csv(tmp_path / "out" / "summary.csv")["difference"])[0] == 0


def test_differences_are_taken_seed_by_seed():
    table = pd.DataFrame({"setting": ["a", "a", "b", "b"], "seed": [1, 2, 1, 2], "validation_skill": [0.1, 0.5, 0.2, np.nan],
                          "seconds": 1.0, "error": ["", "", "", "no"]})  # fmt: skip
    summary = summarise(table).set_index("setting")
    assert summary["difference"]["b"] == pytest.approx(0.1) and summary["failed"]["b"] == 1 and summary["seeds"]["b"] == 1
    assert summary["validation_skill"]["a"] == pytest.approx(0.3) and summary["difference"]["a"] == 0
