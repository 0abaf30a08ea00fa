"""Runs side by side: what is planted is found, what cannot be paired is refused, and the page is offline and escaped."""

import json

import numpy as np
import pandas as pd
import pytest
from browser import assert_page_opens, needs_chromium, open_browser
from test_report import HOSTILE, Links, assert_offline

from chromacc_lib import ChromaccError, cli
from chromacc_lib.compare import compare_runs, comparison_table, differing
from chromacc_lib.comparison_page import write_comparison

CELLS = {"A": "train", "B": "train", "T1": "test", "T2": "test", "T3": "test"}
DRAW = {"n_bootstrap": 200}


def predictions(noise=0.3, seed=0):
    """A table of five cell types x 240 windows, half of them on a test chromosome; noise: of the predictions."""
    truth, mine = np.random.default_rng(1), np.random.default_rng(seed)
    rows = []
    for cell, split in CELLS.items():
        for w in range(240):
            chrom = "chr1" if w < 120 else "chr2"
            score = truth.gamma(2.0, 0.5)
            rows.append({
                "cell_type": cell, "cell_type_split": split, "window": w, "chrom": chrom, "start": 50_000 * (w % 120),
                "end": 50_000 * (w % 120) + 1500, "window_split": "train" if w < 120 else "test", "kind": "peak", "gc": 0.4,
                "score": score, "label": int(score > 1), "average_score": 1.0, "average_label": 0.5, "truth": np.nan,
                "predicted_score": score + truth.normal(0, 0.3),
            })  # fmt: skip
    table = pd.DataFrame(rows)
    table["predicted_score"] += mine.normal(0, noise, len(table)) if noise else 0
    table["predicted_probability"] = 1 / (1 + np.exp(-4 * (table["predicted_score"] - 1)))
    return table


def write_run(folder, table, run_id=None, simulated=True, **parameters):
    folder.mkdir()
    record = {
        "run_id": run_id or folder.name, "profile": "mine", "created": "2026-01-01", "git_commit": None,
        "parameters": {"run_dir": str(folder), "dataset_dir": str(folder.parent / "dataset"), **parameters},
        "versions": {"torch": "2.13.0"}, "inputs": {}, "stages": {"03_evaluation": {"state": "done", "seconds": 1.0}},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "evaluation_metrics.json").write_text(json.dumps(
        {"simulated": simulated, "headline": {"skill": {"value": 0.5, "low": 0.4, "high": 0.6}}}))
    (folder / "collapse_diagnostics.json").write_text(json.dumps(
        {"verdict": "healthy", "sentence": "It follows the cell type.", "next_step": "", "checks": [
            {"name": "std_ratio", "verdict": parameters.get("std_ratio", "ok")}]}))  # fmt: skip
    table.to_parquet(folder / "predictions.parquet")
    return folder


@pytest.fixture
def good(tmp_path):
    return write_run(tmp_path / "good", predictions(0), epochs=5)


def test_identical_runs_differ_by_exactly_nothing(tmp_path, good):
    made = compare_runs([good, write_run(tmp_path / "again", predictions(0), epochs=5)], **DRAW)
    entry = made.entries["again"]
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0}
    assert entry["skill_over_first"] == nothing and entry["skill_over_first_p"] == 1.0
    for metric in ("skill", "mse", "pearson", "spearman", "roc_auc", "pr_auc"):
        assert entry[metric]["difference"] == nothing, metric
        assert entry[metric]["low"] < entry[metric]["value"] < entry[metric]["high"]
    assert made.verdicts == {"again": "again predicts exactly what good predicts."} and made.notes == []
    assert made.sizes == {"rows": 360, "cell_types": 3, "blocks": 24, "labelled_rows": 360}


def test_a_run_made_worse_by_noise_is_found_worse_and_the_other_way_round_better(tmp_path, good):
    noisy = write_run(tmp_path / "noisy", predictions(0.4), epochs=5)
    entry = compare_runs([good, noisy], **DRAW).entries["noisy"]
    # its error is 0.3^2 + 0.4^2 against 0.3^2: 2.78 times
    assert entry["skill_over_first"]["value"] == pytest.approx(1 - 0.25 / 0.09, abs=0.3)
    assert entry["skill_over_first"]["high"] < 0 and entry["pr_auc"]["difference"]["high"] < 0
    assert entry["skill_over_first_p"] < 0.05 and entry["mse"]["difference"]["low"] > 0
    back = compare_runs([noisy, good], **DRAW)
    assert back.entries["good"]["skill_over_first"]["low"] > 0
    assert back.verdicts["good"].startswith("good is better than noisy by error: skill over it +0.6")
    assert "It ranks open windows better: AUPRC +" in back.verdicts["good"]


def test_two_runs_of_like_noise_are_not_told_apart(tmp_path):
    runs = [write_run(tmp_path / name, predictions(0.1, seed)) for name, seed in (("one", 1), ("two", 2))]
    entry = compare_runs(runs, **DRAW)
    assert "two cannot be told from one by error" in entry.verdicts["two"]
    assert entry.entries["two"]["skill_over_first"]["low"] < 0 < entry.entries["two"]["skill_over_first"]["high"]


def test_only_rows_that_all_held_out_count_and_are_paired_by_place(tmp_path, good):
    table = predictions(0)
    fewer = table[~((table["cell_type"] == "T1") | (table["start"] >= 3_000_000))].sample(frac=1, random_state=0)
    seen = table.copy()
    seen.loc[seen["cell_type"] == "T3", "cell_type_split"] = "train"
    fewer["window"] = fewer["window"] + 10_000  # another dataset numbers its windows otherwise
    runs = [good, write_run(tmp_path / "fewer", fewer), write_run(tmp_path / "seen", seen)]
    made = compare_runs(runs, **DRAW)
    assert made.sizes["rows"] == 60 and list(made.per_cell_type) == ["T2"]
    assert made.entries["fewer"]["equal"] and made.entries["seen"]["equal"]
    assert "good held out 360 rows, of which 60 are shared by all." in made.notes
    assert any("not trained on the same cell types; one of them alone on T3." in note for note in made.notes)


def test_other_averages_and_stages_that_are_not_done_are_said(tmp_path, good):
    other = write_run(tmp_path / "other", predictions(0).assign(average_score=1.1))
    record = json.loads((other / "run.json").read_text())
    record["stages"]["03_evaluation"]["state"] = "outdated"
    (other / "run.json").write_text(json.dumps(record))
    notes = compare_runs([good, other], **DRAW).notes
    assert "other is not up to date: 03_evaluation (outdated)." in notes
    assert any("locus averages of other and good differ" in note for note in notes)


def test_labels_of_one_class_leave_ranking_out(tmp_path, good):
    runs = [write_run(tmp_path / name, predictions(noise).assign(label=1)) for name, noise in (("one", 0), ("two", 0.4))]
    made = compare_runs(runs, **DRAW)
    assert "pr_auc" not in made.entries["two"] and "ranks" not in made.verdicts["two"]
    assert "AUPRC" not in write_comparison(made, tmp_path / "out").read_text()


@pytest.mark.parametrize("change, told", [
    ({"score": lambda t: t["score"] * 1.5}, "other measured scores: they differ in 360 of 360 shared rows, first in T1 chr2:0-1500"),
    ({"label": lambda t: 1 - t["label"]}, "other labels: they differ in 360 of 360"),
    ({"end": lambda t: t["end"] - 500}, "share no row .*good: T1, T2, T3 on chr2 in windows of 1500 bp; other: .* of 1000 bp"),
    ({"cell_type": lambda t: t["cell_type"] + "x"}, "share no row"),
    ({"chrom": lambda t: t["chrom"].map({"chr1": "chr1", "chr2": "chr3"})}, "other: T1, T2, T3 on chr3"),
])  # fmt: skip
def test_another_dataset_is_refused_by_name(tmp_path, good, change, told):
    other = write_run(tmp_path / "other", predictions(0).assign(**change))
    with pytest.raises(ChromaccError, match=told):
        compare_runs([good, other], **DRAW)


def test_a_refusal_names_the_parameters_of_curation_that_differ(tmp_path):
    runs = []
    for name, method in (("one", "depth"), ("two", "quantile")):
        (tmp_path / f"data_{name}").mkdir()
        (tmp_path / f"data_{name}" / "curation.json").write_text(json.dumps({"parameters": {"normalization": method, "n_bins": 15}}))
        table = predictions(0).assign(score=lambda t, s=name: t["score"] * (2 if s == "two" else 1))
        runs.append(write_run(tmp_path / name, table, dataset_dir=str(tmp_path / f"data_{name}")))
    with pytest.raises(ChromaccError, match="curated with other normalization; evaluate both on one dataset"):
        compare_runs(runs, **DRAW)


def test_simulated_and_real_are_not_compared(tmp_path, good):
    with pytest.raises(ChromaccError, match="good: simulated; real_one: real"):
        compare_runs([good, write_run(tmp_path / "real_one", predictions(0), simulated=False)])


def test_what_is_no_finished_run_is_refused_by_name(tmp_path, good):
    with pytest.raises(ChromaccError, match="got 1 run; needed: the folders of two or more"):
        compare_runs([good])
    with pytest.raises(ChromaccError, match="good given twice"):
        compare_runs([good, good])
    with pytest.raises(ChromaccError, match="no run.json there"):
        compare_runs([good, tmp_path])
    other = write_run(tmp_path / "other", predictions(0))
    (other / "predictions.parquet").unlink()
    with pytest.raises(ChromaccError, match="other: predictions.parquet missing: .*chromacc run mine --run-id other --until 03"):
        compare_runs([good, other])
    write_run(tmp_path / "old", predictions(0).drop(columns="label"))
    with pytest.raises(ChromaccError, match="old/predictions.parquet: .*'label'"):
        compare_runs([good, tmp_path / "old"])


def test_runs_of_one_name_are_told_by_their_folders(tmp_path):
    runs = [write_run(tmp_path / folder, predictions(0), run_id="pilot") for folder in ("here", "there")]
    assert [run.name for run in compare_runs(runs, **DRAW).runs] == [str(folder) for folder in runs]


def test_p_is_adjusted_over_the_runs(tmp_path, good):
    others = [write_run(tmp_path / f"r{i}", predictions(noise, i)) for i, noise in enumerate((0.02, 0.05, 0.4))]
    entries = list(compare_runs([good, *others], **DRAW).entries.values())[1:]
    p = sorted(entry["skill_over_first_p"] for entry in entries)
    adjusted = sorted(entry["skill_over_first_p_adjusted"] for entry in entries)
    assert adjusted[-1] == p[-1] and adjusted[0] == pytest.approx(min(3 * p[0], 1.5 * p[1], p[2]))


def test_differing_parameters():
    assert differing({"a": {"x": 1, "y": [1]}, "b": {"x": 2, "y": [1]}, "c": {"y": [1]}}) == {"x": [1, 2, None]}


# --- the page -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A comparison of three runs with a hostile name wherever a name from outside can come in."""
    tmp_path = tmp_path_factory.mktemp("hostile")
    table = predictions(0.4).replace({"cell_type": {"T1": HOSTILE}})
    settings = {"epochs": 9, "predict_cell_type": HOSTILE, "$cost$": 1}
    runs = [write_run(tmp_path / name, table, run_id=run_id, **settings | extra)
            for name, run_id, extra in (("a", HOSTILE, {}), ("b", "$b$", {"epochs": 5, "std_ratio": "fail"}))]  # fmt: skip
    mine = write_run(tmp_path / "mine", predictions(0).replace({"cell_type": {"T1": HOSTILE}}), epochs=5)
    (tmp_path / "mine" / "index.html").write_text("page")
    return write_comparison(compare_runs([mine, *runs], **DRAW), tmp_path / "out of the way" / "here")


def test_the_page_says_what_differs_and_escapes_it(hostile):
    text = hostile.read_text()
    assert_offline(text)
    page = Links(text)
    assert page.scripts == 0 and text.count("&lt;script&gt;alert(") >= 6
    assert len(page.alts) == 2 and all(page.alts)
    assert page.anchors == ["../../mine/index.html", "comparison.csv"]
    for name in page.anchors:
        assert (hostile.parent / name).exists()
    words = " ".join(text.partition("<body>")[2].split())
    assert words.startswith('<div class="banner">SIMULATED DATA')
    assert '<th scope="row">epochs</th> ' in words.replace("</th><td", "</th> <td")
    assert '<th scope="row">std ratio</th>' in words, "a check with another verdict"
    assert "run_dir" not in text and "All packages have the same versions." in text and "360 rows" in words


def test_the_table_beside_it_holds_every_number(hostile):
    table = pd.read_csv(hostile.parent / "comparison.csv", keep_default_na=False, na_values=[""])
    assert set(table["run"]) == {"mine", HOSTILE, "$b$"} and set(table["compared_with"]) == {"mine"}
    of_all = table[table["cell_type"].isna() & (table["run"] == "$b$")].set_index("metric")
    assert list(of_all.index) == ["skill", "mse", "pearson", "spearman", "roc_auc", "pr_auc", "skill_over_first"]
    assert of_all.loc["mse", "difference"] == pytest.approx(0.16, abs=0.03)
    assert of_all.loc["skill_over_first", "p_adjusted"] >= of_all.loc["skill_over_first", "p"]
    assert set(table["cell_type"].dropna()) == {HOSTILE, "T2", "T3"}


@needs_chromium
def test_the_page_opens_in_a_browser_without_network(hostile):
    with open_browser() as browser:
        assert "SIMULATED DATA" in assert_page_opens(browser, hostile)["text"]


def test_the_command_compares(tmp_path, good, capsys):
    noisy = write_run(tmp_path / "noisy", predictions(0.4))
    assert cli.main(["compare", str(good), str(noisy), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "360 rows shared by good, noisy" and printed[1].startswith("noisy is worse than good")
    assert printed[-1] == f"comparison: {tmp_path / 'out' / 'comparison.html'}"
    assert cli.main(["compare", str(good), str(tmp_path), "--out", str(tmp_path / "other")]) == 1
    assert "no run.json there" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_the_numbers_do_not_depend_on_the_order_of_rows(tmp_path, good):
    shuffled = write_run(tmp_path / "shuffled", predictions(0.4).sample(frac=1, random_state=3))
    plain = write_run(tmp_path / "plain", predictions(0.4))
    tables = [comparison_table(compare_runs([good, run], **DRAW)) for run in (shuffled, plain)]
    numbers = [table.select_dtypes("number") for table in tables]
    pd.testing.assert_frame_equal(*numbers, check_exact=False, rtol=1e-12)
