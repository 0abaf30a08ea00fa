"""Exports: every array comes back as it was, through readers of the formats' own."""

import json
import shutil
from dataclasses import fields

import numpy as np
import pandas as pd
import pyBigWig
import pytest
import torch
from safetensors import safe_open

from chromacc_lib import ChromaccError, cli, exports
from chromacc_lib.dataset import Arrays, load_arrays
from chromacc_lib.exports import (
    FIELDS, check_formats, export, export_browser, export_tensors, export_tfrecord, read_tensors, read_tfrecord)
from chromacc_lib.manifest import read_intervals
from chromacc_lib.windows import SPLITS

WINDOWS_FIRST = [name for name, field in FIELDS.items() if field.dims[0] == "window"]


@pytest.fixture(scope="module")
def arrays(curated):
    return load_arrays(curated[1])


def present(arrays, names):
    return [name for name in names if getattr(arrays, name) is not None]


def test_every_array_has_a_place_in_the_exports(arrays):
    values = {field.name: getattr(arrays, field.name) for field in fields(Arrays)}
    named = {name for name, value in values.items() if isinstance(value, np.ndarray)}
    assert named <= set(FIELDS) and {"truth", "score_replicate"} <= set(FIELDS)
    for name in present(arrays, FIELDS):
        assert getattr(arrays, name).ndim == len(FIELDS[name].dims), name


def test_some_windows_load_as_they_do_among_all(curated, arrays):
    some = load_arrays(curated[1], slice(5, 9))
    for name in present(arrays, WINDOWS_FIRST):
        np.testing.assert_array_equal(getattr(some, name), getattr(arrays, name)[5:9], err_msg=name)
    assert some.windows.equals(arrays.windows.iloc[5:9].reset_index(drop=True))


# --- tensors ------------------------------------------------------------------------------------------------
def test_tensors_come_back_ready_for_a_data_loader(curated, arrays, tmp_path):
    path = export_tensors(curated[1], tmp_path / "out")
    read = read_tensors(path)
    for name in present(arrays, FIELDS):
        value = (read.windows if name in read.windows else read.cell_types)[name]
        assert value.numpy().dtype == getattr(arrays, name).dtype
        np.testing.assert_array_equal(value.numpy(), getattr(arrays, name), err_msg=name)
    dataset = torch.utils.data.TensorDataset(*read.windows.values())
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=7)))
    assert len(dataset) == len(arrays.windows) and {len(part) for part in batch} == {7}
    for column in ("chrom", "kind", "split"):
        decoded = [read.names[column][code] for code in read.windows[column].tolist()]
        assert decoded == arrays.windows[column].tolist()
    assert read.windows["start"].tolist() == arrays.windows["start"].tolist()
    assert read.names["cell_type"] == arrays.cell_types["cell_type"].tolist()
    assert read.names["histone_mark"] == list(arrays.histone_marks) and read.names["tf"] == list(arrays.tfs)
    with safe_open(path, framework="np") as handle:
        units = json.loads(handle.metadata()["units"])
    assert set(read.windows) | set(read.cell_types) == set(units) | {"chrom", "kind", "split"}


# --- TFRecord -----------------------------------------------------------------------------------------------
def test_tfrecord_comes_back(curated, arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "CHUNK_WINDOWS", 7)  # many chunks, the last one short
    path = export_tfrecord(curated[1], tmp_path / "out")
    windows = list(read_tfrecord(path.parent))
    assert len(windows) == len(arrays.windows)
    for name in present(arrays, WINDOWS_FIRST):
        read = np.stack([window[name] for window in windows])
        assert read.dtype == getattr(arrays, name).dtype
        np.testing.assert_array_equal(read, getattr(arrays, name), err_msg=name)
    for name in ("chrom", "start", "end", "kind", "split"):
        assert [window[name] for window in windows] == arrays.windows[name].tolist()
    about = json.loads((path.parent / "feature_description.json").read_text())
    assert about["records"] == len(windows) and about["features"]["sequence"]["list"] == "bytes"
    for feature in about["features"].values():
        assert set(feature) == {"list", "dtype", "shape", "dims", "unit"} and feature["unit"]
    assert about["names"]["cell_type"] == arrays.cell_types["cell_type"].tolist()
    metadata = np.array(about["cell_types"]["metadata"]["values"], np.float32)
    np.testing.assert_array_equal(metadata, arrays.metadata)


def test_a_changed_record_or_a_foreign_description_is_refused(curated, tmp_path):
    path = export_tfrecord(curated[1], tmp_path / "out")
    description = path.with_name("feature_description.json")
    about = json.loads(description.read_text())
    about["features"]["more"] = about["features"]["score"]
    description.write_text(json.dumps(about))
    with pytest.raises(ChromaccError, match="record 1: no feature more.*of one export together"):
        next(read_tfrecord(path))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChromaccError, match="CRC-32C"):
        for _ in exports.read_records(path):
            pass
    description.unlink()
    with pytest.raises(ChromaccError, match="feature_description.json: no such file"):
        next(read_tfrecord(path))


# --- genome browser -----------------------------------------------------------------------------------------
def test_browser_tracks_come_back(curated, arrays, tmp_path):
    project, dataset = curated
    out = export_browser(dataset, tmp_path / "out")
    rows = pd.read_csv(out / "windows.bed", sep="\t", header=None, skiprows=1)
    assert (out / "windows.bed").read_text().startswith('track name="windows by split" itemRgb="On"\n')
    expected = arrays.windows.sort_values(["chrom", "start"])
    assert rows[[0, 1, 2]].to_numpy().tolist() == expected[["chrom", "start", "end"]].to_numpy().tolist()
    assert rows[3].tolist() == (expected["kind"] + "_" + expected["split"]).tolist() and rows.shape[1] == 9
    assert rows[8].tolist() == [exports.SPLIT_COLOURS[split] for split in expected["split"]]
    for i, cell in enumerate(project.cell_types):
        labels = pd.read_csv(out / f"{cell}.labels.bed", sep="\t", header=None, skiprows=1)
        known = arrays.label[expected.index, i] >= 0
        assert (labels[3] == "open").astype(int).tolist() == arrays.label[expected.index, i][known].tolist()
        with pyBigWig.open(str(out / f"{cell}.score.bw")) as handle:
            assert list(handle.chroms().items()) == sorted(project.sizes.items())
            for row in expected.itertuples():
                ((start, end, value),) = handle.intervals(row.chrom, row.start, row.end)
                assert (start, end, np.float32(value)) == (row.start, row.end, arrays.score[row.Index, i])
    table, problems = read_intervals(out / "A.labels.bed", project.sizes)
    assert len(table) == len(arrays.windows) and problems == []


def test_cell_types_that_would_share_a_file_are_refused():
    with pytest.raises(ChromaccError, match="'a b', 'a/b' would share the name of a file"):
        exports._stems(["a b", "c", "a/b"], lambda line: None)


# --- the folder ---------------------------------------------------------------------------------------------
def test_the_command_writes_a_whole_folder_again_and_again(curated, tmp_path, capsys):
    command = ["export", str(curated[1]), "--format", "tfrecord", "--out", str(tmp_path / "out")]
    assert cli.main(command) == 0 and cli.main(command) == 0
    assert f"written to {tmp_path / 'out'}" in capsys.readouterr().out
    about = json.loads((tmp_path / "out/export.json").read_text())
    assert about["files"] == ["feature_description.json", "windows.tfrecord"] and about["format"] == "tfrecord"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_no_export_is_left_alone(curated, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ChromaccError, match="no export.*not replaced"):
        export(curated[1], "tensors", tmp_path)
    with pytest.raises(ChromaccError, match="no export"):
        export(curated[1], "tensors", curated[1])
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_export_that_fails_leaves_nothing_and_the_earlier_one_stands(curated, tmp_path, monkeypatch):
    out = export(curated[1], "tensors", tmp_path / "out")
    before = (out / "export.json").read_text()
    monkeypatch.setattr(exports, "save_file", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        export(curated[1], "tensors", out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (out / "export.json").read_text() == before


def test_unknown_formats_and_missing_files_are_refused(curated, tmp_path):
    with pytest.raises(ChromaccError, match="'pt', 'csv', needed any of tensors, tfrecord, browser"):
        check_formats(["pt", "tensors", "csv"])
    with pytest.raises(ChromaccError, match="no dataset there"):
        export(tmp_path / "nothing", "tensors", tmp_path / "out")
    with pytest.raises(ChromaccError, match="no such file; write it with `chromacc export`"):
        read_tensors(tmp_path)
    moved = shutil.copytree(curated[1], tmp_path / "dataset")
    store = exports.open_dataset(moved).load()
    store.attrs["genome_fasta"] = str(tmp_path / "gone.fa")
    shutil.rmtree(moved / "dataset.zarr")
    store.to_zarr(moved / "dataset.zarr", zarr_format=2, consolidated=True)
    with pytest.raises(ChromaccError, match="gone.fa: missing file"):
        export_browser(moved, tmp_path / "out")


def test_split_colours_name_every_split():
    assert set(exports.SPLIT_COLOURS) == set(SPLITS)
