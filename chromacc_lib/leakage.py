"""Audit a dataset for leaks, from its files: does anything that is held out stand on the training side, too?

Identity (cell types, donors, biosamples, files), windows (chromosomes, overlaps, copies of a sequence), and what was
fitted (constants, tracks, peaks). Whether an input is the label itself, or two tracks one file, is asked by the
collapse diagnostics ("label leak", "duplicated tracks"), and not here again.

Copies of a sequence are found by MinHash (Broder 1997) over canonical k-mers, as in Mash (Ondov et al. 2016, Genome
Biol. 17:132): one permutation in `BINS` bins (Li, Owen & Zhang 2012), and banding, so that no more pairs are compared
than share a band.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
import pandas as pd
import xarray as xr

from chromacc_lib import ChromaccError, project_path
from chromacc_lib.dataset import open_dataset, read_normalization, window_table
from chromacc_lib.genome import N_CODE, genome_aliases
from chromacc_lib.manifest import UNKNOWN_LINEAGE
from chromacc_lib.normalization import BLOCK_WINDOWS, file_constants, normalise_tracks, track_constants
from chromacc_lib.sources import file_md5
from chromacc_lib.windows import SPLITS, read_peaks

__all__ = ["BOUND", "Copies", "audit", "find_copies", "require_no_leaks", "sketch"]

K = 21            # bp of a k-mer: longer than chance repeats in a mammalian genome; odd: none is its own reverse
BITS = 7
BINS = 1 << BITS  # values of a sketch: a Jaccard index of 0.25 is estimated with a standard error of 0.04
BAND = 2          # values that a pair must share in a row to be compared: compared at 0.25 with 98%, at 0.05 with 15%
BOUND = 0.25      # Jaccard index of the k-mers: 40% of them shared, as with a copy of which 4.4% of the bases changed
MOST = 64         # training windows that one held-out window is compared with in a band: repeats fill bands
PAIRS = 50_000    # compared at once: some 50 MB
FAIL_SHARE = 0.01  # of the held-out windows: more copies than a genome's own repeats should leave
TOLERANCE = 1e-4  # in sd: float32 against float64; one cell type more or less moves a constant by a hundred times that
SHOWN = 3         # offenders that a sentence names
_EMPTY = np.uint32(0xFFFFFFFF)
_HELD_OUT = ("validation", "test")
_KINDS = {"histone": "histone_mark", "tf": "tf_name"}


class _Check(NamedTuple):
    """One row of the table of `audit`."""

    check: str
    verdict: str   # pass, warn, fail or not known
    value: float   # NaN = not known
    compared: str
    evidence: str


# --- the audit ----------------------------------------------------------------------------------------------
def audit(dataset_dir: str | Path) -> pd.DataFrame:
    """Return one row a check: check, verdict ("pass", "warn", "fail" or "not known"), value, compared, evidence.

    dataset_dir: folder of a curated dataset; manifest.lock.tsv, and the peak files that it names, may be gone: what
    needs them is then "not known". value: how many offenders, or their share where `compared` says so. Every window's
    tracks are read once, in blocks. Raises ChromaccError where dataset.zarr or normalization.json is missing.
    """
    folder = project_path(dataset_dir)
    dataset, normalization = open_dataset(folder), read_normalization(folder)
    summary, lock = _read_summary(folder / "curation.json"), _read_lock(folder / "manifest.lock.tsv")
    windows = window_table(dataset)
    names = {"cell_type": "cell_type", "split": "cell_type_split", "lineage": "lineage", "donor": "donor"}
    cells = pd.DataFrame({new: dataset[old].values for new, old in names.items()})
    checks = [
        _check_spelling(cells), _check_donors(cells), _check_biosamples(cells, lock), _check_files(cells, lock),
        _check_lineages(cells), _check_chromosomes(windows), *_check_overlaps(windows),
        *_check_copies(dataset, windows), _check_record(cells, windows, normalization, summary),
        _check_tracks(dataset, windows), _check_track_constants(dataset, normalization),
        _check_file_constants(dataset, normalization), _check_metadata(dataset, normalization),
        _check_peak_labels(dataset, windows), _check_peak_places(cells, windows, lock, summary),
    ]
    return pd.DataFrame(checks)


def _read_summary(path: Path) -> dict:
    return json.loads(path.read_text()) if path.is_file() else {}


def _read_lock(path: Path) -> pd.DataFrame | None:
    """Return the lock's rows of cell types as text, None where there is no lock."""
    if not path.is_file():
        return None
    lock = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    return lock[lock["cell_type"] != ""]


def _judge(name: str, compared: str, leaks: list[str], milder: Sequence[str] = (), unknown: str = "", fine: str = ""
           ) -> _Check:
    """Return a check of things that should not be there: leaks fail, milder ones warn, what is unknown is said."""
    found = [*leaks, *milder]
    if found:
        return _Check(name, "fail" if leaks else "warn", len(found), compared, _listed(found))
    if unknown:
        return _Check(name, "not known", np.nan, compared, unknown)
    return _Check(name, "pass", 0, compared, fine)


def _listed(found: list[str]) -> str:
    return "; ".join(found[:SHOWN]) + (f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else "") + "."


# --- who is who ---------------------------------------------------------------------------------------------
def _plain_name(text: str) -> str:
    """Return a name without case, spaces and punctuation; a plus stays, since CD4+ is not CD4-."""
    return re.sub(r"[^\w+]|_", "", unicodedata.normalize("NFKC", text).casefold())


def _plain_names(text: str) -> set[str]:
    """Return the names of a field that may hold several, parted by commas or semicolons."""
    return {_plain_name(part) for part in re.split("[,;]", text)} - {""}


def _both_sides(cells: pd.DataFrame, keys: Mapping[str, Iterable[str]]) -> tuple[list[str], list[str]]:
    """Return in words what is shared by training and held-out cell types, and what by validation and test alone.

    keys: {cell type: what it has}.
    """
    holders: dict[str, dict[str, list[str]]] = {}
    for name, split in zip(cells["cell_type"], cells["split"]):
        for key in keys.get(name, ()):
            holders.setdefault(key, {}).setdefault(split, []).append(name)
    leaks, milder = [], []
    for key, by_split in holders.items():
        if len(by_split) > 1:
            text = " and ".join(f"{', '.join(by_split[split])} ({split})" for split in SPLITS if split in by_split)
            (leaks if "train" in by_split else milder).append(f"{text}: {key}")
    return leaks, milder


def _check_spelling(cells: pd.DataFrame) -> _Check:
    keys = {name: [_plain_name(name)] for name in cells["cell_type"]}
    return _judge("cell type under another name", "names without case, spaces and punctuation, between the splits",
                  *_both_sides(cells, keys), fine=f"{len(cells)} cell types have {len(cells)} different names.")


def _check_donors(cells: pd.DataFrame) -> _Check:
    donors = {name: _plain_names(donor) for name, donor in zip(cells["cell_type"], cells["donor"])}
    without = [name for name, own in donors.items() if not own]
    unknown = f"{len(without)} of {len(cells)} cell types have no donor: {_listed(without)}" if without else ""
    n_donors = len(set().union(*donors.values()))
    return _judge("donor", "column donor, between the splits", *_both_sides(cells, donors), unknown,
                  f"{n_donors} donors of {len(cells)} cell types; none is in two splits.")


def _check_biosamples(cells: pd.DataFrame, lock: pd.DataFrame | None) -> _Check:
    """One biosample on both sides is the same cell type; it is another individual's only where the donors differ."""
    name, compared = "biosample", "column biosample of manifest.lock.tsv, with the donor, between the splits"
    if lock is None:
        return _judge(name, compared, [], unknown="There is no manifest.lock.tsv.")
    biosamples = {cell: set(rows["biosample"].map(_plain_name)) - {""} for cell, rows in lock.groupby("cell_type")}
    donors = {cell: set().union(*rows["donor"].map(_plain_names)) for cell, rows in lock.groupby("cell_type")}
    leaks, milder = [], []
    ordered = cells.iloc[np.argsort(cells["split"].map(SPLITS.index), kind="stable")]
    pairs = list(zip(ordered["cell_type"], ordered["split"]))
    for i, (one, split) in enumerate(pairs):
        for other, other_split in pairs[i + 1:]:
            shared = biosamples.get(one, set()) & biosamples.get(other, set())
            if split == other_split or not shared:
                continue
            mine, theirs = donors.get(one), donors.get(other)
            apart = bool(mine) and bool(theirs) and not mine & theirs
            text = f"{one} ({split}) and {other} ({other_split}): {', '.join(sorted(shared))}, " + (
                "of different donors" if apart else "of a donor in common" if mine and theirs else "of unknown donors")
            (leaks if split == "train" and not apart else milder).append(text)
    without = [cell for cell in cells["cell_type"] if not biosamples.get(cell)]
    unknown = f"{len(without)} of {len(cells)} cell types have no biosample: {_listed(without)}" if without else ""
    return _judge(name, compared, leaks, milder, unknown, "Every biosample is in one split only.")


def _check_files(cells: pd.DataFrame, lock: pd.DataFrame | None) -> _Check:
    """Is one file, by content, accession or address, given to cell types of two splits?"""
    name, compared = "file", "md5, accession and address in manifest.lock.tsv, between the splits"
    if lock is None:
        return _judge(name, compared, [], unknown="There is no manifest.lock.tsv.")
    keys: dict[str, set[str]] = {}
    split, rest = cells.set_index("cell_type")["split"], lock
    for column in ("path_or_url", "url", "accession", "md5"):
        if column not in lock:
            continue
        for value, rows in rest[rest[column] != ""].groupby(column):
            if rows["cell_type"].map(split).nunique() > 1:
                rest = rest.drop(rows.index)  # told once, by its plainest name
                targets = ", ".join(dict.fromkeys(rows["target"]))
                for cell in rows["cell_type"]:
                    keys.setdefault(cell, set()).add(f"{targets}, {column} {value}")
    hashed = int((lock["md5"] != "").sum())
    return _judge(name, compared, *_both_sides(cells, keys),
                  fine=f"{len(lock)} files, {hashed} of them with an md5; none is used in two splits.")


def _check_lineages(cells: pd.DataFrame) -> _Check:
    """Not a leak: how near the held-out cell types are to the training ones."""
    known = cells[cells["lineage"] != UNKNOWN_LINEAGE]
    seen = set(known.loc[known["split"] == "train", "lineage"])
    held = known[known["split"] != "train"]
    near = held.loc[held["lineage"].isin(seen), "cell_type"].tolist()
    compared = "information, no leak: held-out cell types whose lineage some training cell type has"
    text = f"{len(near)} of {len(held)} held-out cell types of known lineage" + (f": {_listed(near)}" if near else ".")
    return _Check("lineage", "pass" if len(held) else "not known", len(near) if len(held) else np.nan, compared, text)


# --- windows ------------------------------------------------------------------------------------------------
def _check_chromosomes(windows: pd.DataFrame) -> _Check:
    splits = windows.groupby("chrom", sort=False)["split"].unique()
    found = [f"{chrom} ({', '.join(here)})" for chrom, here in splits.items() if len(here) > 1]
    return _judge("chromosome in two splits", "the splits of each chromosome's windows", found,
                  fine=f"{len(splits)} chromosomes, each in one split.")


def _check_overlaps(windows: pd.DataFrame) -> Iterator[_Check]:
    """Yield the checks of overlapping windows; of equally long ones, neighbours in order overlap if any do."""
    order = windows.sort_values(["chrom", "start", "end"], kind="stable")
    first, second = order.iloc[:-1].reset_index(drop=True), order.iloc[1:].reset_index(drop=True)
    overlap = (first["chrom"] == second["chrom"]) & (first["end"] > second["start"])
    across = overlap & (first["split"] != second["split"])
    for name, mask in (("overlap across splits", across), ("overlap within a split", overlap & ~across)):
        found = [f"{_place(a)} ({a.split}) and {_place(b)} ({b.split})"
                 for a, b in zip(first[mask].itertuples(), second[mask].itertuples())]
        yield _judge(name, "neighbouring windows", found, fine=f"Of {len(windows):,} windows none overlaps another so.")


def _place(window: NamedTuple) -> str:
    return f"{window.chrom}:{window.start:,}-{window.end:,}"


# --- copies of a sequence -----------------------------------------------------------------------------------
@numba.njit(nogil=True, cache=True)
def _fill_sketches(codes, sketches):
    """Put the smallest hash of each bin's canonical k-mers into sketches, uint32 (W, BINS), which hold _EMPTY."""
    two, three, top = np.uint64(2), np.uint64(3), np.uint64(2 * (K - 1))
    mask = (np.uint64(1) << np.uint64(2 * K)) - np.uint64(1)
    for w in range(codes.shape[0]):
        forward, backward, known = np.uint64(0), np.uint64(0), 0
        for at in range(codes.shape[1]):
            if codes[w, at] > 3:
                known = 0
                continue
            base = np.uint64(codes[w, at])
            forward = ((forward << two) | base) & mask
            backward = (backward >> two) | ((three - base) << top)
            known += 1
            if known >= K:
                # the finaliser of SplitMix64 (Steele, Lea & Flood 2014)
                value = min(forward, backward) + np.uint64(0x9E3779B97F4A7C15)
                value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                value = value ^ (value >> np.uint64(31))
                which, low = np.int64(value >> np.uint64(64 - BITS)), np.uint32(value & np.uint64(0xFFFFFFFF))
                if low < sketches[w, which]:
                    sketches[w, which] = low


def sketch(codes: np.ndarray) -> np.ndarray:
    """Return the MinHash sketch of each sequence: uint32, shape=(W, BINS); both strands have the same one.

    codes: uint8, shape=(W, L), 0..3 = ACGT, 4 = N. Of all values, 2**32 - 1 stands for a bin without a k-mer.
    """
    sketches = np.full((len(codes), BINS), _EMPTY, dtype=np.uint32)
    _fill_sketches(np.ascontiguousarray(codes), sketches)
    return sketches


class Copies(NamedTuple):
    """For each of H held-out windows: the training window found for it, -1 = none, and their Jaccard index.

    left_out: pairs in repeats that were not compared, of windows for which none was found.
    """

    partner: np.ndarray  # int64, shape=(H,)
    jaccard: np.ndarray  # float64, shape=(H,), estimated; 0 where there is none
    left_out: int


def find_copies(train: np.ndarray, held_out: np.ndarray, bound: float = BOUND) -> Copies:
    """Find for each held-out window a training window whose k-mers have a Jaccard index of at least `bound`.

    train, held_out: of `sketch`, shape=(T, BINS) and (H, BINS). Only windows that share `BAND` values of a band are
    compared: a pair of index J is met with probability 1 - (1 - J**BAND)**(BINS / BAND).
    """
    partner, jaccard = np.full(len(held_out), -1, dtype=np.int64), np.zeros(len(held_out))
    left_out = np.zeros(len(held_out), dtype=np.int64)
    for first in range(0, BINS, BAND):
        todo = np.flatnonzero(partner < 0)
        t_key, t_has = _band_keys(train, first)
        h_key, h_has = _band_keys(held_out[todo], first)
        rows, todo = np.flatnonzero(t_has), todo[h_has]
        rows = rows[np.argsort(t_key[rows], kind="stable")]
        low, high = (np.searchsorted(t_key[rows], h_key[h_has], side) for side in ("left", "right"))
        count = np.minimum(high - low, MOST)
        left_out[todo] += high - low - count
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        i, j = rows[np.repeat(low, count) + within], np.repeat(todo, count)
        for at in range(0, len(i), PAIRS):
            a, b = i[at:at + PAIRS], j[at:at + PAIRS]
            index = _jaccard(train[a], held_out[b])
            near = index >= bound
            partner[b[near]], jaccard[b[near]] = a[near], index[near]
    return Copies(partner, jaccard, int(left_out[partner < 0].sum()))


def _band_keys(sketches: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one number for the values of a band, uint64, and whether the sequence has k-mers in all of its bins."""
    high, low = sketches[:, first].astype(np.uint64), sketches[:, first + 1].astype(np.uint64)
    return (high << np.uint64(32)) | low, (sketches[:, first:first + BAND] != _EMPTY).all(axis=1)


def _jaccard(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Estimate the Jaccard index of n pairs of sketches: equal bins, of those where either has a k-mer; shape=(n,)."""
    some = (one != _EMPTY) | (other != _EMPTY)
    return ((one == other) & some).sum(axis=1) / np.maximum(some.sum(axis=1), 1)


def _check_copies(dataset: xr.Dataset, windows: pd.DataFrame) -> Iterator[_Check]:
    """Yield the checks of held-out windows whose sequence, or nearly so, is that of a training window."""
    digests, sketches = [], []
    for first in range(0, len(windows), BLOCK_WINDOWS):
        codes = dataset["sequence"].isel(window=slice(first, first + BLOCK_WINDOWS)).values
        digests += _digests(codes)
        sketches.append(sketch(codes))
    is_train = (windows["split"] == "train").to_numpy()
    train, held = np.flatnonzero(is_train), np.flatnonzero(~is_train)
    first_with = {digests[i]: i for i in train[::-1]}
    exact = {h: first_with[digests[h]] for h in held if digests[h] in first_with}
    sketches = np.concatenate(sketches)
    rest = np.array([h for h in held if h not in exact], dtype=np.int64)
    copies = find_copies(sketches[train], sketches[rest])
    near = {rest[i]: train[copies.partner[i]] for i in np.flatnonzero(copies.partner >= 0)}
    index = dict(zip(rest, copies.jaccard))
    places = list(windows.itertuples())
    compared = f"share of the {len(held):,} held-out windows, against {len(train):,} training windows, both strands"
    for name, pairs, how in (("same sequence", exact, "base by base"),
                             ("nearly the same sequence", near, f"Jaccard index of {K}-mers of {BOUND} or more")):
        share = len(pairs) / max(len(held), 1)
        found = [f"{_place(places[h])} ({places[h].split}) and {_place(places[t])}" +
                 (f", index {index[h]:.2f}" if pairs is near else "") for h, t in pairs.items()]
        verdict = "fail" if share > FAIL_SHARE else "warn" if pairs else "pass"
        text = f"{len(pairs):,} of {len(held):,}" + (f": {_listed(found)}" if found else " held-out windows.")
        if pairs is near and copies.left_out:
            text += f" {copies.left_out:,} pairs in repeats were not compared."
        yield _Check(name, verdict, share, f"{compared}; {how}: warn above 0, fail above {FAIL_SHARE:.0%}", text)


def _digests(codes: np.ndarray) -> list[bytes]:
    """Return one digest of each sequence, the same for both strands."""
    reverse = np.where(codes < N_CODE, 3 - codes, codes)[:, ::-1].astype(np.uint8)
    return [hashlib.blake2b(min(one.tobytes(), other.tobytes()), digest_size=16).digest()
            for one, other in zip(codes, reverse)]


# --- what was fitted ----------------------------------------------------------------------------------------
def _check_record(cells: pd.DataFrame, windows: pd.DataFrame, normalization: Mapping, summary: Mapping) -> _Check:
    """Do the files say of the same cell types and chromosomes that they were trained on, or held out?"""
    fitted = normalization["fitted_on"]
    recorded = {("normalization.json", "cell types", "train"): fitted["cell_types"],
                ("normalization.json", "chromosomes", "train"): fitted["chromosomes"]}
    for what in ("cell_types", "chromosomes"):
        for split, names in summary.get(what, {}).items():
            recorded["curation.json", what.replace("_", " "), split] = names
    found = []
    for (file, what, split), names in recorded.items():
        table, column = (cells, "cell_type") if what == "cell types" else (windows, "chrom")
        differ = sorted(set(names) ^ set(table.loc[table["split"] == split, column]))
        if differ:
            found.append(f"{file} and dataset.zarr differ in the {split} {what}: {', '.join(differ)}")
    return _judge("what was fitted on is recorded", "normalization.json and curation.json with dataset.zarr", found,
                  unknown="" if summary else "There is no curation.json.",
                  fine=f"Fitted on {len(fitted['cell_types'])} cell types, {len(fitted['chromosomes'])} chromosomes: "
                       "those of training.")


def _check_tracks(dataset: xr.Dataset, windows: pd.DataFrame) -> _Check:
    """Is every track one that training cell types have on training chromosomes?"""
    chroms = windows.loc[windows["split"] == "train", "chrom"].unique()
    here = dataset["observed"].values[dataset["cell_type_split"].values == "train"]
    seen = here[:, :, np.isin(dataset["chrom_name"].values, chroms)].any(axis=(0, 2))
    found = dataset["track"].values[~seen].tolist()
    return _judge("tracks", "tracks with data in a training cell type on a training chromosome", found,
                  fine=f"All {len(seen)} tracks have.")


def _check_track_constants(dataset: xr.Dataset, normalization: Mapping) -> _Check:
    """Scaled by its own constants, a track of training cell types x training chromosomes has mean 0 and sd 1."""
    compared = ("mean and sd of every track of training cell types on training chromosomes, scaled by "
                f"normalization.json, with 0 and 1; within {TOLERANCE:g}")
    found, worst = [], 0.0
    for name, sums in _moments(dataset, normalization).items():
        off = _off(sums[1, 1])
        worst = max(worst, off)
        if off > TOLERANCE:
            others = {"all cell types on training chromosomes": sums[:, 1].sum(axis=0),
                      "training cell types on all chromosomes": sums[1].sum(axis=0),
                      "all cell types on all chromosomes": sums.sum(axis=(0, 1))}
            why = next((what for what, here in others.items() if _off(here) <= TOLERANCE), "neither these nor all data")
            found.append(f"{name} is off by {off:.2g} sd; its constants are those of {why}")
    return _judge("constants of tracks", compared, found,
                  fine=f"{len(normalization['tracks'])} tracks are off by {worst:.1g} sd at most.")


def _moments(dataset: xr.Dataset, normalization: Mapping) -> dict[str, np.ndarray]:
    """Return count, sum and sum of squares of each track's scaled values, shape=(2, 2, 3 statistics, 3).

    The first two axes: not training and training cell types, not training and training chromosomes.
    """
    cells = dataset["cell_type"].values.tolist()
    cell_side = (dataset["cell_type_split"].values == "train").astype(int)
    window_side = (dataset["window_split"].values == "train").astype(int)
    sums = {name: np.zeros((2, 2, 3, 3)) for name in dataset["track"].values.tolist()}
    for first in range(0, len(window_side), BLOCK_WINDOWS):
        rows = slice(first, first + BLOCK_WINDOWS)
        for kind, dim in _KINDS.items():
            names = dataset[dim].values.tolist()
            scaled, observed = normalise_tracks(
                dataset[kind].isel(window=rows).values, file_constants(normalization, cells, names),
                track_constants(normalization, names))
            for c, m in np.ndindex(*observed.shape[1:]):
                for side in (0, 1):
                    own = observed[:, c, m] & (window_side[rows] == side)
                    values = scaled[own, c, m].reshape(-1, 3).astype(np.float64)
                    sums[names[m]][cell_side[c], side] += np.stack(
                        [np.full(3, len(values)), values.sum(axis=0), (values ** 2).sum(axis=0)], axis=1)
    return sums


def _off(sums: np.ndarray) -> float:
    """Return how far mean and sd are from 0 and 1, at most, shape=(3 statistics, 3); a constant has sd 0."""
    count, total, square = sums.T
    if not count.all():
        return np.inf
    mean = total / count
    sd = np.sqrt(np.maximum(square / count - mean ** 2, 0))
    return float(np.maximum(np.abs(mean), np.where(sd < TOLERANCE, 0, np.abs(sd - 1))).max())


def _check_file_constants(dataset: xr.Dataset, normalization: Mapping) -> _Check:
    """Is what a file is scaled by its own, and what files are mapped onto the average of the training ones?"""
    own, training = normalization["own"], dataset["cell_type"].values[dataset["cell_type_split"].values == "train"]
    means = dataset["genome_mean"].to_pandas()  # cell types x tracks
    found = [f"genome-wide mean of {cell}, {track}: {files[track]['genome_mean']:g} in normalization.json, "
             f"{means.loc[cell, track]:g} in dataset.zarr" for cell, files in own.items() for track in files
             if not np.isclose(files[track]["genome_mean"], means.loc[cell, track], rtol=1e-6)]
    for track, entry in normalization["tracks"].items():
        for field, reference in entry["reference"].items():
            expected = np.mean([own[cell][track][field] for cell in training if track in own[cell]], axis=0)
            if not np.allclose(reference, expected, rtol=1e-6):
                found.append(f"{field} that {track} is mapped onto is not the mean of the training cell types' files")
    return _judge("constants of files", "genome-wide means with dataset.zarr; references with the mean of training",
                  found, fine=f"{sum(map(len, own.values()))} files are scaled by what is their own.")


def _check_metadata(dataset: xr.Dataset, normalization: Mapping) -> _Check:
    """Are the features known in training cell types, and scaled by their mean and sd?"""
    compared = "mean and sd of every feature over training cell types, with normalization.json"
    values = dataset["metadata"].values.astype(np.float64)
    training = dataset["cell_type_split"].values == "train"
    found = []
    for name, column in zip(dataset["feature"].values.tolist(), values.T):
        known, entry = column[training & np.isfinite(column)], normalization["metadata"][name]
        if not len(known):
            found.append(f"{name} is known in no training cell type")
            continue
        scale = known.std() or 1.0
        off = max(abs(entry["mean"] - known.mean()), abs(entry["sd"] - scale)) / scale
        if off > TOLERANCE:
            found.append(f"{name} is off by {off:.2g} sd")
    return _judge("constants of metadata", compared, found, fine=f"{values.shape[1]} features agree.")


# --- peaks --------------------------------------------------------------------------------------------------
def _check_peak_labels(dataset: xr.Dataset, windows: pd.DataFrame) -> _Check:
    """Is every peak window open in some training cell type?"""
    label = dataset["label"].values[(windows["kind"] == "peak").to_numpy()]
    training = dataset["cell_type_split"].values == "train"
    has_peaks = (dataset["label"].values >= 0).any(axis=0)
    closed = ~(label[:, training] == 1).any(axis=1)
    unsure = closed & (label[:, training & has_peaks] < 0).any(axis=1)  # no signal there, but perhaps a peak
    held = (label[:, ~training] == 1).any(axis=1)
    places = [_place(row) + (" (open in a held-out cell type)" if h else "")
              for row, h in zip(windows[windows["kind"] == "peak"].itertuples(), held)]
    found = [place for place, bad in zip(places, closed & ~unsure) if bad]
    unknown = f"{unsure.sum():,} peak windows have no label in some training cell type." if unsure.any() else ""
    return _judge("peak windows are training peaks", "labels of peak windows in training cell types", found,
                  unknown=unknown, fine=f"All {len(label):,} peak windows are open in a training cell type.")


def _check_peak_places(cells: pd.DataFrame, windows: pd.DataFrame, lock: pd.DataFrame | None, summary: Mapping
                       ) -> _Check:
    """Do peak windows lie where training cell types' summits are, or on the grid?"""
    name, peaks = "places of peak windows", windows[windows["kind"] == "peak"]
    length = int((windows["end"] - windows["start"]).iloc[0])
    if summary.get("parameters", {}).get("window_placement") == "tiled":
        found = [_place(row) for row in peaks.itertuples() if row.start % length]
        return _judge(name, "starts of peak windows with the grid", found, fine="All lie on a grid that is fixed.")
    compared = "middles of peak windows with the summits in the training cell types' peak files"
    if lock is None:
        return _judge(name, compared, [], unknown="There is no manifest.lock.tsv.")
    training = set(cells.loc[cells["split"] == "train", "cell_type"])
    rows = lock[(lock["kind"] == "accessibility_peaks") & lock["cell_type"].isin(training)]
    gone = [path for path, md5 in zip(rows["path_or_url"], rows["md5"])
            if not Path(path).is_file() or file_md5(Path(path)) != md5]
    if gone:
        return _judge(name, compared, [], unknown=f"Peak files are gone, or changed: {_listed(gone)}")
    renames = summary.get("parameters", {}).get("rename_chromosomes", False)
    aliases = genome_aliases(dict.fromkeys(peaks["chrom"], 0), renames)
    summits = pd.concat([read_peaks(path, aliases=aliases)[["chrom", "summit"]] for path in rows["path_or_url"]])
    known = set(zip(summits["chrom"], summits["summit"]))
    found = [_place(row) for row in peaks.itertuples() if (row.chrom, row.start + length // 2) not in known]
    return _judge(name, compared, found, fine=f"All {len(peaks):,} are centred on a summit of a training cell type.")


def require_no_leaks(table: pd.DataFrame) -> None:
    """Raise ChromaccError that lists every check of `audit` which failed."""
    failed = table[table["verdict"] == "fail"]
    if len(failed):
        listed = "\n".join(f"  {row.check}: {row.evidence}" for row in failed.itertuples())
        raise ChromaccError(f"the dataset leaks, {len(failed)} of {len(table)} checks failed:\n{listed}\nCorrect the "
                            "manifest (cell types, donors, files), and curate again")
