"""The table of faults in tests/README.md is what the tests recorded."""

import os
import subprocess
import sys

import pytest
from tried import END, HEAD, in_one_line, place, read_rows, records_of

from chromacc_lib import project_path

MODULE = '"""Faults."""\n\n\ndef test_a(tried):\n    tried("a full disk", "{outcome}")\n'


def test_every_row_has_its_test_and_every_test_that_records_has_a_row(pytestconfig):
    rows, tests = read_rows(place(pytestconfig)), records_of(project_path("tests"))
    assert len(rows) > 30
    assert set(rows) == {test for test, records in tests.items() if records}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\ntestpaths = ["tests"]\n')
    (tmp_path / "tests" / "README.md").write_text(f"# Mine\n\n{HEAD}{END}The end.\n")
    (tmp_path / "tests" / "test_x.py").write_text(MODULE.format(outcome="one message"))
    return tmp_path


def test_the_file_is_written_and_what_differs_from_it_fails(folder):
    def run(*more):
        command = [sys.executable, "-m", "pytest", "-p", "tried", "-p", "no:cacheprovider", "-q", *more]
        environment = {"PYTHONPATH": str(project_path("tests"))}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)

    readme, module = folder / "tests" / "README.md", folder / "tests" / "test_x.py"
    assert "not in tests/README.md" in run().stdout
    assert run("--write-faults").returncode == 0
    assert "### `test_x.py`\n\nFaults.\n" in readme.read_text() and readme.read_text().endswith(f"{END}The end.\n")
    assert "| a full disk | one message | `test_a` |" in readme.read_text() and run().returncode == 0
    module.write_text(MODULE.format(outcome="a traceback"))
    assert run().returncode == 1
    module.write_text(MODULE.format(outcome="one message"))
    readme.write_text(readme.read_text().replace("| a full disk", "| a meteorite | nothing | `test_a` |\n| a full disk"))
    whole = run()
    assert whole.returncode == 1 and "1 row(s) that no test recorded" in whole.stdout


def test_what_differs_from_run_to_run_is_left_out():
    assert in_one_line("/tmp/pytest-1/x/tiny/A/CTCF.bw: missing\n  (see http://127.0.0.1:4711/a/b.bw)") == (
        "CTCF.bw: missing; (see http://server/a/b.bw)")
    assert in_one_line("got <b>|" + "0" * 32) == "got &lt;b>\\|(digest)" and len(in_one_line("abc" * 400)) == 240


def test_on_ci_a_skipped_test_fails_unless_it_needs_a_gpu_or_data_that_no_checkout_has(tmp_path):
    (tmp_path / "test_x.py").write_text(
        "import pytest\n\n\n@pytest.mark.skip(reason='no time')\ndef test_a():\n    pass\n\n\n"
        "@pytest.mark.skip(reason='no GPU here')\ndef test_b():\n    pass\n\n\ndef test_c(real_folder):\n    pass\n")
    environment = os.environ | {"PYTHONPATH": f"{project_path('tests')}:{project_path('')}", "CHROMACC_REAL": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "-q", "-rsf", str(tmp_path)]
    for no_skips, counts in (("", "3 skipped"), ("1", "1 skipped, 1 deselected, 1 error")):
        said = subprocess.run(command, cwd=tmp_path, env=environment | {"CHROMACC_NO_SKIPS": no_skips}, capture_output=True,
                              text=True, timeout=120).stdout  # fmt: skip
        assert counts in said and ("no time" in said), said
