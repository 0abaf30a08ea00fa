"""Curate a manifest, once, into a labelled zarr store: splits, windows, signals, labels, normalisation.

What the store holds is described in `dataset`, which reads it. Peaks, windows and constants are those of training cell
types; a test cell type only brings its own files.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from chromacc_lib import ChromaccError, project_path
from chromacc_lib.bed import RENAMED
from chromacc_lib.bigwig import open_bigwig
from chromacc_lib.cache import fetched_here, file_lock
from chromacc_lib.dataset import open_dataset, replace_folder, window_table
from chromacc_lib.genes import read_gene_names
from chromacc_lib.genome import genome_aliases
from chromacc_lib.intake import cell_type_table, take_in
from chromacc_lib.manifest import genome_sizes, is_simulated, lock_table, read_expression
from chromacc_lib.matching import MatchChoice, bp_to_tss
from chromacc_lib.normalization import fit_normalization, require_method
from chromacc_lib.problems import require_no_problems
from chromacc_lib.regions import (
    CHUNK_WINDOWS,
    TRACK_KINDS,
    Plan,
    SignalFile,
    code_hashes,
    fill_regions,
    is_begun,
    lay_out,
    region_windows,
    regions_to_do,
    remove_markers,
    require_normalisable,
    write_durably,
)
from chromacc_lib.signals import STATISTICS, bytes_to_fetch, chroms_with_data, genome_mean
from chromacc_lib.sources import is_url, require_file
from chromacc_lib.windows import (
    Count,
    Selection,
    background_windows,
    cap_windows,
    label_windows,
    peak_windows,
    read_peaks,
    require_placement,
    split_chromosomes,
    tiled_windows,
)

__all__ = ["Curation", "CurationParameters", "curate"]

MAX_FEATURES = 2_000  # metadata features (genes); more than that is a transcriptome, not a description


# --- parameters and result ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class CurationParameters:
    """What shapes a dataset. Empty lists are chosen: splits by the seed, tracks from the manifest."""

    window_bp: int = 1500                     # covers a nucleosome-free region with its flanking nucleosomes
    n_bins: int = 15                          # bins of 100 bp
    max_positive_windows: int = 3000          # 0 = all
    negatives_per_positive: float = 1.0
    min_overlap_bp: int = 100                 # of a peak with a window, to label it open (or the whole peak)
    cell_types: tuple[str, ...] = ()          # of the manifest; () = all
    chromosomes: tuple[str, ...] = ()         # that windows come from; () = all of the genome
    test_cell_types: tuple[str, ...] = ()
    validation_cell_types: tuple[str, ...] = ()  # ("none",) = none
    test_chromosomes: tuple[str, ...] = ()
    validation_chromosomes: tuple[str, ...] = ()
    histone_marks: tuple[str, ...] = ()
    tfs: tuple[str, ...] = ()
    normalization: str = "arcsinh"            # of the input tracks: one of normalization.METHODS
    window_placement: str = "summits"         # one of windows.PLACEMENTS
    match_on: tuple[str, ...] = ("gc",)       # of matching.COVARIATES
    mappability: str = ""                     # path or URL of a bigWig, 0 to 1, to match on mappability
    tss: str = ""                             # path of a BED, one interval a TSS: tells promoters
    gene_names: str = ""                      # see genes.read_gene_names; "" = the shipped human TFs
    rename_chromosomes: bool = False          # read 1 as chr1, or the other way round, by the FASTA's names
    seed: int = 1

    def __post_init__(self) -> None:
        require_placement(self.window_placement)
        MatchChoice(self.match_on, self.mappability, self.tss)


@dataclass(frozen=True)
class Curation:
    """`path`: the dataset's folder. `summary`: curation.json. `fresh`: False when nothing had changed."""

    path: Path
    summary: dict
    fresh: bool


# --- curation -----------------------------------------------------------------------------------------------
def curate(manifest: str | Path, genome_fasta: str | Path, dataset_dir: str | Path,
           parameters: CurationParameters = CurationParameters(), *, blacklist: str | Path = "",
           truth_manifest: str | Path = "", remote_tracks: str = "stream", workers: int | None = None,
           dask_address: str = "", per_region: int | None = None, say: Callable[[str], None] = print) -> Curation:
    """Curate a manifest into `dataset_dir`, unless it is there already, from the very same input.

    Writes dataset.zarr, manifest.lock.tsv, normalization.json and curation.json. The folder appears only when
    it is whole; with nothing changed since the last time, nothing is done, and said so. A run that was killed
    goes on where it stopped. blacklist, truth_manifest: paths, "" = none; the truth (simulated data only) is a
    manifest of noise-free signals. remote_tracks: how the bigWigs of web addresses are read (see `fetch`).
    dask_address: of a scheduler whose workers have this project installed and see the same paths; "" = a local
    cluster of `workers` threads, None = one a core. per_region: windows a dask task, None = chosen by their
    size; neither changes the result. say: gets one line for each filter, "kept n of N, because", and what was fetched
    of remote tracks, beside what was expected; these bytes are `summary["streamed"]`, too. Raises ChromaccError that
    lists every problem, or while another curation writes to the same folder.
    """
    require_method(parameters.normalization)
    target, before = project_path(dataset_dir), fetched_here()
    with _alone(target) as can_write:
        if not (target / "dataset.zarr").is_dir():
            _require_writable(target, can_write, {})
        table, truth, problems = take_in(manifest, genome_fasta, parameters, blacklist=blacklist,
                                         truth_manifest=truth_manifest, remote_tracks=remote_tracks, say=say)
        for problem in problems:
            if not problem.fatal:
                say(str(problem))
        require_no_problems(problems)
        references = _references(genome_fasta, blacklist, manifest, truth, parameters)
        lock = lock_table(table, references)
        fingerprint = _fingerprint(parameters, lock)
        partial = target.with_name(target.name + ".partial")
        _recover(partial, target, fingerprint, say)
        done = _read_json(target / "curation.json")
        if done.get("fingerprint") == fingerprint and (target / "dataset.zarr").is_dir():
            fetched = f" {fetched_here() - before:,} bytes of remote tracks were fetched." if done["streamed"] else ""
            say(f"Nothing has changed since {target} was curated; it is used as it is.{fetched}")
            return Curation(target, done, fresh=False)
        _require_writable(target, can_write, done)
        dataset, plan, label, counts, match, mappability = _plan(table, truth, genome_fasta, blacklist, parameters,
                                                                 partial / "dataset.zarr", say)
        dataset.attrs |= {"dataset_id": target.parent.name if target.name == "dataset" else target.name,
                          "genome_fasta": _portable(genome_fasta), "manifest": _portable(manifest),
                          "gene_names": _portable(parameters.gene_names) if parameters.gene_names else "",
                          "rename_chromosomes": parameters.rename_chromosomes}
        windows = window_table(dataset)
        per_region = per_region or region_windows(plan, len(windows))
        filled_from = _fingerprint(replace(parameters, normalization=""), lock)
        expected = _expect_streaming(plan, windows, per_region, is_begun(plan.store, filled_from, per_region), say)
        planned = fetched_here()
        require_normalisable(plan, dataset, parameters.normalization)
        _begin(partial, dataset, plan, filled_from, per_region, say)
        fetched = fetched_here() - planned
        fetched += fill_regions(plan, windows, label, per_region, dask_address, workers, say)
        streamed = _streamed(expected, mappability, fetched, planned - before, say)
        dataset = open_dataset(partial)
        summary = {"fingerprint": fingerprint, "parameters": _as_dict(parameters), **_summary(dataset, counts, match),
                   "streamed": streamed,
                   "renamed_chromosomes": {note.file: note.got for note in problems if note.what == RENAMED}}
        lock.to_csv(partial / "manifest.lock.tsv", sep="\t", index=False)
        files = {(row["cell_type"], row["target"]): row["path_or_url"] for _, row in _bigwigs(table).iterrows()}
        normalization = fit_normalization(dataset, parameters.normalization, files)
        for name, track in normalization["tracks"].items():
            if "note" in track:
                say(f"{name}: {track['note']}")
        _write_json(partial / "normalization.json", normalization)
        _write_json(partial / "curation.json", summary)
        _finish(partial, target)
        return Curation(target, summary, fresh=True)


def _alone(target: Path) -> AbstractContextManager[bool]:
    """Keep other curations, of this process or another, from a dataset's folder while this one lasts.

    False: it lies where nobody can write, and can only be used as it is.
    """
    return file_lock(target.with_name(f".{target.name}.curating"), "give a dataset_dir",
                     f"{target}: another curation is writing there. Wait until it is done, which this one can then "
                     "use, or give another dataset_dir", to_read=True)


def _require_writable(target: Path, can_write: bool, done: dict) -> None:
    """Raise ChromaccError where there is something to do in a folder that cannot be written. done: curation.json."""
    if not can_write:
        is_there = "a dataset of other input, parameters or code" if done else "no finished dataset"
        raise ChromaccError(f"{target.parent}: cannot be written, and {target.name} there is {is_there}; give a "
                            "dataset_dir where that is possible, or exactly what the dataset was curated from")


def _recover(partial: Path, target: Path, fingerprint: str, say: Callable[[str], None]) -> None:
    """Finish the last step of a run that was killed in it: a dataset that is whole, or an older one set aside."""
    old = target.with_name(target.name + ".old")
    if _read_json(partial / "curation.json").get("fingerprint") == fingerprint:
        say(f"{partial} is whole: the run that made it was interrupted before it could give it its name.")
        _finish(partial, target)
    elif old.exists() and not target.exists():
        say(f"{old} was set aside by a run that was interrupted; it takes its place again.")
        old.rename(target)


def _finish(partial: Path, target: Path) -> None:
    """Give a whole dataset its name; what told finished regions goes first, since no later run would remove it."""
    remove_markers(partial / "dataset.zarr")
    replace_folder(partial, target)


def _begin(partial: Path, dataset: xr.Dataset, plan: Plan, fingerprint: str, per_region: int,
           say: Callable[[str], None]) -> None:
    """Lay out the store in the partial folder, unless an interrupted run did, from the very same input.

    fingerprint: of what the store is made from; the normalisation is not part of it, so that a run which it
    refuses goes on under another one.
    """
    if is_begun(plan.store, fingerprint, per_region):
        say(f"Going on with {partial}, left by a run that was interrupted; its input is the same.")
        return
    if partial.exists():
        say(f"Removing {partial}, left by a run that was interrupted, of other input, parameters or code.")
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    lay_out(dataset, plan, fingerprint, per_region)


def _references(genome_fasta: str | Path, blacklist: str | Path, manifest: str | Path,
                truth: pd.DataFrame | None, parameters: CurationParameters) -> dict[str, str | Path]:
    """Further files that the result depends on, by kind, for the lock."""
    references = {"manifest": project_path(manifest), "genome_fasta": project_path(genome_fasta)}
    for kind in ("mappability", "tss", "gene_names"):
        path = getattr(parameters, kind)
        if path:
            references[kind] = path if is_url(path) else project_path(path)
            if not is_url(path):
                require_file(references[kind])
    if blacklist:
        references["blacklist"] = project_path(blacklist)
    if truth is not None:
        named = zip(truth["cell_type"], truth["path_or_url"])
        references |= {f"truth:{name}": Path(path) for name, path in named}
    return references


def _fingerprint(parameters: CurationParameters, lock: pd.DataFrame) -> str:
    """Hash of everything that shapes the dataset: parameters, each input's md5, and this code."""
    text = json.dumps([_as_dict(parameters), lock.astype(str).to_numpy().tolist(), code_hashes()])
    return hashlib.sha256(text.encode()).hexdigest()


def _plan(table: pd.DataFrame, truth: pd.DataFrame | None, genome_fasta: str | Path, blacklist: str | Path,
          parameters: CurationParameters, store: Path, say: Callable[[str], None]
          ) -> tuple[xr.Dataset, Plan, np.ndarray, list[Count], dict, dict[str, int]]:
    """Return what the store begins with, what fills it, labels (W, C), every count, the match of background, and
    the bytes that a remote mappability took.

    Cell types are split first: windows see only the training ones.
    """
    cells = cell_type_table(table, parameters)
    sizes = genome_sizes(genome_fasta)
    aliases = genome_aliases(sizes, parameters.rename_chromosomes)
    peaks, elsewhere = _keep_chromosomes(_read_all_peaks(table, sizes, aliases), parameters.chromosomes)
    windows, counts, match, mappability = _choose_windows(cells, peaks, genome_fasta, blacklist, parameters, say)
    coverage = {path: chroms_with_data(path, aliases) for path in _bigwigs(table)["path_or_url"]}
    tracks, left_out = _choose_tracks(table, cells, windows, coverage, parameters)
    counts = elsewhere + counts + left_out
    for count in counts:
        say(str(count))
    rows = _bigwigs(table)
    rows = rows[(rows["kind"] == "accessibility_signal") | _selected(rows, tracks)]
    names = cells["cell_type"].tolist()
    files = _signal_files(rows, tracks, names, coverage) + _truth_files(truth, names, aliases)
    dataset = xr.Dataset(coords=_coordinates(windows, cells, tracks))
    _add_observed(dataset, files)
    _add_metadata(dataset, table, parameters.gene_names)
    dataset.attrs = {"simulated": is_simulated(table), "assembly": table["assembly"].iloc[0],
                     "window_bp": parameters.window_bp, "n_bins": parameters.n_bins}
    lengths = {dim: dataset.sizes[dim] for dim in ("cell_type", "histone_mark", "tf_name", "track", "statistic")}
    slots = [file.slot for file in files if file.variable == "accessibility"]
    lengths |= {"position": parameters.window_bp, "bin": parameters.n_bins, "replicate": 1 + max(slots)}
    plan = Plan(str(store), str(project_path(genome_fasta)), lengths, tuple(files), CHUNK_WINDOWS, aliases)
    return dataset, plan, _labels(windows, names, peaks, parameters.min_overlap_bp), counts, match, mappability


def _read_all_peaks(table: pd.DataFrame, sizes: Mapping[str, int], aliases: Mapping[str, str]
                    ) -> dict[str, pd.DataFrame]:
    """Return {cell type: its peaks}, several files pooled."""
    rows = table[table["kind"] == "accessibility_peaks"]
    return {name: pd.concat([read_peaks(path, sizes, aliases) for path in group["path_or_url"]], ignore_index=True)
            for name, group in rows.groupby("cell_type", sort=False)}


def _keep_chromosomes(peaks: Mapping[str, pd.DataFrame], chromosomes: Sequence[str]
                      ) -> tuple[dict[str, pd.DataFrame], list[Count]]:
    """Return the peaks on these chromosomes (() = all), and a count of those that lie elsewhere."""
    if not chromosomes:
        return dict(peaks), []
    kept = {name: table[table["chrom"].isin(list(chromosomes))] for name, table in peaks.items()}
    n_kept, n_all = (sum(map(len, tables.values())) for tables in (kept, peaks))
    return kept, [Count("peaks of all cell types", n_kept, n_all,
                        f"chromosomes asks for {', '.join(chromosomes)}; {n_all - n_kept:,} lie elsewhere")]


def _labels(windows: pd.DataFrame, cells: Sequence[str], peaks: Mapping[str, pd.DataFrame],
            min_overlap_bp: int) -> np.ndarray:
    """Return int8, shape=(W, C): 1 where a peak of the cell type overlaps enough, else 0; -1 = it has no peaks."""
    unknown = np.full(len(windows), -1, dtype=np.int8)
    return np.stack([label_windows(windows, peaks[name], min_overlap_bp) if name in peaks else unknown
                     for name in cells], axis=1)


def _choose_windows(cells: pd.DataFrame, peaks: Mapping[str, pd.DataFrame], genome_fasta: str | Path,
                    blacklist: str | Path, parameters: CurationParameters, say: Callable[[str], None]
                    ) -> tuple[pd.DataFrame, list[Count], dict, dict[str, int]]:
    """Return windows (chrom, start, end, gc, kind, split; tss_distance, bp, where TSS are known) in genome order, every
    count, the match, and the bytes that a remote mappability took ({} = none was read).
    """
    names = cells.loc[cells["split"] == "train", "cell_type"]
    training = {name: peaks[name] for name in names if name in peaks}
    sizes = genome_sizes(genome_fasta)
    aliases = genome_aliases(sizes, parameters.rename_chromosomes)
    regions = read_peaks(project_path(blacklist), sizes, aliases) if blacklist else None
    if parameters.window_placement == "tiled":
        union = tiled_windows(training, genome_fasta, regions, parameters.window_bp,
                              min_overlap_bp=parameters.min_overlap_bp)
    else:
        union = peak_windows(training, genome_fasta, regions, parameters.window_bp)
    n_windows = union.windows["chrom"].value_counts(sort=False).to_dict()
    split = split_chromosomes(n_windows, parameters.seed, parameters.test_chromosomes,
                              parameters.validation_chromosomes)
    capped = cap_windows(union.windows.assign(split=union.windows["chrom"].map(split)),
                         parameters.max_positive_windows, parameters.seed)
    background, mappability = Selection(capped.windows.iloc[:0], []), {}
    if parameters.negatives_per_positive > 0:
        # off all of the union's windows, also those that the cap left out: they are training peaks
        off = {**training, "union": union.windows}
        choice = MatchChoice(parameters.match_on, parameters.mappability, parameters.tss, parameters.rename_chromosomes)
        mappability = _expect_mappability(parameters.mappability, capped.windows, aliases, say)
        before = fetched_here()
        background = background_windows(capped.windows, off, genome_fasta, regions,
                                        parameters.negatives_per_positive, parameters.seed,
                                        placement=parameters.window_placement, choice=choice)
        if mappability:
            mappability["mappability_bytes"] = fetched_here() - before
    windows = pd.concat([capped.windows.assign(kind="peak"), background.windows.assign(kind="background")])
    rank = windows["chrom"].map({chrom: i for i, chrom in enumerate(sizes)})
    windows = windows.iloc[np.lexsort((windows["start"], rank))].reset_index(drop=True)
    if parameters.tss:
        windows["tss_distance"] = bp_to_tss(parameters.tss, windows, sizes, aliases)
    return windows, union.counts + capped.counts + background.counts, background.match, mappability


# --- tracks -------------------------------------------------------------------------------------------------
def _bigwigs(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["kind"].isin(("accessibility_signal", "histone", "tf"))]


def _selected(rows: pd.DataFrame, tracks: Mapping[str, tuple[str, ...]]) -> pd.Series:
    """Return a bool mask of the rows whose (kind, target) is among the chosen tracks."""
    chosen = {(kind, target) for kind, targets in tracks.items() for target in targets}
    is_chosen = [pair in chosen for pair in zip(rows["kind"], rows["target"])]
    return pd.Series(is_chosen, index=rows.index, dtype=bool)


def _choose_tracks(table: pd.DataFrame, cells: pd.DataFrame, windows: pd.DataFrame,
                   coverage: Mapping[str, Sequence[str]], parameters: CurationParameters
                   ) -> tuple[dict[str, tuple[str, ...]], list[Count]]:
    """Return {"histone": marks, "tf": TFs} that training data can teach, and a count of those left out."""
    training = set(cells.loc[cells["split"] == "train", "cell_type"])
    chroms = set(windows.loc[windows["split"] == "train", "chrom"])
    tracks, counts = {}, []
    for kind, asked in (("histone", parameters.histone_marks), ("tf", parameters.tfs)):
        rows = table[table["kind"] == kind]
        names = list(asked or dict.fromkeys(rows["target"]))
        taught = {row["target"] for _, row in rows.iterrows()
                  if row["cell_type"] in training and chroms & set(coverage[row["path_or_url"]])}
        tracks[kind] = tuple(name for name in names if name in taught)
        dropped = [name for name in names if name not in taught]
        if dropped:
            because = "a track needs data in a training cell type on a training chromosome"
            counts.append(Count(f"{kind} tracks", len(tracks[kind]), len(names),
                                f"{because} ({', '.join(dropped)} left out)"))
    return tracks, counts


def _signal_files(rows: pd.DataFrame, tracks: Mapping[str, tuple[str, ...]], cells: Sequence[str],
                  coverage: Mapping[str, Sequence[str]]) -> list[SignalFile]:
    """Return each bigWig with its place in the dataset; a cell type's signals are its replicates, in their order."""
    files, replicates = [], dict.fromkeys(cells, 0)
    for _, row in rows.iterrows():
        kind, cell, path = row["kind"], row["cell_type"], row["path_or_url"]
        if kind in TRACK_KINDS:
            slot = tracks[kind].index(row["target"])
        else:
            slot, kind = replicates[cell], "accessibility"
            replicates[cell] += 1
        files.append(SignalFile(kind, path, cells.index(cell), slot, genome_mean(path), tuple(coverage[path])))
    return files


def _truth_files(truth: pd.DataFrame | None, cells: Sequence[str], aliases: Mapping[str, str]) -> list[SignalFile]:
    """Return the noise-free signals, scaled like accessibility; one at most a cell type."""
    if truth is None:
        return []
    files = []
    for name in cells:
        paths = truth.loc[truth["cell_type"] == name, "path_or_url"].tolist()
        if len(paths) > 1:
            raise ChromaccError(f"truth manifest: {len(paths)} rows for cell type {name}; needed one at most")
        files += [SignalFile("truth", path, cells.index(name), 0, genome_mean(path), chroms_with_data(path, aliases))
                  for path in paths]
    return files


def _expect_streaming(plan: Plan, windows: pd.DataFrame, per_region: int, begun: bool, say: Callable[[str], None]
                      ) -> dict:
    """Return, and say, the bytes that remote tracks will take for the regions still to do; {} where all is local."""
    remote = list(dict.fromkeys(file.path for file in plan.files if is_url(file.path)))
    if not remote:
        return {}
    region = np.arange(len(windows)) // per_region
    todo = np.isin(region, regions_to_do(plan, len(windows), per_region)) if begun else region >= 0
    sizes, blocks, to_fetch = map(sum, zip(*(bytes_to_fetch(entry, windows[todo], plan.aliases) for entry in remote)))
    say(f"{len(remote)} remote tracks of {sizes / 1e9:,.2f} GB: the blocks under {todo.sum():,} windows hold "
        f"{blocks / 1e6:,.1f} MB; {to_fetch / 1e6:,.1f} MB are to be fetched now, the rest is in the cache")
    return {"files": len(remote), "file_bytes": sizes, "windows": int(todo.sum()), "block_bytes": blocks,
            "expected_bytes": to_fetch}


def _expect_mappability(entry: str, windows: pd.DataFrame, aliases: Mapping[str, str], say: Callable[[str], None]
                        ) -> dict[str, int]:
    """Return, and say, the bytes that a remote mappability will take at most; {} where it is local, or not given.

    Background may come from anywhere on the chromosomes of the windows, so that nearly all of these are read.
    """
    if not is_url(entry):
        return {}
    with open_bigwig(entry, aliases) as bigwig:
        ends = {chrom: bigwig.chroms[chrom] for chrom in windows["chrom"].unique() if chrom in bigwig.chroms}
    whole = pd.DataFrame({"chrom": list(ends), "start": 0, "end": list(ends.values())})
    found = bytes_to_fetch(entry, whole, aliases)
    say(f"mappability: background is matched on {len(ends)} whole chromosomes of {entry} ({found.file / 1e9:,.2f} GB): "
        f"at most {found.to_fetch / 1e6:,.1f} MB are to be fetched now, the rest is in the cache")
    return {"mappability_expected_bytes": found.to_fetch}


def _streamed(expected: dict, mappability: dict[str, int], fetched: int, planned: int, say: Callable[[str], None]
              ) -> dict:
    """Return what was expected with what came over the network, in bytes, and say how they compare.

    fetched: since the estimate; planned: before it, by the plan: headers and indexes, and what `mappability` says
    of that track. {} where no track was remote.
    """
    if not expected and not mappability:
        return {}
    index_bytes = planned - mappability.get("mappability_bytes", 0)
    counted = {"files": 0, "file_bytes": 0, "windows": 0, "block_bytes": 0, "expected_bytes": 0} | expected
    of_map = f", mappability {mappability['mappability_bytes']:,}" if mappability else ""
    say(f"{fetched:,} bytes of remote tracks were fetched, {counted['expected_bytes']:,} were expected, and the "
        f"blocks under the windows hold {counted['block_bytes']:,}; headers and indexes took {index_bytes:,} more"
        f"{of_map}")
    return counted | {"fetched_bytes": fetched, "index_bytes": index_bytes} | mappability


def _coordinates(windows: pd.DataFrame, cells: pd.DataFrame, tracks: Mapping[str, tuple[str, ...]]) -> dict:
    columns = {name: ("window", windows[name].to_numpy(dtype=str)) for name in ("chrom", "kind")}
    if "tss_distance" in windows:
        columns["tss_distance"] = ("window", windows["tss_distance"].to_numpy(dtype=np.float32))
    return {
        **columns, "start": ("window", windows["start"].to_numpy(dtype=np.int64)),
        "end": ("window", windows["end"].to_numpy(dtype=np.int64)),
        "gc": ("window", windows["gc"].to_numpy(dtype=np.float32)),
        "window_split": ("window", windows["split"].to_numpy(dtype=str)),
        "cell_type": cells["cell_type"].to_numpy(dtype=str),
        "cell_type_split": ("cell_type", cells["split"].to_numpy(dtype=str)),
        "lineage": ("cell_type", cells["lineage"].to_numpy(dtype=str)),
        "donor": ("cell_type", cells["donor"].to_numpy(dtype=str)),
        "histone_mark": np.array(tracks["histone"], dtype=str), "tf_name": np.array(tracks["tf"], dtype=str),
        "track": np.array(tracks["histone"] + tracks["tf"], dtype=str), "statistic": np.array(STATISTICS),
        "chrom_name": np.array(list(dict.fromkeys(windows["chrom"])), dtype=str),
    }


def _add_observed(dataset: xr.Dataset, files: Sequence[SignalFile]) -> None:
    """Add observed, and genome_mean in file units, NaN = missing, of every track in every cell type.

    accessibility_genome_mean and truth_genome_mean are those of the files that the targets are made from.
    """
    chroms = dataset["chrom_name"].values
    shape = (dataset.sizes["cell_type"], dataset.sizes["track"])
    observed, means = np.zeros((*shape, len(chroms)), dtype=bool), np.full(shape, np.nan)
    targets = {}
    for name in ("accessibility", "truth"):
        slots = [file.slot for file in files if file.variable == name]
        targets[name] = np.full((shape[0], 1 + max(slots, default=-1)), np.nan)
    for file in files:
        if file.variable in TRACK_KINDS:
            track = file.slot + (dataset.sizes["histone_mark"] if file.variable == "tf" else 0)
            observed[file.cell, track] = np.isin(chroms, file.chroms)
            means[file.cell, track] = file.genome_mean
        else:
            targets[file.variable][file.cell, file.slot] = file.genome_mean
    dataset["observed"] = (("cell_type", "track", "chrom_name"), observed)
    dataset["genome_mean"] = (("cell_type", "track"), means)
    dataset["accessibility_genome_mean"] = (("cell_type", "replicate"), targets["accessibility"])
    if targets["truth"].size:
        dataset["truth_genome_mean"] = ("cell_type", targets["truth"][:, 0])


def _add_metadata(dataset: xr.Dataset, table: pd.DataFrame, gene_names: str) -> None:
    """Add metadata: log2(TPM + 1) of the genes in training cell types' expression files; NaN = missing."""
    rows = table[table["kind"] == "expression"]
    paths = zip(rows["cell_type"], rows["path_or_url"])
    symbols = read_gene_names(gene_names)
    values = {name: np.log2(read_expression(path, symbols) + 1) for name, path in paths}
    cells = dataset["cell_type"].values.tolist()
    training = [name for name, split in zip(cells, dataset["cell_type_split"].values) if split == "train"]
    genes = list(dict.fromkeys(gene for name in training if name in values for gene in values[name].index))
    if len(genes) > MAX_FEATURES:
        raise ChromaccError(
            f"expression files of the training cell types name {len(genes):,} genes; at most "
            f"{MAX_FEATURES:,} can describe a cell type. Keep the rows of transcription factors")
    table_ = pd.DataFrame(np.nan, index=cells, columns=genes, dtype=np.float32)
    for name, series in values.items():
        shared = [gene for gene in genes if gene in series.index]
        table_.loc[name, shared] = series[shared].astype(np.float32)
    dataset.coords["feature"] = np.array(genes, dtype=str)
    dataset["metadata"] = (("cell_type", "feature"), table_.to_numpy(dtype=np.float32))


def _summary(dataset: xr.Dataset, counts: list[Count], match: dict) -> dict:
    """Return curation.json's content: counts, splits, what is missing, the match of background to peaks."""
    windows = window_table(dataset)
    observed = dataset["observed"]
    measured = observed.any("chrom_name")
    missing = [f"{cell}, {track}" for cell, track in zip(*_names_where(~measured.values, measured))]
    partly = (~observed & measured).values
    absent = [f"{cell}, {track}, {chrom}" for cell, track, chrom in zip(*_names_where(partly, observed))]
    by_split = {s: dataset["cell_type"].values[dataset["cell_type_split"].values == s].tolist()
                for s in ("train", "validation", "test")}
    chroms = windows.groupby("split", sort=False)["chrom"].unique()
    table = windows.groupby(["split", "kind"]).size()
    label = dataset["label"].values
    open_fraction = (label == 1).sum(axis=0) / np.maximum((label >= 0).sum(axis=0), 1)
    return {
        "simulated": bool(dataset.attrs["simulated"]),
        "counts": [_as_dict(count) | {"text": str(count)} for count in counts],
        "cell_types": by_split,
        "chromosomes": {split: list(map(str, names)) for split, names in chroms.items()},
        "windows": {f"{split}, {kind}": int(n) for (split, kind), n in table.items()},
        "open_fraction": dict(zip(dataset["cell_type"].values.tolist(), open_fraction.tolist())),
        "missing_tracks": missing,
        "missing_on_chromosomes": absent,
        "match": match,
    }


def _names_where(mask: np.ndarray, array: xr.DataArray) -> list[np.ndarray]:
    return [array[dim].values[index] for dim, index in zip(array.dims, np.nonzero(mask))]


# --- files --------------------------------------------------------------------------------------------------
def _read_json(path: Path) -> dict:
    return json.loads(path.read_text()) if path.is_file() else {}


def _write_json(path: Path, content: dict) -> None:
    write_durably(path, json.dumps(content, indent=1, allow_nan=False))


def _as_dict(record: CurationParameters | Count) -> dict:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(record).items()}


def _portable(path: str | Path) -> str:
    """Return a path from the project's root where it lies within, else the absolute one."""
    path, root = project_path(path).resolve(), project_path(".").resolve()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
