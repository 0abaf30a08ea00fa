"""What comes from outside runs no code and writes nowhere else: weights, manifests, archives, names, addresses."""

import ast
import json
import pickle
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import PARAMETERS, write_manifest
from test_fit import trained as train
from test_prediction import CELL, predict, rows_of
from test_prediction import trained as model_folder  # noqa: F401

from chromacc_lib import ChromaccError, cli, project_path
from chromacc_lib.exports import export
from chromacc_lib.folds import _Job, _plan
from chromacc_lib.hub import open_model_folder
from chromacc_lib.plots_style import Markup, table_html
from chromacc_lib.sources import download
from chromacc_lib.training import TrainingConfig

CLIMBING = "../../over <script>alert(1)</script>"


class Touches:
    """What, unpickled, writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def tree(folder: Path) -> set[Path]:
    """Return all that lies below a folder."""
    return set(folder.rglob("*"))


# --- nothing of a stranger's is unpickled -----------------------------------------------------------------------
def test_a_pickle_works_where_it_is_trusted(tmp_path):
    """So that the tests below would see one that is loaded."""
    pickle.loads(pickle.dumps(Touches(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb))], ids=["torch.save", "pickle"])
def test_weights_that_are_a_pickle_are_refused_and_not_run(model_folder, tmp_path, tried, how, request):  # noqa: F811
    folder = tmp_path / "model"
    folder.mkdir()
    for path in Path(model_folder.model_dir).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    how(Touches(tmp_path / "ran"), folder / "model.safetensors")
    with pytest.raises(ChromaccError, match="model.safetensors: no readable weights") as caught:
        open_model_folder(folder)
    assert not (tmp_path / "ran").exists()
    tried(f"a pickle in model.safetensors, by {request.node.callspec.id}", caught.value)


def test_a_locus_prior_of_pickled_objects_is_refused_and_not_run(model_folder, tmp_path, tried):  # noqa: F811
    folder = tmp_path / "model"
    folder.mkdir()
    for path in Path(model_folder.model_dir).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with np.load(folder / "locus_prior.npz") as file:
        content = {name: file[name] for name in file.files}
    np.savez(folder / "locus_prior.npz", **content | {"score": np.array([Touches(tmp_path / "ran")], dtype=object)})
    with pytest.raises(ChromaccError, match="no readable locus prior .Object arrays cannot be loaded") as caught:
        open_model_folder(folder)
    assert not (tmp_path / "ran").exists()
    tried("pickled objects in locus_prior.npz", caught)


def test_a_checkpoint_with_a_pickle_is_refused_and_not_run(curated, tmp_path, tried):
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save({"model": Touches(tmp_path / "ran")}, folder / "checkpoint.pt")
    with pytest.raises(ChromaccError, match="checkpoint.pt: this checkpoint cannot be read") as caught:
        train(curated[1], folder, [])
    assert not (tmp_path / "ran").exists()
    tried("a checkpoint.pt from a stranger, with a pickle", str(caught.value).partition(" (")[0] + str(caught.value).rpartition(")")[2])


def test_a_dataset_with_pickled_objects_is_not_run(tmp_path, tried):
    store = tmp_path / "dataset.zarr"
    xr.Dataset({"score": ("x", np.arange(3.0))}).to_zarr(store, zarr_format=2, consolidated=False)
    about = json.loads((store / "score" / ".zarray").read_text())
    about |= {"dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}], "compressor": None, "fill_value": None}
    (store / "score" / ".zarray").write_text(json.dumps(about))
    (store / "score" / "0").write_bytes(pickle.dumps(Touches(tmp_path / "ran")))
    with pytest.raises(ValueError, match="No Zarr data type found"):
        xr.open_zarr(store, consolidated=False).load()
    assert not (tmp_path / "ran").exists()
    tried("a dataset of pickled objects", "refused by zarr")


def sources() -> dict[str, ast.Module]:
    """Return the code of the library and of the notebooks."""
    found = {path.name: path.read_text() for path in project_path("chromacc_lib").glob("*.py")}
    for path in project_path("notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        lines = "\n".join(cell.source for cell in cells if cell.cell_type == "code").splitlines()
        found[path.name] = "\n".join("pass" if line.lstrip().startswith(("%", "!")) else line for line in lines)
    return {name: ast.parse(text) for name, text in found.items()}


UNSAFE_CALLS = {"eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "joblib.load", "yaml.unsafe_load", "yaml.full_load",
                "shutil.unpack_archive", "torch.hub.load", "__import__"}
UNSAFE_IMPORTS = {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal", "tarfile"}


def faults_of(module: ast.Module) -> list[str]:
    """Return what in a module could run or unpack what came from outside."""
    found = []
    for node in ast.walk(module):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else {node.module}
            found += sorted(names & UNSAFE_IMPORTS)
        if not isinstance(node, ast.Call):
            continue
        name, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        found += [name] if name in UNSAFE_CALLS or name.endswith(".extractall") else []
        found += ["shell=True"] if keywords.get("shell", "False") != "False" else []
        found += [name] if name == "torch.load" and keywords.get("weights_only") != "True" else []
        found += [name] if name == "np.load" and keywords.get("allow_pickle", "False") != "False" else []
        found += [name] if name == "yaml.load" and keywords.get("Loader") != "_UniqueKeys" else []
    return found


def test_no_code_runs_or_unpacks_what_comes_from_outside(tried):
    assert {name: found for name, module in sources().items() if (found := faults_of(module))} == {}
    planted = "import pickle, tarfile\nsubprocess.run(text, shell=True)\ntorch.load(path)\nnp.load(path, allow_pickle=True)\neval(text)\ntar.extractall()"
    assert sorted(faults_of(ast.parse(planted))) == ["eval", "np.load", "pickle", "shell=True", "tar.extractall", "tarfile", "torch.load"]
    tried("shell=True, eval, pickle, torch.load of more than weights, unpacking of archives", "in no module and no notebook")


# --- what is shown is text ----------------------------------------------------------------------------------------
def test_all_that_a_table_of_a_notebook_shows_is_text_but_what_is_meant_as_html(tried):
    hostile = "<script>alert(1)</script>"
    table = pd.DataFrame({hostile: [hostile, "b"], ("d", hostile): [1.5, 2.0]}, index=pd.Index([hostile, "x"], name=hostile))
    more = pd.DataFrame({"html": pd.Series([Markup("<br>• plain")], dtype=object)})
    styled = table.style.format({("d", hostile): "{:.1f} <i>"}).set_caption(hostile).concat(table.style)
    html = table_html(styled)
    assert "<script" not in html and "<i>" not in html and html.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 8
    assert "<script" in styled.to_html(), "pandas escapes nothing: the table is as it was"
    assert "<br>• plain" in table_html(more.style) and "&nbsp;" in table_html(table.style)
    tried("a cell, a heading, an index and a caption <script> in a notebook's table", "shown as text")


# --- nothing is written elsewhere ---------------------------------------------------------------------------------
def test_a_cell_type_whose_name_climbs_writes_inside_its_folder(model_folder, tmp_path, tried):  # noqa: F811
    rows = [row | {"cell_type": CLIMBING} for row in rows_of(model_folder, CELL)]
    (tmp_path / "a" / "b").mkdir(parents=True)
    made = predict(model_folder, rows, tmp_path / "a" / "b", out_dir=tmp_path / "a" / "b" / "out", regions="chrT1")
    assert {path.parent for path in tree(tmp_path) if path.is_file()} == {tmp_path / "a" / "b", tmp_path / "a" / "b" / "out"}
    assert made.summary["cell_type"] == CLIMBING
    tried(f"a prediction of the cell type {CLIMBING}", f"its files lie in the folder, named {made.bigwig.name}")


def test_an_export_of_a_cell_type_whose_name_climbs_writes_inside_its_folder(curated, tmp_path, tried):
    dataset = tmp_path / "in" / "dataset"
    shutil.copytree(curated[1], dataset)
    store = xr.open_zarr(dataset / "dataset.zarr").load()
    names = [CLIMBING, *store["cell_type"].values[1:]]
    shutil.rmtree(dataset / "dataset.zarr")
    store.assign_coords(cell_type=np.array(names, dtype=str)).to_zarr(dataset / "dataset.zarr", zarr_format=2)
    before = tree(tmp_path)
    export(dataset, "browser", tmp_path / "in" / "deep" / "out")
    new = {path for path in tree(tmp_path) - before if path.is_file()}
    assert new and all(path.parent == tmp_path / "in" / "deep" / "out" for path in new)
    (labels,) = [path.name for path in new if "over" in path.name and path.name.endswith(".labels.bed")]
    tried(f"an export of the cell type {CLIMBING}", f"its files lie in the folder, named {labels}")


@pytest.mark.parametrize("name, folder", [("..", None), ("../../x", "_.._x"), (".hidden", "hidden"), ("a/b", "a_b")])
def test_a_fold_of_a_cell_type_whose_name_climbs_has_its_folder_inside(project, tried, name, folder):
    table = pd.read_csv(project.manifest, sep="\t", dtype=str, keep_default_na=False)
    write_manifest(project.manifest, table.replace({"cell_type": {"A": name}}).to_dict("records"))
    common = _Job("", "", "", PARAMETERS, TrainingConfig(), {}, 0, False, "cpu", {}, {})
    plan = (project.manifest, project.genome_fasta, project.folder / "folds", (), replace(PARAMETERS, test_cell_types=(), validation_cell_types=()), common)
    if folder is None:
        with pytest.raises(ChromaccError, match="no letter or digit that could name its fold's folder") as caught:
            _plan(*plan)
        tried(f"a fold of the cell type {name}", caught)
        return
    assert Path(_plan(*plan)[name].folder) == (project.folder / "folds" / folder).absolute()
    tried(f"a fold of the cell type {name}", f"its folder is {folder}, inside")


def test_an_archive_writes_no_file(model_folder, tmp_path, tried):  # noqa: F811
    """An .npz is a zip: its members are read, by name, and never unpacked."""
    folder = tmp_path / "deep" / "model"
    folder.mkdir(parents=True)
    for path in Path(model_folder.model_dir).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with zipfile.ZipFile(folder / "locus_prior.npz", "a") as archive:
        archive.writestr("../../over.npy", b"x")
    before = tree(tmp_path)
    with pytest.raises(ChromaccError):
        open_model_folder(folder)
    assert tree(tmp_path) == before
    tried("a member ../../over.npy in locus_prior.npz", "refused; nothing is written")


# --- addresses -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://h/x.bw", "javascript://h/x", "data://x", "jar:file:///x!/y"])
def test_addresses_other_than_of_the_web_are_refused_everywhere(project, tmp_path, monkeypatch, capsys, url):
    monkeypatch.setenv("CHROMACC_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ChromaccError):
        download(url, tmp_path / "in")
    table = pd.read_csv(project.manifest, sep="\t", dtype=str, keep_default_na=False)
    for kind in ("histone", "accessibility_peaks"):
        changed = table.copy()
        changed.loc[changed.index[changed["kind"] == kind][0], "path_or_url"] = url
        write_manifest(project.manifest, changed.to_dict("records"))
        assert cli.main(["check", str(project.manifest), "--genome-fasta", str(project.genome_fasta)]) == 1
        said = capsys.readouterr().err
        assert "got an address of scheme" in said or "missing file" in said
    assert not list(tmp_path.rglob("*passwd*"))
