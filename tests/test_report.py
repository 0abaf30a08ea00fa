"""Pages that leave the lab: offline, escaped, with alt text, and honest about what is missing."""

import json
import re
from html.parser import HTMLParser

import nbformat
import pandas as pd
import pytest
from browser import CHROMIUM, assert_page_opens, needs_chromium, open_browser  # noqa: F401
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from chromacc_lib import ChromaccError, report

HOSTILE = "<script>alert('x')</script>"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PAGE = "<!DOCTYPE html><meta name=viewport content='width=device-width'><link rel=icon href='data:,'><p>Text</p>{}"


class Links(HTMLParser):
    """Collects what a browser would load or run: (tag, address) of each resource, scripts, and images' alt
    texts.
    """

    def __init__(self, text):
        super().__init__()
        self.resources, self.scripts, self.alts, self.anchors = [], 0, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.scripts += tag == "script"
        if tag == "a":
            self.anchors.append(attributes.get("href", ""))
        else:
            self.resources += [
                (tag, attributes[name]) for name in ("src", "href", "data", "srcset") if attributes.get(name)
            ]
        if tag == "img":
            self.alts.append(attributes.get("alt"))


def assert_offline(text):
    outside = [resource for resource in Links(text).resources if not resource[1].startswith("data:")]
    assert outside == []
    assert re.findall(r"@import|url\(\s*['\"]?(?:https?:)?//", text) == []


def estimate(value, low=None, high=None):
    return {
        "value": value,
        "low": value - 0.1 if low is None else low,
        "high": value + 0.1 if high is None else high,
    }


def metrics(simulated=True):
    quadrant = "unseen_cell_type_x_unseen_chromosome"
    seen = "seen_cell_type_x_seen_chromosome"
    return {
        "simulated": simulated,
        "threshold": 0.5,
        "verdict": "The model beats the average & boosting. It ranks better. It is the third sentence.",
        "headline": {"quadrant": quadrant, "skill": estimate(0.412)},
        "quadrants": {
            seen: {"skill": estimate(0.5), "pearson": estimate(0.9)},
            quadrant: {"skill": estimate(0.412), "pearson": estimate(0.8), "odd_one": {"value": None}},
        },
        "baselines": {
            "average": {quadrant: {"skill": estimate(0.0, 0.0, 0.0)}},
            "boosting": {quadrant: {"skill": estimate(-3.0), "model_skill": estimate(0.85), "mse": estimate(0.2)}},
            "ridge": {quadrant: {"skill": estimate(0.4), "model_skill": estimate(0.05), "mse": estimate(0.2)}},
            "oracle": {quadrant: {"skill": estimate(0.9), "model_skill": estimate(-5.0), "mse": estimate(0.2)}},
            "kmer": {quadrant: {"skill": estimate(-0.2), "rows": 6, "of_rows": 9, "partly": "6 of 9 rows"}},
            "nearest": {quadrant: {"undefined": "nearest has no prediction in 3 of 9 rows"}},
        },
        "recalibration": {"sentence": "Temperature 1.08."},
        "conformal": {"undefined": "no measured score"},
        "notes": ["The headline's intervals rest on 3 unseen cell types."],
        "ceiling": {
            "kind": "truth",
            "sentence": "The model reaches 70% of it.",
            "fraction_of_skill": estimate(0.7),
        },
    }


@pytest.fixture
def bare(tmp_path):
    """The folder of a run that has only begun."""
    stages = {
        "01_data_curation": {
            "state": "failed",
            "seconds": 1.5,
            "error": f"ValueError: {HOSTILE}",
            "outputs": {},
        }
    }
    (tmp_path / "run.json").write_text(
        json.dumps(
            {
                "run_id": "trial",
                "profile": "mine",
                "created": "2026-01-01T00:00:00+00:00",
                "git_commit": None,
                "git_modified": None,
                "versions": {"python": "3.11.9"},
                "parameters": {"predict_cell_type": HOSTILE, "tfs": ["CTCF"]},
                "parameters_set": {"tfs": ["CTCF"]},
                "inputs": {f"{HOSTILE}.bw": {"sha256": "ab" * 32, "bytes": 12345}},
                "stages": stages,
            }
        )
    )
    return tmp_path


@pytest.fixture
def finished(bare):
    """The folder of a finished run, with a hostile name wherever a name from outside can come in."""
    record = json.loads((bare / "run.json").read_text())
    record["stages"] = {
        "01_data_curation": {"state": "done", "seconds": 1.5, "error": None, "outputs": {}},
        "03_evaluation": {
            "state": "done",
            "seconds": 2.0,
            "error": None,
            "outputs": {"reports/trial/evaluation_metrics.json": "ab"},
        },
    }
    (bare / "run.json").write_text(json.dumps(record))
    (bare / "evaluation_metrics.json").write_text(json.dumps(metrics()))
    (bare / "collapse_diagnostics.json").write_text(
        json.dumps(
            {
                "verdict": "healthy",
                "cause": "",
                "confidence": "high",
                "sentence": "It follows the cell type.",
                "next_step": "None.",
                "checks": [
                    {
                        "name": "std_ratio",
                        "value": 0.8,
                        "rule": "at least 0.5",
                        "verdict": "ok",
                        "sentence": "",
                    }
                ],
            }
        )
    )
    rows = [
        (cell, split, w, ws, f"chr{ws}")
        for cell, split in (("A", "train"), ("B", "train"), (HOSTILE, "test"))
        for w, ws in enumerate(["train", "train", "test"])
    ]
    pd.DataFrame(
        rows, columns=["cell_type", "cell_type_split", "window", "window_split", "chrom"]
    ).to_parquet(bare / "predictions.parquet")
    (bare / "interpretation").mkdir()
    pd.DataFrame({"pattern": [HOSTILE, *(f"p{i}" for i in range(11))], "seqlets": range(12)}).to_csv(
        bare / "interpretation" / "motifs.csv", index=False
    )
    (bare / "prediction").mkdir()
    (bare / "prediction" / "summary.json").write_text(json.dumps({"cell_type": HOSTILE, "windows": 3}))
    output = new_output(
        "display_data", {"image/png": PNG}, metadata={"image/png": {"alt": f'Skill "{HOSTILE}"'}}
    )
    cells = [
        new_markdown_cell(f"# Evaluation\n\n## Skill {HOSTILE}"),
        new_code_cell("plots.show(fig)", outputs=[output], metadata={"tags": ["report-figure"]}),
    ]
    nbformat.write(new_notebook(cells=cells), bare / "03_evaluation.ipynb")
    return bare


def test_the_prediction_says_what_to_expect_and_where_to_read_on(finished):
    assert "qc.html" not in report.write_index(finished).read_text()
    (finished / "prediction" / "qc.html").write_text("page")
    summary = {"cell_type": "K562", "expected_accuracy": {"sentence": "Skill 0.4."},
               "average_against_prediction": {"edges": [0, 1], "windows": [[987654]]}}  # fmt: skip
    (finished / "prediction" / "summary.json").write_text(json.dumps(summary))
    text = report.write_index(finished).read_text()
    assert 'href="prediction/qc.html"' in text and "<dd>Skill 0.4.</dd>" in text and "987654" not in text


def test_index_of_a_finished_run(finished):
    text = report.write_index(finished).read_text()
    assert_offline(text)
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text.partition("<body>")[2]))
    assert shown.strip().startswith("SIMULATED DATA"), "the first line says what data this is"
    assert "The model beats the average &amp; boosting." in shown
    assert "0.412" in shown and "95% interval 0.312 to 0.512" in shown
    assert "boosting −3.00 [−3.10, −2.90] +0.850 [+0.750, +0.950] beaten" in shown
    assert "ridge 0.400 [0.300, 0.500] +0.050 [−0.050, +0.150] not told apart" in shown
    assert "oracle 0.90 [0.80, 1.00] −5.00 [−5.10, −4.90] beats the model" in shown
    assert shown.count("It is the third sentence.") == 1 and "intervals rest on 3 unseen" in shown
    assert "Temperature 1.08." in shown and "Not known: no measured score." in shown
    assert "nearest has no prediction in 3 of 9 rows" in shown and "k-mers (6 of 9 rows)" in shown
    assert "3: 2 train, 1 test" in shown and "on chrtest" in shown
    assert "The model reaches 70% of it." in shown
    assert "1 ok of 1 checks" in shown
    assert "not defined here" in shown, "a metric that one quadrant lacks"
    assert "Missing" not in shown.replace("Missing: the dataset has not been finished", "")
    assert "The first 10 of 12" in shown


def test_a_skill_without_an_interval_is_no_mark(finished):
    content = metrics()
    content["headline"]["skill"] = {"value": 0.4, "low": None, "high": None}
    (finished / "evaluation_metrics.json").write_text(json.dumps(content))
    assert report._forest(content)[0]["undefined"] == "0.4, without an interval"
    assert "0.4, without an interval" in report.write_index(finished).read_text()


def test_four_figures_a_calibration_and_the_motifs_in_their_places(finished):
    def cell(tag, caption):
        output = new_output("display_data", {"image/png": PNG}, metadata={"image/png": {"alt": caption}})
        return [new_markdown_cell(f"## {caption}"), new_code_cell("x", outputs=[output], metadata={"tags": [tag]})]

    tags = ["report-figure"] * 6 + ["report-calibration", "report-motifs", "other"]
    cells = [c for i, tag in enumerate(tags) for c in cell(tag, f"{tag} {i}")]
    nbformat.write(new_notebook(cells=cells), finished / "03_evaluation.ipynb")
    text = report.write_index(finished).read_text()
    assert Links(text).alts == [*(f"report-figure {i}" for i in range(4)), "report-calibration 6", "report-motifs 7"]
    assert text.index("Are its probabilities honest?") < text.index("report-calibration 6") < text.index("Motifs that the")


def test_tracks_that_curation_read_stand_there_with_their_checksums(finished, tmp_path):
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    columns = "cell_type\tkind\ttarget\tpath_or_url\tmd5\tassembly\turl\tbytes"
    (dataset / "manifest.lock.tsv").write_text(f"{columns}\nA\thistone\tH3K4me3\t{HOSTILE}.bw\t{'cd' * 16}\thg38\t\t12\n")
    record = json.loads((finished / "run.json").read_text())
    record["parameters"]["dataset_dir"] = str(dataset)
    (finished / "run.json").write_text(json.dumps(record))
    text = report.write_index(finished).read_text()
    assert "cd" * 16 in text and "<strong>histone marks</strong>: H3K4me3" in text and Links(text).scripts == 0


def test_index_escapes_names_from_outside(finished):
    text = report.write_index(finished).read_text()
    page = Links(text)
    assert page.scripts == 0
    assert (
        text.count("&lt;script&gt;alert(") >= 6
    )  # figure, heading, motif, prediction, parameter, input, cell type
    assert page.alts == [f'Skill "{HOSTILE}"']


def test_index_says_what_is_missing(bare):
    text = report.write_index(bare).read_text()
    assert_offline(text)
    for missing in (
        "evaluation_metrics.json",
        "collapse_diagnostics.json",
        "interpretation/motifs.csv",
        "prediction/summary.json",
        "no executed notebook holds a figure",
        "the dataset has not been finished",
    ):
        assert re.search(f"Missing:[^<]*{re.escape(missing)}", text), missing
    assert "SIMULATED OR REAL IS NOT KNOWN" in text
    assert "ValueError: &lt;script&gt;" in text
    assert Links(text).scripts == 0


def test_a_value_left_of_the_chart_is_an_arrow_and_no_mark(finished):
    cut = {row["label"]: row.get("cut") for row in report._forest(metrics())}
    assert [name for name, is_cut in cut.items() if is_cut] == ["boosting"] and cut["nearest training cell type"] is None
    text = report.write_index(finished).read_text()
    assert text.count("<polygon") == 1 and text.count('y1="3" y2="17"') == 5


def test_real_data_is_called_real(finished):
    (finished / "evaluation_metrics.json").write_text(json.dumps(metrics(simulated=False)))
    text = report.write_index(finished).read_text()
    assert "REAL DATA" in text and "SIMULATED" not in text


def test_the_dataset_says_whether_it_is_simulated(bare, tmp_path):
    record = json.loads((bare / "run.json").read_text())
    record["parameters"]["dataset_dir"] = str(tmp_path / "dataset")
    (bare / "run.json").write_text(json.dumps(record))
    assert report.is_simulated(bare) is None
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "curation.json").write_text(json.dumps({"simulated": False}))
    assert report.is_simulated(bare) is False
    (bare / "evaluation_metrics.json").write_text(json.dumps(metrics(simulated=True)))
    assert report.is_simulated(bare) is None, "the evaluation is of other data"


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ChromaccError, match="no run.json there"):
        report.write_index(tmp_path)


def test_a_damaged_file_is_named(finished):
    (finished / "evaluation_metrics.json").write_text('{"simulated": tr')
    with pytest.raises(ChromaccError, match="evaluation_metrics.json: no readable JSON"):
        report.write_index(finished)


def test_the_headline_is_one_line_and_warns_when_it_is_older(finished):
    assert report.headline(finished) == (
        "skill +0.412 (95% interval +0.312 to +0.512) over the training-cell-type average, "
        "unseen cell type × unseen chromosome; simulated data; diagnosis: healthy")
    record = json.loads((finished / "run.json").read_text())
    record["stages"]["03_evaluation"]["state"] = "outdated"
    (finished / "run.json").write_text(json.dumps(record))
    assert report.headline(finished).startswith("(from before the last change)")


def executed_notebook(path):
    cells = [
        new_markdown_cell("# Look\n\nInline math stays text: $x^2$."),
        new_code_cell(
            "x",
            outputs=[
                new_output(
                    "display_data",
                    {"image/png": PNG},
                    metadata={"image/png": {"alt": f'A "figure" {HOSTILE}', "width": 5}},
                ),
                new_output("display_data", {"text/markdown": f"**{HOSTILE}** and `{HOSTILE}`, a < b"}),
                new_output("stream", name="stdout", text=HOSTILE),
                new_output("display_data", {"application/javascript": "alert(1)"}),
            ],
        ),
    ]
    metadata = {
        "widgets": {"application/vnd.jupyter.widget-state+json": {}},
        "kernelspec": {"name": "python3", "display_name": "P"},
    }
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)


def test_a_notebooks_page_is_offline_and_escaped(tmp_path):
    executed_notebook(tmp_path / "03_look.ipynb")
    report.export_page(tmp_path / "03_look.ipynb", tmp_path / "03_look.html", True)
    text = (tmp_path / "03_look.html").read_text()
    assert_offline(text)
    page = Links(text)
    assert page.scripts == 0
    assert page.alts == [f'A "figure" {HOSTILE}']
    assert page.anchors[0] == "index.html"
    assert "SIMULATED DATA" in text and "<title>Look</title>" in text
    assert "a &lt; b" in text


@needs_chromium
def test_pages_open_in_a_browser_without_network(finished, browser):
    executed_notebook(finished / "01_data_curation.ipynb")
    report.export_page(finished / "01_data_curation.ipynb", finished / "01_data_curation.html", True)
    for page in (report.write_index(finished), finished / "01_data_curation.html"):
        assert "SIMULATED DATA" in assert_page_opens(browser, page)["text"]


@needs_chromium
@pytest.mark.parametrize("fault, told", [
    ("<img src='https://example.org/logo.png' alt='logo'>", "request failed|ERR_INTERNET|ERR_NAME"),
    ("<script src='beside.js'></script>", "ERR_FILE_NOT_FOUND"),
    ("<script>console.error('no figure')</script>", "no figure"),
    ("<script>nothing.at.all</script>", "exception"),
    ("<img src='data:image/png;base64,AAAA' alt='broken'>", "'width': 0"),
    (f"<img src='data:image/png;base64,{PNG}'>", "'alt': ''"),
    ("<p style='width: 800px'>wide</p>", "P"),
])  # fmt: skip
def test_a_page_with_a_fault_does_not_pass(tmp_path, browser, fault, told):
    (tmp_path / "page.html").write_text(PAGE.format(fault))
    with pytest.raises(AssertionError, match=told):
        assert_page_opens(browser, tmp_path / "page.html")


@pytest.fixture(scope="module")
def browser():
    with open_browser() as one:
        yield one


def test_windows_are_those_of_the_dataset_not_the_sample_that_was_predicted(tmp_path):
    run, dataset = tmp_path / "run", tmp_path / "dataset"
    run.mkdir()
    dataset.mkdir()
    pd.DataFrame({"cell_type": ["a", "b"], "cell_type_split": ["train", "test"], "window": [0, 1],
                  "window_split": ["train", "test"], "chrom": ["chr1", "chr2"]}).to_parquet(run / "predictions.parquet")  # fmt: skip
    facts = lambda: dict(report._data_facts(run, {"parameters": {"dataset_dir": str(dataset)}}, []))
    assert facts()["windows predicted"] == "2: 1 train, 1 test" and "windows" not in facts()
    (dataset / "curation.json").write_text(json.dumps({"windows": {"train, peak": 1500, "train, background": 20, "test, peak": 7}}))
    assert facts()["windows"] == "1,527: 1,520 train, 7 test" and "windows predicted" not in facts()
