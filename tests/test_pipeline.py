"""The pipeline on small throwaway notebooks: what is passed, what is run again and what is not, and what is
recorded.
"""

import fcntl
import io
import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from test_console import screen
from test_progress import Terminal

from chromacc_lib import ChromaccError, provenance
from chromacc_lib.parameters import check_settings, declared_parameters, parse_overrides, read_profile
from chromacc_lib.pipeline import find_stages, run

FOLDERS = "run_dir: str = 'unset'  # folder\ndataset_dir: str = 'unset'  # folder\n"
FIRST = (
    "from pathlib import Path\nPath(dataset_dir).mkdir(parents=True, exist_ok=True)\n"
    "(Path(dataset_dir) / 'numbers.txt').write_text(' '.join(str(i * scale) for i in range(n)))"
)
SECOND = (
    "from pathlib import Path\nnumbers = (Path(dataset_dir) / 'numbers.txt').read_text().split()\n"
    "(Path(run_dir) / 'count.txt').write_text(f'{len(numbers)} {label}')"
)
THIRD = (
    "from pathlib import Path\n"
    "(Path(run_dir) / 'copy.txt').write_text((Path(run_dir) / 'count.txt').read_text())"
)


def write_notebook(path, parameters, *code, prose="Why.", tags=()):
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [
        new_markdown_cell(f"# {path.stem}\n\n{prose}"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *(new_code_cell(source, metadata={"tags": list(tags)}) for source in code),
    ]
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)


@pytest.fixture
def project(tmp_path):
    """A folder with three notebooks, each reading what the one before it wrote, and the profile `tiny`."""
    notebooks = tmp_path / "notebooks"
    (notebooks / "profiles").mkdir(parents=True)
    (notebooks / "profiles" / "tiny.yaml").write_text("n: 3\n")
    write_notebook(
        notebooks / "01_first.ipynb", FOLDERS + "n: int = 2  # rows\nscale: float = 1.0  # any", FIRST
    )
    write_notebook(notebooks / "02_second.ipynb", FOLDERS + "label: str = 'numbers'  # text", SECOND)
    write_notebook(notebooks / "03_third.ipynb", FOLDERS, THIRD)
    return tmp_path


def states(out):
    """Return the last state that the table of stages shows for each stage."""
    rows = [line.split() for line in out.splitlines() if line.startswith("  0")]
    return {row[0][:2]: " ".join(word for word in row[1:3] if word.isalpha()) for row in rows}


def record(project, run_id="tiny"):
    return json.loads((project / "reports" / run_id / "run.json").read_text())


def test_all_stages_run_in_order_and_are_recorded(project, capsys):
    folder = run("tiny", root=project)
    assert states(capsys.readouterr().out) == {"01": "done", "02": "done", "03": "done"}
    assert folder == project / "reports" / "tiny"
    assert (folder / "copy.txt").read_text() == "3 numbers"
    content = record(project)
    assert list(content["stages"]) == ["01_first", "02_second", "03_third"]
    first = content["stages"]["01_first"]
    assert first["state"] == "done" and first["error"] is None and first["seconds"] > 0
    numbers = project / "data" / "tiny" / "dataset" / "numbers.txt"
    assert first["outputs"][str(numbers)] == provenance.hash_file(numbers)
    assert content["parameters"]["n"] == 3 and content["parameters"]["scale"] == 1.0
    assert content["versions"]["torch"].startswith("2.13.0")
    assert (folder / "index.html").exists() and (folder / "02_second.html").exists()


def test_an_up_to_date_stage_is_not_run_again(project, capsys):
    run("tiny", root=project)
    before = (project / "reports" / "tiny" / "01_first.ipynb").stat().st_mtime_ns
    capsys.readouterr()
    run("tiny", root=project)
    assert states(capsys.readouterr().out) == {"01": "up to", "02": "up to", "03": "up to"}
    assert (project / "reports" / "tiny" / "01_first.ipynb").stat().st_mtime_ns == before


def test_a_changed_parameter_runs_its_stage_and_those_after_it(project, capsys):
    run("tiny", root=project)
    capsys.readouterr()
    run("tiny", ["label=rows"], root=project)
    assert states(capsys.readouterr().out) == {"01": "up to", "02": "done", "03": "done"}
    assert (project / "reports" / "tiny" / "copy.txt").read_text() == "3 rows"


def test_changed_code_runs_again(project, capsys):
    run("tiny", root=project)
    write_notebook(
        project / "notebooks" / "02_second.ipynb",
        FOLDERS + "label: str = 'numbers'  # text",
        SECOND.replace("{label}", "of them {label}"),
    )
    capsys.readouterr()
    run("tiny", root=project)
    assert states(capsys.readouterr().out) == {"01": "up to", "02": "done", "03": "done"}
    assert (project / "reports" / "tiny" / "copy.txt").read_text() == "3 of them numbers"


def test_changed_prose_renews_its_page_alone(project, capsys):
    run("tiny", root=project)
    write_notebook(
        project / "notebooks" / "01_first.ipynb",
        FOLDERS + "n: int = 2  # rows\nscale: float = 1.0  # any",
        FIRST,
        prose="Why, said better.",
    )
    capsys.readouterr()
    run("tiny", root=project)
    assert states(capsys.readouterr().out) == {"01": "done", "02": "up to", "03": "up to"}
    assert "said better" in (project / "reports" / "tiny" / "01_first.html").read_text()
    assert {entry["state"] for entry in record(project)["stages"].values()} == {"done"}


@pytest.mark.parametrize("damage", ["changed", "deleted"])
def test_a_damaged_output_is_made_again(project, capsys, damage):
    run("tiny", root=project)
    numbers = project / "data" / "tiny" / "dataset" / "numbers.txt"
    whole = numbers.read_text()
    numbers.write_text(whole.replace("1", "7")) if damage == "changed" else numbers.unlink()
    capsys.readouterr()
    run("tiny", root=project)
    assert states(capsys.readouterr().out)["01"] == "done"
    assert numbers.read_text() == whole


def test_a_changed_input_file_runs_again(project, capsys):
    tracks = project / "my tracks é.bed"
    tracks.write_text("one\n")
    write_notebook(
        project / "notebooks" / "01_first.ipynb",
        FOLDERS + "n: int = 2  # rows\nregions: str = ''  # path",
        FIRST.replace("scale", "len(Path(regions).read_text())"),
    )
    run("tiny", [f"regions={tracks}"], root=project)
    assert record(project)["inputs"][str(tracks)]["sha256"] == provenance.hash_file(tracks)
    capsys.readouterr()
    run("tiny", [f"regions={tracks}"], root=project)
    assert states(capsys.readouterr().out)["01"] == "up to"
    tracks.write_text("one\ntwo\n")
    run("tiny", [f"regions={tracks}"], root=project)
    assert states(capsys.readouterr().out)["01"] == "done"


def test_the_files_in_a_manifest_are_inputs(tmp_path):
    (tmp_path / "a.bw").write_bytes(b"a")
    (tmp_path / "m.tsv").write_text(
        "cell_type\tpath_or_url\nK562\ta.bw\nHepG2\tgone.bw\nX\thttps://host/x.bw\n"
    )
    assert provenance.input_files({"manifest": str(tmp_path / "m.tsv"), "n": 3, "blacklist": ""}) == [
        tmp_path / "a.bw",
        tmp_path / "m.tsv",
    ]


def test_force_runs_what_is_up_to_date(project, capsys):
    run("tiny", root=project)
    capsys.readouterr()
    run("tiny", only="02", force=True, root=project)
    assert states(capsys.readouterr().out) == {"01": "as it", "02": "done", "03": "outdated"}


def test_until_and_from_choose_stages(project, capsys):
    run("tiny", until="second", root=project)
    assert list(record(project)["stages"]) == ["01_first", "02_second"]
    capsys.readouterr()
    run("tiny", start="3", root=project)
    assert states(capsys.readouterr().out) == {"01": "as it", "02": "as it", "03": "done"}


def test_from_needs_the_stages_before_it(project):
    with pytest.raises(ChromaccError, match="02_second reads what 01_first writes"):
        run("tiny", start="02", root=project)


def test_an_unknown_stage_is_refused_with_the_nearest_name(project):
    with pytest.raises(ChromaccError, match="no stage 'secnd'. Did you mean 'second'"):
        run("tiny", only="secnd", root=project)


def test_only_excludes_from(project):
    with pytest.raises(ChromaccError, match="--only cannot be combined"):
        run("tiny", only="01", start="01", root=project)


def test_a_failing_notebook_is_recorded_and_kept(project, capsys):
    write_notebook(
        project / "notebooks" / "02_second.ipynb",
        FOLDERS + "label: str = 'numbers'  # text",
        "print('so far')",
        "raise ValueError('the tracks end at 12')",
    )
    with pytest.raises(
        ChromaccError, match="(?s)02_second failed.*ValueError: the tracks end at 12.*failed.ipynb"
    ):
        run("tiny", root=project)
    entry = record(project)["stages"]["02_second"]
    assert entry["state"] == "failed" and entry["error"] == "ValueError: the tracks end at 12"
    folder = project / "reports" / "tiny"
    assert "so far" in (folder / "02_second.failed.ipynb").read_text()
    assert not (folder / "02_second.ipynb").exists() and "03_third" not in record(project)["stages"]
    assert "the tracks end at 12" in (folder / "index.html").read_text()

    write_notebook(
        project / "notebooks" / "02_second.ipynb", FOLDERS + "label: str = 'numbers'  # text", SECOND
    )
    capsys.readouterr()
    run("tiny", root=project)
    assert states(capsys.readouterr().out) == {"01": "up to", "02": "done", "03": "done"}
    assert not (folder / "02_second.failed.ipynb").exists()


def test_later_stages_are_outdated_when_one_before_them_fails(project):
    run("tiny", root=project)
    write_notebook(
        project / "notebooks" / "02_second.ipynb", FOLDERS + "label: str = 'numbers'  # text", "1 / 0"
    )
    with pytest.raises(ChromaccError, match="ZeroDivisionError"):
        run("tiny", root=project)
    assert record(project)["stages"]["03_third"]["state"] == "outdated"
    assert "outdated" in (project / "reports" / "tiny" / "index.html").read_text()


def test_a_kernel_that_dies_fails_its_stage(project, tried):
    write_notebook(
        project / "notebooks" / "01_first.ipynb",
        FOLDERS + "n: int = 2  # rows",
        "import os\nos.kill(os.getpid(), 9)",
    )
    with pytest.raises(ChromaccError, match="01_first failed: its kernel died.*memory") as caught:
        run("tiny", root=project)
    assert record(project)["stages"]["01_first"]["state"] == "failed"
    tried("a kernel that is killed (no memory)", caught)


def test_a_stage_that_was_killed_is_run_again(project, capsys):
    run("tiny", root=project)
    content = record(project)
    content["stages"]["02_second"]["state"] = "running"  # what a killed run leaves behind
    (project / "reports" / "tiny" / "run.json").write_text(json.dumps(content))
    capsys.readouterr()
    run("tiny", root=project)
    assert states(capsys.readouterr().out)["02"] == "done"


def test_a_file_has_one_writer(project):
    write_notebook(
        project / "notebooks" / "03_third.ipynb",
        FOLDERS,
        "from pathlib import Path\n(Path(run_dir) / 'count.txt').write_text('mine')",
    )
    with pytest.raises(ChromaccError, match="03_third changed .*count.txt, which 02_second wrote"):
        run("tiny", root=project)
    assert record(project)["stages"]["03_third"]["state"] == "failed"


def test_an_interrupt_is_recorded(project, tried):
    write_notebook(
        project / "notebooks" / "01_first.ipynb",
        FOLDERS + "n: int = 2  # rows",
        "import os, signal, time\nos.kill(os.getppid(), signal.SIGINT)\ntime.sleep(30)",
    )
    script = (  # a shell's background job ignores SIGINT, and hands that on: ask for Python's own handler
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path\nfrom chromacc_lib.pipeline import run\n"
        f"run('tiny', root=Path({str(project)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert record(project)["stages"]["01_first"]["state"] == "failed"
    tried("Ctrl-C while a notebook runs", "the stage is recorded as failed")


def test_the_kernel_is_this_python_at_the_projects_root(project):
    write_notebook(
        project / "notebooks" / "01_first.ipynb",
        FOLDERS + "n: int = 2  # rows",
        "import os, sys\nfrom pathlib import Path\nPath(run_dir, 'who.txt').write_text("
        "f'{sys.executable}|{os.getcwd()}|{os.environ[\"TQDM_DISABLE\"]}')",
    )
    run("tiny", until="01", root=project)
    executable, where, silent = (project / "reports" / "tiny" / "who.txt").read_text().split("|")
    assert executable == sys.executable and silent == "1"
    assert os.path.samefile(where, os.path.dirname(os.path.dirname(provenance.__file__)))


class Listener(io.StringIO):
    """What a run prints to; once it has heard `word`, it writes the file that the notebook waits for."""

    def __init__(self, word, file):
        super().__init__()
        self.word, self.file = word, file

    def writelines(self, lines):
        """Keep the lines, and listen."""
        for line in lines:
            self.write(line)
            if self.word in line:
                self.file.touch()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_a_notebook_prints_is_heard_while_it_runs(project, stream):
    heard = project / "heard"
    write_notebook(
        project / "notebooks" / "01_first.ipynb",
        FOLDERS + "n: int = 2  # rows",
        f"import sys, time\nfrom pathlib import Path\nprint('43 files', 'of 46 GB', file=sys.{stream})\n"
        f"until = time.monotonic() + 60\nwhile not Path({str(heard)!r}).exists():\n"
        "    assert time.monotonic() < until, 'nobody heard it'\n    time.sleep(0.05)\nprint('end', end='')",
    )
    out = Listener("43 files of 46 GB", heard)
    run("tiny", until="01", root=project, out=out)
    indented = [line for line in out.getvalue().splitlines() if line.startswith("    ")]
    assert indented == ["    43 files of 46 GB", "    end"]


def test_progress_is_lines_that_the_page_leaves_out_and_a_bar_in_jupyter(project):
    count = (
        "import os, sys\nfrom chromacc_lib import progress\nprogress.EVERY_S = 0\n"
        "with progress.progress(4, 'counting', 'steps') as bar:\n    bar.update(3)\n"
        "print('a', 'warning', file=sys.stderr)\n"
    )
    write_notebook(project / "notebooks" / "01_first.ipynb", FOLDERS + "n: int = 2  # rows", count)
    bar = "import os\ndel os.environ['TQDM_DISABLE']\n" + count
    write_notebook(project / "notebooks" / "02_second.ipynb", FOLDERS + "label: str = 'numbers'  # text", bar)
    out = io.StringIO()
    run("tiny", until="02", root=project, out=out)
    assert re.search(r"\n    ... counting: 75% \(3 of 4 steps, [\d.,]+ steps/s\), about 0 s left\n    a warning\n", out.getvalue())
    page = (project / "reports" / "tiny" / "01_first.html").read_text()
    assert "a warning" in page and "of 4 steps" not in page
    notebook = nbformat.read(project / "reports" / "tiny" / "02_second.ipynb", as_version=4)
    errors = "".join(output.text for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    assert "counting:  75%|" in errors and "3/4" in errors and "steps/s" in errors
    first = (project / "reports" / "tiny" / "01_first.ipynb").read_text()
    assert "a warning" in first and "of 4 steps," not in first


def test_on_a_terminal_progress_is_a_status_line_that_is_gone_in_the_end(project):
    count = (
        "from chromacc_lib import progress\nprogress.WATCHED_S = 0\n"  # and a run that nobody watches would wait for 30 s
        "with progress.progress(4, 'counting', 'steps') as bar:\n    bar.update(3)\nprint('counted')\n"
    )
    write_notebook(project / "notebooks" / "01_first.ipynb", FOLDERS + "n: int = 2  # rows", count)
    out = Terminal()
    run("tiny", until="01", root=project, out=out)
    assert re.search(r"01_first 0:00:\d\d  counting █{15}░{5} 75% \(3 of 4 steps, ", out.getvalue())
    lines = screen(out.getvalue())
    assert "    counted" in lines and not any("counting" in line for line in lines)
    assert lines[-2].startswith("headline: ")


def test_at_the_end_a_table_of_stages_the_report_and_the_headline(project):
    out = io.StringIO()
    run("tiny", until="02", root=project, out=out)
    *_, head, first, second, third, every, report, headline = out.getvalue().splitlines()
    assert head.split() == ["stage", "state", "time"]
    for line, words in ((first, ["01_first", "done"]), (second, ["02_second", "done"]), (every, ["all"])):
        assert line.split()[:-1] == words and re.fullmatch(r"\d:\d\d:\d\d", line.split()[-1]), line
    assert third.split() == ["03_third", "not", "run", "-"]
    assert report == f"report: {project / 'reports' / 'tiny' / 'index.html'}"
    assert headline == "headline: not known: the evaluation has not been run"
    again = io.StringIO()
    run("tiny", start="02", until="02", root=project, out=again)
    assert [line.split()[1:4] for line in again.getvalue().splitlines()[-6:-4]] == [["as", "it", "stands"], ["up", "to", "date"]]


def test_the_table_of_stages_stands_there_after_a_failure_too(project):
    write_notebook(project / "notebooks" / "02_second.ipynb", FOLDERS + "label: str = 'numbers'  # text", "1 / 0")
    out = io.StringIO()
    with pytest.raises(ChromaccError, match="ZeroDivisionError"):
        run("tiny", root=project, out=out)
    first, second, third, _ = out.getvalue().splitlines()[-4:]
    assert [line.split()[1] for line in (first, second, third)] == ["done", "failed", "not"]


def test_skipped_cells_do_not_run(project):
    path = project / "notebooks" / "01_first.ipynb"
    content = nbformat.read(path, as_version=4)
    content.cells.append(
        new_code_cell("raise SystemError('a widget ran')", metadata={"tags": ["skip-execution"]})
    )
    nbformat.write(content, path)
    run("tiny", until="01", root=project)
    assert record(project)["stages"]["01_first"]["state"] == "done"


def test_two_runs_on_one_folder_are_refused(project, tried):
    folder = project / "reports" / "tiny"
    folder.mkdir(parents=True)
    with open(folder / ".lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ChromaccError, match="another chromacc run is writing there.*--run-id") as caught:
            run("tiny", root=project)
    run("tiny", until="01", root=project)
    tried("two runs of one folder at once", caught)


def test_two_runs_on_one_dataset_are_refused(project, tried):
    dataset = project / "shared data"
    dataset.mkdir()
    with open(project / ".shared data.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ChromaccError, match="another chromacc run") as caught:
            run("tiny", [f"dataset_dir={dataset}"], run_id="second", root=project)
    tried("two runs of one dataset at once", caught)


def test_a_shared_dataset_may_lie_where_nobody_can_write(project, read_only, tried):
    run("tiny", root=project)
    data = project / "data"
    write_notebook(project / "notebooks" / "01_first.ipynb", FOLDERS + "n: int = 2  # rows", "print('it is all there')")
    given = [f"dataset_dir={data / 'tiny' / 'dataset'}"]
    read_only(data, lambda: run("tiny", given, run_id="second", root=project))
    assert (project / "reports" / "second" / "copy.txt").read_text() == "3 numbers"
    with pytest.raises(ChromaccError, match="reports/third: cannot be written .Permission denied.; .*put reports and data where") as caught:
        read_only(project / "reports", lambda: run("tiny", given, run_id="third", root=project))
    tried("a dataset in a folder that cannot be written", "used as it is")
    tried("a report in a folder that cannot be written", caught)


def test_run_id_names_the_folders(project):
    assert run("tiny", run_id="other one", until="01", root=project) == project / "reports" / "other one"
    assert (project / "data" / "other one" / "dataset" / "numbers.txt").exists()


@pytest.mark.parametrize("run_id", ["", "../x", "a/b", ".hidden", "-x"])
def test_a_run_id_that_is_no_folder_name_is_refused(project, run_id, tried):
    with pytest.raises(ChromaccError, match="run id") as caught:
        run("tiny", run_id=run_id, root=project)
    tried(f"the run id {run_id!r}", caught)


def test_a_damaged_record_is_refused_by_name(project, tried):
    folder = project / "reports" / "tiny"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"stages": ')
    with pytest.raises(ChromaccError, match="run.json: no JSON") as caught:
        run("tiny", root=project)
    tried("a damaged run.json", caught)


def test_no_notebooks_is_an_error(tmp_path):
    with pytest.raises(ChromaccError, match="no numbered notebook"):
        find_stages(tmp_path)


def test_a_fingerprint_covers_the_modules_that_the_code_reaches(tmp_path):
    package = tmp_path / "chromacc_lib"
    package.mkdir()
    for name, source in {
        "__init__": "",
        "a": "from chromacc_lib.b import x",
        "b": "import chromacc_lib.c as c",
        "c": "from . import d",
        "d": "",
        "e": "import chromacc_lib.a",
    }.items():
        (package / f"{name}.py").write_text(source)
    code = "import numpy\nfrom chromacc_lib import a, project_path"
    assert sorted(provenance.reached_sources(code, package)) == ["__init__", "a", "b", "c", "d"]
    assert sorted(provenance.reached_sources("import numpy", package)) == ["__init__"]


def test_a_shared_dataset_that_is_left_alone_is_still_checked(project, capsys):
    run("tiny", root=project)
    numbers = project / "data" / "tiny" / "dataset" / "numbers.txt"
    write_notebook(
        project / "notebooks" / "01_first.ipynb", FOLDERS + "n: int = 2  # rows", "print('it is all there')"
    )
    run("tiny", [f"dataset_dir={numbers.parent}"], run_id="second", root=project)
    stages = record(project, "second")["stages"]
    assert (
        str(numbers) in stages["01_first"]["outputs"] and str(numbers) not in stages["02_second"]["outputs"]
    )


def test_a_zarr_store_is_one_output(tmp_path):
    before = provenance.snapshot([tmp_path])
    (tmp_path / "d.zarr" / "score").mkdir(parents=True)
    (tmp_path / "d.zarr" / "score" / "0").write_bytes(b"1")
    (tmp_path / "d.zarr" / "zarr.json").write_text("{}")
    assert provenance.written_since(before, [tmp_path]) == [tmp_path / "d.zarr"]
    whole = provenance.hash_path(tmp_path / "d.zarr")
    (tmp_path / "d.zarr" / "score" / "0").write_bytes(b"2")
    assert provenance.hash_path(tmp_path / "d.zarr") != whole


# --- parameters ---------------------------------------------------------------------------------------------

DECLARED = (
    "epochs: int = 3  # passes\nlearning_rate: float = 1e-3  # per step\nlabel: str = ''  # text\n"
    "quick: bool = False\ntfs: list = []  # names\nmodel: dict = {}  # sizes\n"
)


@pytest.fixture
def declared(tmp_path):
    write_notebook(tmp_path / "01_x.ipynb", DECLARED)
    return declared_parameters(tmp_path / "01_x.ipynb")


def test_declared_parameters(declared):
    assert {name: (p.type_name, p.default) for name, p in declared.items()} == {
        "epochs": ("int", 3),
        "learning_rate": ("float", 0.001),
        "label": ("str", ""),
        "quick": ("bool", False),
        "tfs": ("list", []),
        "model": ("dict", {}),
    }
    assert declared["epochs"].help == "passes"


@pytest.mark.parametrize(
    "line, message",
    [
        ("epochs = 3", "declared with type 'None'"),
        ("epochs: int = 2 * 3", "no plain value"),
        ("epochs: int = 'three'", "declared int, but its default"),
    ],
)
def test_a_bad_declaration_names_notebook_and_parameter(tmp_path, line, message):
    write_notebook(tmp_path / "01_x.ipynb", line)
    with pytest.raises(ChromaccError, match=f"01_x.ipynb.*'epochs'.*{message}"):
        declared_parameters(tmp_path / "01_x.ipynb")


@pytest.mark.parametrize(
    "text, value",
    [
        ("epochs=5", 5),
        ("learning_rate=1", 1.0),
        ("learning_rate=1e-4", 1e-4),
        ("label=no", "no"),
        ("label=12", "12"),
        ("label='12'", "12"),
        ("label=", ""),
        ("label=a=b", "a=b"),
        ("quick=true", True),
        ("tfs=[CTCF, GATA1]", ["CTCF", "GATA1"]),
        ("tfs=[]", []),
        ("model={gate: additive, kmer: 5}", {"gate": "additive", "kmer": 5}),
    ],
)
def test_overrides_take_the_declared_type(declared, text, value):
    (got,) = check_settings(parse_overrides([text]), declared).values()
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("epochs=2.5", "whole number"),
        ("epochs=true", "whole number"),
        ("epochs=", "whole number"),
        ("learning_rate=fast", "finite number"),
        ("learning_rate=.nan", "finite number"),
        ("learning_rate=inf", "finite"),
        ("quick=1", "true or false"),
        ("tfs=CTCF", r"a list, such as \[CTCF"),
        ("model=kmer", r"names with values, such as \{gate"),
        ("model={1: 2}", "names with values"),
    ],
)
def test_an_ill_typed_value_is_refused(declared, text, wanted, tried):
    with pytest.raises(ChromaccError, match=f"(?s)parameter '{text.split('=')[0]}' .*must be .*{wanted}") as caught:
        check_settings(parse_overrides([text]), declared)
    tried(f"--set {text}", str(caught.value).splitlines()[0])


def test_unknown_parameters_are_refused_with_the_nearest_names(declared, tried):
    with pytest.raises(ChromaccError) as caught:
        check_settings(parse_overrides(["epoch=3", "lerning_rate=1", "zzz=1"]), declared)
    message = str(caught.value)
    assert "unknown parameter 'epoch' (--set); did you mean 'epochs'?" in message
    assert "did you mean 'learning_rate'?" in message
    assert "unknown parameter 'zzz' (--set)\n" in message
    assert "known parameters: epochs, label, learning_rate, model, quick, tfs" in message
    tried("parameters that are misspelt", message)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["epochs"], "name=value"),
        (["=3"], "name=value"),
        (["n=1", "n=2"], "given twice"),
        (["n=[1"], "no YAML"),
    ],
)
def test_a_malformed_override_is_refused(overrides, message):
    with pytest.raises(ChromaccError, match=message):
        parse_overrides(overrides)


@pytest.mark.parametrize(
    "content, message",
    [
        ("n: 1\nn: 2\n", "'n' is set twice"),
        ("- n\n", "flat mapping"),
        ("n: [1\n", "not a readable YAML"),
        ("1: 2\n", "flat mapping"),
        ("!!python/object/apply:os.getcwd []\n", "not a readable YAML"),
    ],
)
def test_a_malformed_profile_is_refused_by_name(tmp_path, content, message, tried):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(ChromaccError, match=f"(?s)mine.yaml.*{message}") as caught:
        read_profile("mine", tmp_path)
    tried(f"a profile {content!r}", caught)


def test_a_profile_may_be_empty_have_a_byte_order_mark_or_be_a_path(tmp_path, tried):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    (tmp_path / "bom.yaml").write_text("\ufeffn: 3\r\n", encoding="utf-8")
    assert read_profile("empty", tmp_path) == ("empty", {})
    name, settings = read_profile(str(tmp_path / "bom.yaml"), tmp_path / "elsewhere")
    assert name == "bom" and settings["n"].value == 3
    tried("a profile with byte-order mark and CRLF", "read")


def test_an_unknown_profile_is_refused_with_the_nearest_name(tmp_path, tried):
    (tmp_path / "pilot.yaml").write_text("")
    with pytest.raises(ChromaccError, match="no profile 'pilto'. Did you mean 'pilot'") as caught:
        read_profile("pilto", tmp_path)
    tried("a profile that is not there", str(caught.value).split(" (in")[0])


def test_an_ill_typed_profile_stops_before_anything_runs(project):
    (project / "notebooks" / "profiles" / "bad.yaml").write_text("n: many\n")
    with pytest.raises(
        ChromaccError, match="parameter 'n' .profile bad.yaml. is 'many', but it must be a whole number"
    ):
        run("bad", root=project)
    assert not (project / "reports").exists()
