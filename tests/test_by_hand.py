"""The notebooks as a reader runs them: every cell, widgets too, from whatever folder Jupyter was started in."""

import nbformat
import pytest
from nbclient import NotebookClient
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from test_structure import NOTEBOOKS

from chromacc_lib import ChromaccError, project_path
from chromacc_lib.parameters import check_settings, declared_parameters, read_profile
from chromacc_lib.pipeline import _ThisInterpreter

PATHS = {name: project_path("notebooks") / f"{name}.ipynb" for name in NOTEBOOKS}
SMALLER = {"d_model": 64, "sequence_layers": 1, "encoder_layers": 2, "n_bootstrap": 20, "n_windows": 16, "knockout_windows": 40,
           "seen_windows": 40, "assay_windows": 12}  # fmt: skip


def settings(name, folder):
    """Values of a notebook's parameters, as of the smoke profile and a little smaller still, in folders of their own."""
    declared = declared_parameters(PATHS[name])
    every = {n: p for path in PATHS.values() for n, p in declared_parameters(path).items()}
    values = check_settings(read_profile("smoke", project_path("notebooks/profiles"))[1], every) | SMALLER
    values |= {"run_dir": str(folder / "run"), "dataset_dir": str(folder / "dataset"),
               "raw_dir": str(folder / "raw"), "zoo_dir": str(folder / "zoo")}  # fmt: skip
    return {n: value for n, value in values.items() if n in declared}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return tmp_path_factory.mktemp("places")


@pytest.mark.parametrize("name", NOTEBOOKS)  # in sequence: each reads what those before it wrote
def test_runs_from_top_to_bottom_from_another_folder(name, places, tmp_path):
    notebook = parameterize_notebook(load_notebook_node(str(PATHS[name])), settings(name, places))
    NotebookClient(notebook, timeout=600, startup_timeout=180, kernel_manager_class=_ThisInterpreter,
                   resources={"metadata": {"path": str(tmp_path)}}, skip_cells_with_tag="").execute()  # fmt: skip
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code), "every cell, widgets too"
    widgets = [cell for cell in code if "skip-execution" in cell.metadata.get("tags", [])]
    shown = [output.data for cell in widgets for output in cell.outputs if output.output_type in ("display_data", "execute_result")]
    assert len(shown) == len(widgets) and all("application/vnd.jupyter.widget-view+json" in data for data in shown)
    assert list(tmp_path.iterdir()) == [], "nothing is written to the working directory"


@pytest.mark.parametrize("name, first, there", [
    ("02_training", "01_data_curation", ""), ("03_evaluation", "01_data_curation", ""), ("03_evaluation", "02_training", "dataset"),
    ("04_collapse_diagnostics", "03_evaluation", "dataset"), ("05_interpretation", "04_collapse_diagnostics", "dataset"),
    ("06_prediction", "01_data_curation", ""), ("06_prediction", "03_evaluation", "dataset"),
])  # fmt: skip
def test_what_has_to_be_run_before_is_said(name, first, there, curated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = settings(name, tmp_path) | ({"dataset_dir": str(curated[1])} if there else {})
    cells = [cell for cell in nbformat.read(PATHS[name], as_version=4).cells if cell.cell_type == "code"]
    with pytest.raises(ChromaccError, match=f"run (the )?notebook {first}"):
        for cell in cells:
            if "skip-execution" not in cell.metadata.get("tags", []):
                exec(compile(cell.source, name, "exec"), names)
            if "parameters" in cell.metadata.get("tags", []):
                names |= settings(name, tmp_path) | ({"dataset_dir": str(curated[1])} if there else {})
