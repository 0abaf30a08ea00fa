"""What a model folder knows of its evaluation, and what it lets one expect of a new cell type."""

import json
import shutil
from itertools import combinations

import numpy as np
import pytest
from test_prediction import trained  # noqa: F401

from chromacc_lib import ChromaccError
from chromacc_lib.calibration import Recalibration, ScoreIntervals
from chromacc_lib.expectation import add_diagnosis, add_evaluation, expected_accuracy, read_evaluated
from chromacc_lib.hub import complete_model_folder, open_model_folder

MODALITIES = ("sequence", "histone", "tf", "cell", "prior")


def figure(value: float) -> dict:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def write_run(run, undefined: bool = False, edge: float = 1.0):
    """The files of an evaluation and a diagnosis; skill of a subset = number of its modalities / 10.

    edge: predicted score between the two groups of intervals.
    """
    run.mkdir(exist_ok=True)
    headline = {"skill": figure(0.5), "pearson": figure(0.8), "cell_types": ["D"],
                "size": {"rows": 40, "windows": 40, "cell_types": 1, "blocks": 4}}  # fmt: skip
    recalibration = {"temperature": 2.0, "offset": 0.5, "source": "here", "sentence": "Temperature 2.",
                     "pooled": {when: {"ece": figure(0.2)} for when in ("before", "after")}}  # fmt: skip
    ends = ScoreIntervals(0.9, (edge,), (-0.5, -np.inf), (0.25, np.inf), (50, 5), "there").to_dict()
    conformal = {"nominal": 0.9, "source": "there", "intervals": ends, "pooled": {"coverage": figure(0.85)},
                 "sentence": "Intervals hold 85%."}  # fmt: skip
    if undefined:
        recalibration, conformal = {"undefined": "no labels"}, {"undefined": "no scores"}
    metrics = {
        "simulated": False, "verdict": "The model beats the average.", "headline": headline,
        "interval_method": "bootstrap", "threshold": None if undefined else 0.3,
        "threshold_source": "one class" if undefined else "highest F1",
        "recalibration": recalibration, "conformal": conformal,
        "distance": {"threshold": 1.0, "rule": "far: farther", "sentence": "Distance tells nothing."},
    }  # fmt: skip
    (run / "evaluation_metrics.json").write_text(json.dumps(metrics))
    shown = [some for size in range(6) for some in combinations(MODALITIES, size)]
    subsets = [{"shown": list(s), "skill": figure(len(s) / 10), "pr_auc": figure(0.5), "mse": figure(0.1)}
               for s in shown]  # fmt: skip
    assays = [{"cell_type": "all unseen cell types", "assay": name, "added_last": {m: figure(0.05) for m in
               ("skill", "pr_auc", "mse")}} for name in ("H3K27ac", "CTCF", "expression")]  # fmt: skip
    worth = {"basis": "40 windows.", "subsets": {"all unseen cell types": subsets}, "assays": assays}
    (run / "assay_worth.json").write_text(json.dumps(worth))
    found = {"verdict": "healthy", "cause": "", "confidence": "high", "sentence": "Nothing found.",
             "next_step": "Go on."}  # fmt: skip
    (run / "collapse_diagnostics.json").write_text(json.dumps(found))
    return run


@pytest.fixture
def model_dir(trained, tmp_path):  # noqa: F811
    write_run(tmp_path / "run")
    return shutil.copytree(trained.model_dir, tmp_path / "run" / "model")


def test_the_evaluation_goes_with_the_model(model_dir, tmp_path):
    assert read_evaluated(open_model_folder(model_dir)).threshold[0] == 0.5
    add_evaluation(model_dir, model_dir.parent)
    moved = shutil.move(model_dir, tmp_path / "elsewhere")
    known = read_evaluated(open_model_folder(moved))
    assert known.threshold == (0.3, "evaluation of the model: highest F1")
    assert known.recalibration == Recalibration(2.0, 0.5, "here")
    assert known.calibrated(np.array([0.5], np.float32))[0] == pytest.approx(1 / (1 + np.exp(-0.5)))
    low, high = known.interval(np.array([0.5, 2.0], np.float32))
    assert low.tolist() == [0.0, -np.inf] and high.tolist() == [0.75, np.inf]


def test_the_card_says_how_good_the_model_is_and_whether_to_believe_it(model_dir):
    add_diagnosis(model_dir, model_dir.parent)
    assert "Not evaluated yet" in (model_dir / "model_card.md").read_text()
    add_evaluation(model_dir, model_dir.parent)
    card = (model_dir / "model_card.md").read_text()
    assert "| skill | 0.500 (0.400 to 0.600) |" in card and "The model beats the average." in card
    assert "**Diagnosis: healthy** (confidence: high). Nothing found." in card and "Not evaluated yet" not in card
    assert "Temperature 2." in card and "Intervals hold 85%." in card
    add_evaluation(model_dir, model_dir.parent)
    assert (model_dir / "model_card.md").read_text() == card
    assert [line for line in card.splitlines() if line.startswith("## ")][-2:] == ["## Intended use", "## Limits"]


def test_the_evaluation_of_other_weights_is_refused_and_removed_by_a_new_training(trained, model_dir):  # noqa: F811
    path = add_evaluation(model_dir, model_dir.parent)
    complete_model_folder(model_dir, trained.dataset_dir, trained.arrays)
    assert path.is_file()  # the same weights again
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights_sha256": "0"}))
    with pytest.raises(ChromaccError, match=r"evaluation\.json: the evaluation of other weights"):
        read_evaluated(open_model_folder(model_dir))
    complete_model_folder(model_dir, trained.dataset_dir, trained.arrays)
    assert not path.exists()
    path.write_text("[]")
    with pytest.raises(ChromaccError, match="got a JSON list"):
        read_evaluated(open_model_folder(model_dir))


def test_what_could_not_be_calibrated_is_not_known(model_dir):
    write_run(model_dir.parent, undefined=True)
    add_evaluation(model_dir, model_dir.parent)
    known = read_evaluated(open_model_folder(model_dir))
    assert known.threshold == (0.5, "default: the evaluation's is one class")
    assert np.isnan(known.calibrated(np.array([0.5]))).all() and np.isnan(known.interval(np.array([0.5]))).all()
    assert "Not known: no labels." in (model_dir / "model_card.md").read_text()
    (model_dir.parent / "assay_worth.json").unlink()
    with pytest.raises(ChromaccError, match=r"assay_worth\.json: not there"):
        add_evaluation(model_dir, model_dir.parent)


def test_expected_accuracy_is_that_of_what_is_there(model_dir):
    folder = open_model_folder(model_dir)
    config = folder.model.config
    everything = ("H3K27ac", "H3K4me3", "CTCF", "expression")
    assert expected_accuracy(read_evaluated(folder), config, everything, "all") is None
    add_evaluation(model_dir, model_dir.parent)
    known = read_evaluated(folder)
    whole = expected_accuracy(known, config, everything, "all")
    assert whole["exact"] and whole["with"]["skill"]["value"] == 0.5 and whole["missing"] == {}
    part = expected_accuracy(known, config, ("H3K4me3", "expression"), "all")
    assert not part["exact"] and set(part["missing"]) == {"H3K27ac", "CTCF"}
    assert part["with"]["skill"]["value"] == 0.4 and part["without"]["skill"]["value"] == 0.3
    assert "H3K27ac +0.050" in part["sentence"] and "expect something between" in part["sentence"]
    elsewhere = expected_accuracy(known, config, everything, "none")
    assert elsewhere["exact"] and elsewhere["with"]["shown"] == ["cell", "histone", "sequence", "tf"]
    assert not expected_accuracy(known, config, everything, "some")["exact"]
