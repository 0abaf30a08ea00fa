"""The `chromacc` command: exit status, messages without tracebacks, and what is handed to the library."""

import subprocess
import sys

import pytest

from chromacc_lib import ChromaccError, cli, pipeline


def test_help_and_version_need_no_heavy_import():
    script = (
        "import sys\nfrom chromacc_lib import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit as done:\n    assert done.code == 0\n"
        "heavy = {'torch', 'pandas', 'papermill', 'nbconvert'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("run", "encode", "review", "check", "export", "train", "folds", "predict", "variants", "report"):
        assert command in done.stdout


def test_the_installed_command_answers():
    done = subprocess.run(
        [sys.executable, "-m", "chromacc_lib.cli", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("chromacc 0.")


def test_run_hands_everything_over(monkeypatch):
    calls = []
    monkeypatch.setattr(pipeline, "run", lambda *a, **k: calls.append((a, k)))
    status = cli.main(
        [
            "run",
            "pilot",
            "--set",
            "seed=2",
            "epochs=3",
            "--set",
            "tfs=[CTCF]",
            "--run-id",
            "x",
            "--from",
            "02",
            "--until",
            "03",
            "--force",
        ]
    )
    assert status == 0
    assert calls == [
        (
            ("pilot", ["seed=2", "epochs=3", "tfs=[CTCF]"], "x"),
            {"start": "02", "until": "03", "only": None, "force": True},
        )
    ]


def test_a_known_error_is_a_message_and_status_1(monkeypatch, capsys):
    def refuse(*_, **__):
        raise ChromaccError("the peaks are unsorted; sort them")

    monkeypatch.setattr(pipeline, "run", refuse)
    assert cli.main(["run", "pilot"]) == 1
    assert capsys.readouterr().err == "chromacc: the peaks are unsorted; sort them\n"


def test_an_unknown_error_keeps_its_traceback(monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, "run", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["run", "pilot"])


def test_an_unknown_profile_and_parameter_are_refused(capsys):
    assert cli.main(["run", "pilto"]) == 1
    assert "Did you mean 'pilot'?" in capsys.readouterr().err
    assert cli.main(["run", "pilot", "--set", "sed=2"]) == 1
    assert "did you mean 'seed'" in capsys.readouterr().err


def test_wrong_usage_is_status_2():
    with pytest.raises(SystemExit) as caught:
        cli.main(["check"])
    assert caught.value.code == 2


def test_check_lists_every_problem_and_exits_1(tmp_path, capsys):
    (tmp_path / "genome.fa").write_text(">chr1\n" + "ACGT" * 50 + "\n")
    header = (
        "cell_type assay target kind path_or_url md5 accession biosample donor assembly output_type".split()
    )
    rows = [
        ["A", "ATAC-seq", "", "accessibility_signal", "gone.bw", "", "", "", "d1", "x1", "signal"],
        ["B", "ATAC-seq", "", "accessibility_signal", "lost.bw", "", "", "", "d2", "x1", "signal"],
    ]
    (tmp_path / "m.tsv").write_text("\n".join("\t".join(row) for row in [header, *rows]) + "\n")
    assert cli.main(["check", str(tmp_path / "m.tsv"), "--genome-fasta", str(tmp_path / "genome.fa")]) == 1
    output = capsys.readouterr()
    assert "gone.bw" in output.err and "lost.bw" in output.err and "problem(s)" in output.out


def test_check_of_a_missing_manifest_is_a_message(tmp_path, capsys):
    assert cli.main(["check", str(tmp_path / "gone.tsv"), "--genome-fasta", str(tmp_path / "g.fa")]) == 1
    error = capsys.readouterr().err
    assert "gone.tsv" in error and "Traceback" not in error


def test_predict_hands_everything_over(monkeypatch, tmp_path, capsys):
    from chromacc_lib import prediction, prediction_page

    calls = []
    monkeypatch.setattr(prediction, "predict_manifest", lambda *a, **k: calls.append((a, k)))
    monkeypatch.setattr(prediction_page, "write_qc_page", lambda made: tmp_path / "qc.html")
    monkeypatch.chdir(tmp_path)
    assert (
        cli.main(
            [
                "predict",
                "--model",
                "m",
                "--manifest",
                "t.tsv",
                "--genome-fasta",
                "g.fa",
                "--out",
                "o",
                "--cell-type",
                "K562",
            ]
        )
        == 0
    )
    paths = (tmp_path / "m", tmp_path / "t.tsv", tmp_path / "g.fa", "", tmp_path / "o")
    options = {
        "cell_type": "K562",
        "threshold": None,
        "workers": None,
        "device": "auto",
        "overwrite": False,
        "gene_names": "",
        "rename_chromosomes": False,
        "stride": 0,
        "processes": 0,
        "dask_address": "",
    }
    assert calls == [(paths, options)]
    assert str(tmp_path / "o") in capsys.readouterr().out


def test_report_of_a_folder_that_is_no_run_is_a_message(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 1
    assert "no run.json" in capsys.readouterr().err
