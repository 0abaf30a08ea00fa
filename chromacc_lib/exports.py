"""Exports of a dataset, for other tools: PyTorch tensors, TFRecord, and tracks of a genome browser.

Each export is a folder that appears when it is whole, with export.json beside the files. All coordinates are
0-based half-open, in bp.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import pyBigWig
from safetensors import safe_open
from safetensors.numpy import save_file

from chromacc_lib import ChromaccError, __version__, project_path
from chromacc_lib.bigwig import require_written
from chromacc_lib.dataset import Arrays, load_arrays, open_dataset, replace_folder
from chromacc_lib.genome import genome_sizes
from chromacc_lib.regions import CHUNK_WINDOWS
from chromacc_lib.signals import STATISTICS
from chromacc_lib.tfrecord import decode_example, encode_example, read_records, write_record
from chromacc_lib.windows import SPLITS
from chromacc_lib.writers import file_stem

if TYPE_CHECKING:
    import torch

__all__ = [
    "FIELDS", "FORMATS", "Field", "Tensors", "check_formats", "export", "export_browser", "export_tensors",
    "export_tfrecord", "read_tensors", "read_tfrecord",
]

TENSORS, RECORDS, DESCRIPTION = "dataset.safetensors", "windows.tfrecord", "feature_description.json"
KINDS = ("peak", "background")


class Field(NamedTuple):
    """One array: its dimensions, by name, and its unit."""

    dims: tuple[str, ...]
    unit: str


_FOLD = "arcsinh of the fold over the file's genome-wide mean"
_Z = "z over training cell types x training chromosomes; 0 = missing"
# The arrays of `Arrays` that are exported, and its locus priors: leave-one-out for training cell types.
FIELDS: dict[str, Field] = {
    "sequence": Field(("window", "position"), "0..3 = ACGT, 4 = N"),
    "histone": Field(("window", "cell_type", "histone_mark", "bin", "statistic"), _Z),
    "histone_observed": Field(("window", "cell_type", "histone_mark"), "1 = measured"),
    "tf": Field(("window", "cell_type", "tf", "bin", "statistic"), _Z),
    "tf_observed": Field(("window", "cell_type", "tf"), "1 = measured"),
    "accessibility": Field(("window", "cell_type", "bin"), f"{_FOLD}; NaN = unknown"),
    "score": Field(("window", "cell_type"), f"{_FOLD}; NaN = unknown"),
    "label": Field(("window", "cell_type"), "1 = open, 0 = closed, -1 = unknown"),
    "truth": Field(("window", "cell_type"), f"noise-free score (simulations): {_FOLD}"),
    "score_replicate": Field(("window", "cell_type", "replicate"), f"{_FOLD}; NaN = unknown"),
    "prior_profile": Field(("window", "cell_type", "bin", "moment"),
                           "mean and sd of accessibility over the (other) training cell types, and by how much those of "
                           "like metadata depart from that mean"),
    "prior_score": Field(("window", "cell_type"), "mean score of the (other) training cell types; 0 = unknown"),
    "prior_observed": Field(("window", "cell_type"), "1 = the priors are known"),
    "metadata": Field(("cell_type", "feature"), "z of log2(TPM + 1) over training cell types; 0 = missing"),
    "metadata_observed": Field(("cell_type",), "1 = measured"),
}
WINDOW_UNITS = {"start": "bp, 0-based", "end": "bp, not included", "gc": "fraction of the known bases"}
SPLIT_COLOURS = {"train": "0,114,178", "validation": "230,159,0", "test": "213,94,0"}
LABEL_COLOURS = {1: "0,0,0", 0: "187,187,187"}


# --- the folder ---------------------------------------------------------------------------------------------
def check_formats(formats: Sequence[str]) -> None:
    """Raise ChromaccError for a name that is no format of export."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ChromaccError(f"exports: got {', '.join(map(repr, unknown))}, needed any of {', '.join(FORMATS)}")


def export(dataset_dir: str | Path, kind: str, out: str | Path) -> Path:
    """Export a dataset as "tensors", "tfrecord" or "browser" into the folder `out`, and return that folder.

    Raises ChromaccError for an unknown kind, no dataset, or a folder that holds something else.
    """
    check_formats([kind])
    FORMATS[kind](dataset_dir, out)
    return project_path(out)


@contextmanager
def _whole_folder(dataset_dir: str | Path, kind: str, out: str | Path) -> Iterator[Path]:
    """Give a partial folder to write to; it takes the place of `out` when all is written, else it goes."""
    out, dataset = project_path(out), open_dataset(dataset_dir)
    if out.exists() and not (out / "export.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise ChromaccError(f"{out}: there already, and no export (it has no export.json); it is not replaced. "
                            "Give another folder")
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        written = sorted(path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file())
        about = {"format": kind, "dataset": str(dataset.attrs["dataset_id"]), "chromacc": __version__,
                 "simulated": bool(dataset.attrs["simulated"]), "assembly": str(dataset.attrs["assembly"]),
                 "windows": dataset.sizes["window"], "files": written}
        _write_json(partial / "export.json", about)
    except BaseException:
        shutil.rmtree(partial)
        raise
    replace_folder(partial, out)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def _names(arrays: Arrays) -> dict[str, list[str]]:
    """Return the names along each dimension that has some, and of what is coded by number."""
    return {
        "cell_type": arrays.cell_types["cell_type"].tolist(), "histone_mark": list(arrays.histone_marks),
        "tf": list(arrays.tfs), "feature": list(arrays.features), "statistic": list(STATISTICS),
        "moment": ["mean", "sd", "departure"], "kind": list(KINDS), "split": list(SPLITS),
        "cell_type_split": arrays.cell_types["split"].tolist(),
        "lineage": arrays.cell_types["lineage"].tolist(), "donor": arrays.cell_types["donor"].tolist(),
    }


def _fields(arrays: Arrays) -> dict[str, np.ndarray]:
    """Return {name: array} of all that this dataset has."""
    values = {name: getattr(arrays, name) for name in FIELDS}
    return {name: value for name, value in values.items() if value is not None}


# --- tensors ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Tensors:
    """What `read_tensors` found. windows: {name: tensor, windows first}; cell_types: {name: tensor, cell types
    first}; names: {dimension: its names, in order}, also of what is coded by number: chrom, kind, split.
    """

    windows: dict[str, "torch.Tensor"]
    cell_types: dict[str, "torch.Tensor"]
    names: dict[str, list[str]]


def export_tensors(dataset_dir: str | Path, out: str | Path) -> Path:
    """Write a dataset's arrays, scaled as the model reads them, to `out`/dataset.safetensors; return its path.

    The arrays of `FIELDS`, and start, end, gc, chrom, kind and split of the windows, the last three as numbers
    of the lists in `names`. The file's metadata hold `names`, `dims`, `units` (JSON) and `simulated`.
    """
    with _whole_folder(dataset_dir, "tensors", out) as folder:
        arrays = load_arrays(dataset_dir)
        names, windows = _names(arrays), arrays.windows
        number, chroms = pd.factorize(windows["chrom"])
        coded = {"chrom": (number, chroms), "kind": (pd.Categorical(windows["kind"], KINDS).codes, KINDS),
                 "split": (pd.Categorical(windows["split"], SPLITS).codes, SPLITS)}
        places = {name: windows[name].to_numpy() for name in WINDOW_UNITS}
        places |= {name: numbers.astype(np.int64) for name, (numbers, _) in coded.items()}
        tensors = {name: np.ascontiguousarray(value) for name, value in (_fields(arrays) | places).items()}
        dims = {name: FIELDS[name].dims if name in FIELDS else ("window",) for name in tensors}
        units = {name: field.unit for name, field in FIELDS.items() if name in tensors} | WINDOW_UNITS
        names |= {name: list(listed) for name, (_, listed) in coded.items()}
        about = {"names": names, "dims": dims, "units": units, "simulated": arrays.simulated}
        save_file(tensors, folder / TENSORS, {name: json.dumps(value) for name, value in about.items()})
    return project_path(out) / TENSORS


def read_tensors(path: str | Path) -> Tensors:
    """Read what `export_tensors` wrote. path: the folder or the file.

        dataset = torch.utils.data.TensorDataset(*read_tensors(path).windows.values())

    Raises ChromaccError where it is not there.
    """
    path = _written(path, TENSORS)
    with safe_open(path, framework="pt") as handle:
        about = {name: json.loads(handle.metadata()[name]) for name in ("names", "dims")}
        tensors = {name: handle.get_tensor(name) for name in about["dims"]}
    by_first = {first: {name: value for name, value in tensors.items() if about["dims"][name][0] == first}
                for first in ("window", "cell_type")}
    return Tensors(by_first["window"], by_first["cell_type"], about["names"])


def _written(path: str | Path, name: str) -> Path:
    path = project_path(path)
    path = path / name if path.is_dir() else path
    if not path.is_file():
        raise ChromaccError(f"{path}: no such file; write it with `chromacc export`, or correct the path")
    return path


# --- TFRecord -----------------------------------------------------------------------------------------------
def export_tfrecord(dataset_dir: str | Path, out: str | Path) -> Path:
    """Write one tf.train.Example a window to `out`/windows.tfrecord, some hundred windows at a time; return its
    path.

    feature_description.json beside it has each feature's list (float, int64 or bytes), dtype, shape, dims and
    unit, the names along the dims, and what belongs to cell types instead of windows. Sequence is one value of
    raw bytes, uint8. Arrays without an element (a dataset without TFs, say) have no feature.
    """
    n_windows = open_dataset(dataset_dir).sizes["window"]
    with _whole_folder(dataset_dir, "tfrecord", out) as folder:
        with open(folder / RECORDS, "wb") as handle:
            for first in range(0, n_windows, CHUNK_WINDOWS):
                arrays = load_arrays(dataset_dir, slice(first, first + CHUNK_WINDOWS))
                features = _window_features(arrays)
                for i in range(len(arrays.windows)):
                    write_record(handle, encode_example({name: _value(f, i) for name, f in features.items()}))
        _write_json(folder / DESCRIPTION, _description(arrays, features, n_windows))
    return project_path(out) / RECORDS


def _window_features(arrays: Arrays) -> dict[str, np.ndarray]:
    """Return {name: array, windows first} of all that has an element."""
    fields = {name: value for name, value in _fields(arrays).items() if FIELDS[name].dims[0] == "window"}
    places = {name: arrays.windows[name].to_numpy() for name in ("chrom", *WINDOW_UNITS, "kind", "split")}
    return {name: value for name, value in (fields | places).items() if value.size}


def _value(values: np.ndarray, window: int) -> bytes | np.ndarray:
    """Return one window's feature: text and uint8 as bytes, numbers as an array."""
    value = values[window]
    if isinstance(value, str):
        return value.encode()
    return value.tobytes() if values.dtype == np.uint8 else np.asarray(value)


def _description(arrays: Arrays, features: Mapping[str, np.ndarray], n_windows: int) -> dict:
    described = {}
    for name, values in features.items():
        is_text = isinstance(values[0], str)
        dims, unit = FIELDS.get(name, Field(("window",), WINDOW_UNITS.get(name, "name")))
        number = "float" if values.dtype.kind == "f" else "int64"
        kind = "bytes" if is_text or values.dtype == np.uint8 else number
        described[name] = {"list": kind, "dtype": "text" if is_text else values.dtype.name,
                           "shape": list(values.shape[1:]), "dims": list(dims[1:]), "unit": unit}
    cell_types = {name: {"unit": FIELDS[name].unit, "values": value.tolist()}
                  for name, value in _fields(arrays).items() if FIELDS[name].dims[0] == "cell_type"}
    return {"format": "TFRecord, one tf.train.Example a window", "file": RECORDS, "records": n_windows,
            "simulated": arrays.simulated, "features": described, "names": _names(arrays),
            "cell_types": cell_types}


def read_tfrecord(path: str | Path) -> Iterator[dict[str, np.ndarray | str]]:
    """Yield one window after another of what `export_tfrecord` wrote: {name: array in its dtype and shape, or
    text}.

    path: the folder or the file, feature_description.json beside it. Raises ChromaccError where a file is not
    there, a record is cut or changed (each is checked by its CRC-32C), or lacks a feature.
    """
    path = _written(path, RECORDS)
    described = json.loads(_written(path.with_name(DESCRIPTION), DESCRIPTION).read_text())["features"]
    for number, record in enumerate(read_records(path), start=1):
        features = decode_example(record)
        missing = [name for name in described if name not in features]
        if missing:
            raise ChromaccError(f"{path}, record {number}: no feature {', '.join(missing)}, which "
                                f"{DESCRIPTION} describes; keep the two files of one export together")
        yield {name: _restored(features[name], about) for name, about in described.items()}


def _restored(value: bytes | np.ndarray, about: Mapping) -> np.ndarray | str:
    if about["dtype"] == "text":
        return value.decode()
    flat = np.frombuffer(value, dtype=np.uint8) if isinstance(value, bytes) else value
    return flat.astype(about["dtype"]).reshape(about["shape"])


# --- genome browser -----------------------------------------------------------------------------------------
def export_browser(dataset_dir: str | Path, out: str | Path, say: Callable[[str], None] = print) -> Path:
    """Write windows.bed, and for each cell type its labels (.labels.bed) and score (.score.bw); return `out`.

    BED9 with colours: windows by split, labels black where open, grey where closed; unknown ones are left out.
    The bigWig's unit is that of `score`. Everything is sorted by chromosome name, then start, as genome
    browsers want it; chromosome sizes are those of the dataset's genome. Raises ChromaccError where the genome
    is not there any more.
    """
    dataset = open_dataset(dataset_dir)
    sizes = dict(sorted(genome_sizes(dataset.attrs["genome_fasta"]).items()))
    windows = pd.DataFrame({name: dataset[name].values for name in ("chrom", "start", "end", "kind")})
    windows["split"] = dataset["window_split"].values
    order = np.lexsort((windows["start"], windows["chrom"].to_numpy(dtype=str)))
    windows = windows.iloc[order]
    label, score = dataset["label"].values[order], dataset["score"].values[order]
    cells = dataset["cell_type"].values.tolist()
    stems = _stems(cells, say)
    with _whole_folder(dataset_dir, "browser", out) as folder:
        names, colours = windows["kind"] + "_" + windows["split"], windows["split"].map(SPLIT_COLOURS)
        _write_bed(folder / "windows.bed", "windows by split", windows, names, 0, colours)
        for i, (cell, stem) in enumerate(zip(cells, stems)):
            known = label[:, i] >= 0
            state = pd.Series(label[known, i].astype(int), index=windows.index[known])
            _write_bed(folder / f"{stem}.labels.bed", f"{cell}: label", windows[known],
                       state.map({1: "open", 0: "closed"}), state * 1000, state.map(LABEL_COLOURS))
            known = np.isfinite(score[:, i])
            if known.any():
                _write_bigwig(folder / f"{stem}.score.bw", sizes, windows[known], score[known, i])
            else:
                say(f"{cell}: no bigWig, because its score is unknown in all {len(windows):,} windows")
    return project_path(out)


def _stems(cells: Sequence[str], say: Callable[[str], None]) -> list[str]:
    stems = [file_stem(cell, say) for cell in cells]
    same = sorted({cell for cell, stem in zip(cells, stems) if stems.count(stem) > 1})
    if same:
        raise ChromaccError(f"cell types {', '.join(map(repr, same))} would share the name of a file; rename "
                            "one in the manifest")
    return stems


def _write_bed(path: Path, track: str, windows: pd.DataFrame, name: pd.Series, score: pd.Series | int,
               colour: pd.Series) -> None:
    """Write BED9 under a track line that turns the colours on."""
    bed = pd.DataFrame({
        "chrom": windows["chrom"], "start": windows["start"], "end": windows["end"], "name": name,
        "score": score, "strand": ".", "thick_start": windows["start"], "thick_end": windows["end"],
        "colour": colour})
    title = track.replace('"', "'")
    with open(path, "w", encoding="utf-8") as handle:
        handle.write(f'track name="{title}" itemRgb="On"\n')
        bed.to_csv(handle, sep="\t", header=False, index=False)


def _write_bigwig(path: Path, sizes: Mapping[str, int], windows: pd.DataFrame, score: np.ndarray) -> None:
    """Write one value a window. windows: sorted as `sizes`, not overlapping."""
    with pyBigWig.open(str(path), "w") as handle:
        handle.addHeader(list(sizes.items()))
        handle.addEntries(windows["chrom"].tolist(), windows["start"].tolist(), ends=windows["end"].tolist(),
                          values=score.astype(float).tolist())
    require_written(path)


FORMATS: dict[str, Callable[[str | Path, str | Path], Path]] = {
    "tensors": export_tensors, "tfrecord": export_tfrecord, "browser": export_browser}
