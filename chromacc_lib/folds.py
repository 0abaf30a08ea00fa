"""Leave one cell type out: each in turn is tested by a model that never saw it, and one table has all folds.

A fold is a run of its own, in a folder of its own: it is curated, trained and evaluated as the notebooks do. Its
windows and constants come from its own training cell types, so that folds differ in their windows.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import distributed
import numpy as np
import pandas as pd
import torch
from scipy import stats

from chromacc_lib import ChromaccError, project_path
from chromacc_lib import intervals as iv
from chromacc_lib.baselines import cached
from chromacc_lib.cache import file_lock
from chromacc_lib.curation import CurationParameters, curate
from chromacc_lib.dataset import load_arrays, write_table
from chromacc_lib.evaluation import HEADLINE, evaluate, replicate_table, write_metrics
from chromacc_lib.fit import fit
from chromacc_lib.genome import genome_sizes
from chromacc_lib.inference import load_model, predict_dataset
from chromacc_lib.leakage import audit, require_no_leaks
from chromacc_lib.manifest import keep_cell_types, read_manifest
from chromacc_lib.progress import progress
from chromacc_lib.regions import write_durably
from chromacc_lib.streaming import open_training_data
from chromacc_lib.training import TrainingConfig
from chromacc_lib.windows import SPLITS, Fold, leave_one_out_folds, observed_assays
from chromacc_lib.wording import count, estimate
from chromacc_lib.workers import ALONE, gpu_of_worker, side_by_side

__all__ = ["leave_one_out"]

# Modules whose change trains a fold again, or evaluates it again; what curates is in the dataset's fingerprint.
_TRAINING = ("model", "batches", "streaming", "objectives", "vitals", "callbacks", "pretraining", "training", "monitor",
             "fit")
_EVALUATION = ("inference", "baselines", "intervals", "wording", "calibration", "strata", "comparison", "ceiling",
               "evaluation", "folds")


OVER_FOLDS = r"mean of \d+ folds"
SUMS = ("windows", "blocks", "open_rows", "seconds")  # of a row over the folds; all else is a mean
FEW_FOLDS = 10


class _Job(NamedTuple):
    """All that one fold is made from; it goes to a worker."""

    folder: str
    manifest: str
    genome_fasta: str
    parameters: CurationParameters
    training: TrainingConfig
    sizes: dict[str, Any]
    patience: int
    stop_on_collapse: bool
    device: str
    curating: dict[str, str]    # further arguments of `curate`
    evaluating: dict[str, int]  # those of `evaluate`


def leave_one_out(
    manifest: str | Path, genome_fasta: str | Path, out_dir: str | Path, cell_types: Sequence[str] = (),
    parameters: CurationParameters = CurationParameters(), training: TrainingConfig = TrainingConfig(),
    sizes: Mapping[str, Any] | None = None, *, blacklist: str | Path = "", truth_manifest: str | Path = "",
    remote_tracks: str = "stream", patience: int = 0, stop_on_collapse: bool = False, n_bootstrap: int = 1000,
    block_bp: int = 250_000, device: str = "auto", workers: int | None = None, dask_address: str = "",
    say: Callable[[str], object] = print,
) -> pd.DataFrame:  # fmt: skip
    """Test each cell type by a model of the others; returns and writes `out_dir`/folds.csv and folds.json.

    `out_dir`/folds_summary.csv is for reading: of the stratum "all", a row an opponent, with the number of folds in which
    the model is ahead of it, behind, and not to be told from it, by error and by AUPRC, and the mean with its interval.

    cell_types: those to hold out, each with the others of its donor; () = all. The rest only ever trains. parameters:
    of every fold but for test_cell_types; validation_cell_types is taken as it is, ("none",) included, and where it is
    empty drawn for each fold by `leave_one_out_folds` among `cell_types`. Test chromosomes that are not given are drawn
    for each fold by the seed. sizes: fields of `ModelConfig`. patience, stop_on_collapse, device: as in `fit`. workers:
    folds at a time, None = one a GPU, or on CPUs one a core. dask_address: of a scheduler whose workers have this project
    installed and see the same paths.

    Two rows a fold, stratum "all" and "cell-type-specific" (rows of unseen cell types x unseen chromosomes), with
    columns fold, test, validation and training cell types, windows, blocks, open_rows, base_rate; of the model skill
    (over the average) and pr_auc, with _low and _high (95% interval); of the average and every baseline
    skill_NAME, pr_auc_NAME, and what the model is ahead of it, paired: model_skill_NAME and pr_auc_difference_NAME,
    with _low and _high; seconds; error (message of a fold that failed: it has one row, and no figures). From two
    finished folds on, a last row a stratum, fold "mean of n folds", has the mean of each figure over the folds, and
    for those with _low and _high a 95% interval from Student's t over the folds, each counting once; windows, blocks,
    open_rows and seconds are sums.

    A fold's folder has dataset/, model/, predictions.parquet, baselines.parquet, evaluation_metrics.json and log.txt. A
    fold that is finished, of the very same input and settings, is not run again; one that was interrupted goes on.
    Raises ChromaccError for what no fold could run with, and, when all others are done, if a fold failed.
    """
    jobs = _plan(manifest, genome_fasta, Path(out_dir), tuple(cell_types), parameters, _Job(
        "", "", "", parameters, training, dict(sizes or {}), patience, stop_on_collapse, device,
        {"blacklist": str(blacklist), "truth_manifest": str(truth_manifest), "remote_tracks": remote_tracks},
        {"n_bootstrap": n_bootstrap, "block_bp": block_bp}))  # fmt: skip
    say(f"{len(jobs)} folds: {', '.join(jobs)}")
    rows: dict[str, list[dict]] = {}
    unforeseen: BaseException | None = None
    alone = file_lock(project_path(out_dir) / ".lock", "give a folder", f"{out_dir}: other folds are being run there")
    bar = progress(len(jobs), "folds", "folds")
    with alone, bar, side_by_side(dask_address, workers, device, len(jobs)) as (client, threads):
        futures = {client.submit(_run_fold, job, threads, pure=False): name for name, job in jobs.items()}
        for future in distributed.as_completed(list(futures), loop=client.loop):
            name, error = futures[future], future.exception()
            if error is not None:
                unforeseen = unforeseen or error
                error = str(error) if isinstance(error, ChromaccError) else f"{type(error).__name__}: {error}"
                rows[name] = [{"stratum": "all", "seconds": np.nan, "error": error}]
            else:
                rows[name] = future.result()
            table = _write(jobs, rows, project_path(out_dir))
            say(f"{name}: {_told(rows[name][0])}")
            bar.update()
    failed, written = table[table["error"] != ""], project_path(out_dir) / "folds.csv"
    if len(failed):
        listed = "\n".join(f"  {row.fold}: {row.error}" for row in failed.itertuples())
        raise ChromaccError(
            f"{len(failed)} of {len(jobs)} folds failed:\n{listed}\nThe others are in {written}. Correct what is wrong "
            "and run again: what is finished is not run again") from unforeseen
    say(_verdict(table))
    return table


# --- which folds --------------------------------------------------------------------------------------------
def _plan(manifest: str | Path, genome_fasta: str | Path, out: Path, named: tuple[str, ...],
          parameters: CurationParameters, common: _Job) -> dict[str, _Job]:  # fmt: skip
    """Return {name of the fold: its job}, in the manifest's order."""
    if parameters.test_cell_types:
        raise ChromaccError(f"test_cell_types: got {', '.join(parameters.test_cell_types)}; each fold tests one of its "
                            "own. Leave it empty, and name those to hold out in cell_types (--cell-types)")
    table = keep_cell_types(read_manifest(manifest), parameters.cell_types)
    keep_cell_types(table, named)
    genome_sizes(genome_fasta)  # its index is written before several workers would write it
    folds = [fold for fold in leave_one_out_folds(table, parameters.seed, observed_assays(table))
             if not named or set(named) & set(fold.test_cell_types)]
    jobs, folders = {}, set()
    for fold in folds:
        name = "+".join(fold.test_cell_types)
        chosen = _validation(fold, named, parameters.validation_cell_types)
        folder = re.sub(r"[^\w.+-]+", "_", name).lstrip(".")  # one called .. stays inside, too
        if not folder:
            raise ChromaccError(f"cell type {name!r}: no letter or digit that could name its fold's folder; rename it")
        if folder in folders:
            raise ChromaccError(f"cell types: two folds would have the folder {folder!r}; rename {name!r}")
        folders.add(folder)
        jobs[name] = common._replace(
            folder=str(project_path(out).absolute() / folder), manifest=str(project_path(manifest)),
            genome_fasta=str(project_path(genome_fasta)),
            parameters=replace(parameters, test_cell_types=fold.test_cell_types, validation_cell_types=chosen))
    return jobs


def _validation(fold: Fold, named: tuple[str, ...], given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the fold's validation cell types: those given, or of those drawn the ones that may be held out."""
    if both := sorted(set(given) & set(fold.test_cell_types)):
        raise ChromaccError(f"validation_cell_types: {', '.join(both)} would be held out for validation and tested by "
                            "a fold; leave it out of cell_types (--cell-types), or leave validation_cell_types empty: "
                            "then each fold draws its own")
    drawn = tuple(name for name in fold.validation_cell_types if not named or name in named)
    return given or drawn or ("none",)


# --- one fold, in a worker ----------------------------------------------------------------------------------
def _run_fold(job: _Job, threads: int) -> list[dict]:
    """Curate, train and evaluate, unless it is done; return the fold's rows. What is printed goes to its log.txt."""
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with ALONE, open(folder / "log.txt", "a") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            return _finished(job, folder, threads)
        except Exception:
            traceback.print_exc()
            raise


def _finished(job: _Job, folder: Path, threads: int) -> list[dict]:
    """Return the rows of a fold, from its record or by running what is not done; each step that is done is recorded."""
    began = time.monotonic()
    torch.set_num_threads(threads)
    curation = curate(job.manifest, job.genome_fasta, folder / "dataset", job.parameters, workers=threads,
                      **job.curating)  # fmt: skip
    key = _key(job, curation.summary["fingerprint"])
    record = json.loads((folder / "fold.json").read_text()) if (folder / "fold.json").is_file() else {}
    if record.get("key") != key:
        for name in ("model", "fold.json"):  # of other input or settings
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)
        record = {"key": key, "seconds": 0.0, "trained": False, "rows": []}
        _save(record, folder)
    evaluated_by = [job.evaluating, _code(_EVALUATION)]
    if record["rows"] and record.get("evaluated_by") == evaluated_by:
        return [row | {"seconds": record["seconds"], "error": ""} for row in record["rows"]]
    if not record["trained"]:
        _train(job, folder)
        record |= {"trained": True, "seconds": time.monotonic() - began}
        _save(record, folder)
        began = time.monotonic()
    rows = _evaluate(job, folder)
    record |= {"rows": rows, "evaluated_by": evaluated_by, "seconds": record["seconds"] + time.monotonic() - began}
    _save(record, folder)
    return [row | {"seconds": record["seconds"], "error": ""} for row in rows]


def _key(job: _Job, fingerprint: str) -> str:
    """Hash of what a fold's model depends on; the dataset's fingerprint covers its input and parameters."""
    made_from = [fingerprint, asdict(job.training), job.sizes, job.patience, job.stop_on_collapse, _code(_TRAINING)]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]


def _code(modules: Sequence[str]) -> str:
    """Hash of some modules' sources: another code, another result."""
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join((folder / f"{name}.py").read_bytes() for name in modules)).hexdigest()[:16]


def _save(record: dict, folder: Path) -> None:
    write_durably(folder / "fold.json", json.dumps(record, indent=1))


def _train(job: _Job, folder: Path) -> None:
    require_no_leaks(audit(folder / "dataset"))
    arrays, data = open_training_data(folder / "dataset", job.training.stream_windows)
    fit(folder / "dataset", folder / "model", arrays, data, job.training, dict(job.sizes), device=job.device,
        patience=job.patience, stop_on_collapse=job.stop_on_collapse, gpu=gpu_of_worker(job.device))  # fmt: skip


def _evaluate(job: _Job, folder: Path) -> list[dict]:
    """Predict, fit the baselines, write all tables, and return the fold's rows."""
    arrays = load_arrays(folder / "dataset")
    predictions = predict_dataset(load_model(folder / "model", arrays), arrays)
    write_table(predictions, folder / "predictions.parquet")
    baselines = cached(arrays, folder / "baselines.parquet", folder / "dataset", job.parameters.seed)
    names = arrays.cell_types["cell_type"].tolist()
    replicates = None if arrays.score_replicate is None else replicate_table(arrays.score_replicate, names)
    result = evaluate(predictions, baselines, arrays.simulated, replicates, seed=job.parameters.seed, **job.evaluating)
    write_metrics(result, folder / "evaluation_metrics.json")
    print(result["verdict"])
    split = arrays.cell_types.groupby("split")["cell_type"].agg(", ".join)
    held = {f"{name}_cell_types": split.get(name, "") for name in ("test", "validation", "train")}
    against = {name: entry[HEADLINE] for name, entry in result["baselines"].items()}
    rows = [_row("all", result["quadrants"][HEADLINE], against, result["sizes"][HEADLINE])]
    specific = result["strata"]["varying"]
    if "undefined" in specific:
        print(f"cell-type-specific windows: {specific['undefined']}")
    else:
        rows.append(_row("cell-type-specific", specific["model"], specific["baselines"], specific["sizes"]))
    return [held | row for row in rows]


def _row(stratum: str, model: Mapping, against: Mapping[str, Mapping], sizes: Mapping) -> dict[str, object]:
    """Flatten the metrics of one stratum: numbers by name, None = undefined."""
    row = {"stratum": stratum, **{name: sizes[name] for name in ("windows", "blocks", "open_rows")}}
    row["base_rate"] = _number(model["base_rate"]["value"])
    row |= _with_interval("skill", model["skill"]) | _with_interval("pr_auc", model["pr_auc"])
    for name, entry in against.items():
        row |= {f"{metric}_{name}": _number(entry.get(metric, {}).get("value")) for metric in ("skill", "pr_auc")}
        for metric in ("model_skill", "pr_auc_difference"):
            row |= _with_interval(f"{metric}_{name}", entry.get(metric, {}))
    return row


def _with_interval(name: str, entry: Mapping[str, float]) -> dict[str, float | None]:
    return {f"{name}{end}": _number(entry.get(key)) for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))}


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


# --- the table ----------------------------------------------------------------------------------------------
def _write(jobs: Mapping[str, _Job], rows: Mapping[str, list[dict]], out: Path) -> pd.DataFrame:
    """Write the folds that there are by now, in their order, as folds.csv and folds.json, and return them."""
    listed = [{"fold": name, **row} for name in jobs for row in rows.get(name, ())]
    over = _over_folds(listed)
    table = pd.DataFrame(listed + over)
    last = ["seconds", "error"]
    table = table[[name for name in table if name not in last] + last]
    out.mkdir(parents=True, exist_ok=True)
    write_durably(out / "folds.csv", table.to_csv(index=False).rstrip("\n"))
    write_durably(out / "folds_summary.csv", _summary(table).to_csv(index=False).rstrip("\n"))
    write_metrics({"folds": listed, "over_folds": over}, out / "folds.json")
    return table


def _over_folds(listed: list[dict]) -> list[dict]:
    """Return a row a stratum: means over the finished folds with Student's t, none for fewer than two.

    A figure that is unknown in one of the folds is unknown here.
    """
    result = []
    finished = [row for row in listed if not row["error"]]
    for stratum in dict.fromkeys(row["stratum"] for row in finished):
        table = pd.DataFrame([row for row in finished if row["stratum"] == stratum])
        n = len(table)
        if n < 2:
            continue
        words = ["fold", "stratum", "error", *(f"{split}_cell_types" for split in SPLITS)]
        numbers = table.drop(columns=words, errors="ignore")
        numbers = numbers.astype(float)
        row = {"fold": f"mean of {n} folds", "stratum": stratum}
        for name in numbers:
            if name in SUMS:
                row[name] = numbers[name].sum() if name == "seconds" else int(numbers[name].sum())
            elif not name.endswith(("_low", "_high")):
                values = numbers[name].to_numpy()
                ends = {end: f"{name}_{end}" for end in ("low", "high")}
                row |= _mean_of(values, name, ends) if ends["low"] in numbers else {name: values.mean()}
        result.append(row | {"error": ""})
    return result


def _mean_of(values: np.ndarray, name: str, ends: Mapping[str, str]) -> dict[str, float]:
    """Return the mean over folds and its t-interval on a figure's scale (`intervals.Scale`); NaN where one is unknown.

    Of a skill, the mean is that of log(1 - skill) turned back, 1 - the geometric mean of the ratios of losses: one fold
    with a ratio far above 1 would otherwise outweigh all others, and the interval leave the range of a skill.
    """
    scale = _scale(name)
    moved = scale.forth(values, 1_000_000)
    middle = moved.mean()
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(moved)
    low, mean, high = (float(v) for v in scale.back(np.array([middle - half, middle, middle + half])))
    return {name: mean, ends["low"]: max(low, scale.low), ends["high"]: min(high, scale.high)}


def _scale(name: str) -> iv.Scale:
    """Return the scale of a column: of skills, of differences of AUPRC, or of AUPRC."""
    if name.startswith(("skill", "model_skill")):
        return iv.SKILL
    return iv.DIFFERENCE if "difference" in name else iv.SHARE


def _told(row: Mapping[str, Any]) -> str:
    if row["error"]:
        return f"failed: {row['error']}"
    skill = estimate({"value": row["skill"], "low": row["skill_low"], "high": row["skill_high"]})
    return f"skill {skill} over the average, {row['windows']:,} windows, {row['seconds']:.0f} s"


def _summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row an opponent: in how many folds the model is ahead, behind, or not to be told, and the mean over them.

    By "error" (model_skill) and by "AUPRC" (pr_auc_difference); rows of the stratum "all" of finished folds.
    """
    some = table[(table["stratum"] == "all") & (table["error"] == "")]
    over = some["fold"].str.fullmatch(OVER_FOLDS)
    rows = []
    for name in (c.removeprefix("model_skill_") for c in table if re.fullmatch(r"model_skill_(?!.*_(low|high)$).*", c)):
        for by, figure in (("error", f"model_skill_{name}"), ("AUPRC", f"pr_auc_difference_{name}")):
            if figure not in some:
                continue
            low, high = (some.loc[~over, f"{figure}_{end}"].astype(float) for end in ("low", "high"))
            row = {"opponent": name, "by": by, "folds": len(low), "ahead": int((low > 0).sum()),
                   "behind": int((high < 0).sum()), "not_told": int(((low <= 0) & (high >= 0)).sum()),
                   "unknown": int((low.isna() | high.isna()).sum())}
            for end in ("", "_low", "_high"):
                row[f"mean{end}"] = some.loc[over, f"{figure}{end}"].astype(float).iloc[0] if over.any() else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def _verdict(table: pd.DataFrame) -> str:
    """Say of the average and of every baseline in how many folds the model is ahead, and what the mean over them is."""
    summary = _summary(table)
    if summary.empty:
        return "no fold is finished"
    n = int(summary["folds"].max())
    lines = [f"over {count(n, 'fold')} (of each, 95% intervals from chromosome blocks of one cell type; of the mean, "
             "Student's t over the folds; no correction for the number of opponents):"]
    for name, some in summary.groupby("opponent", sort=False):
        told = "the training-cell-type average" if name == "average" else name.replace("_", " ")
        lines.append(f"  {told}: " + "; ".join(_of_opponent(row) for row in some.to_dict("records")))
    if 1 < n < FEW_FOLDS:
        lines.append(f"  {n} cell types say little about others, and the models of the folds share most of their "
                     "training cell types, so that they are not independent")
    return "\n".join(lines)


def _of_opponent(row: Mapping[str, Any]) -> str:
    """Say how the model stands against one opponent, by error or by AUPRC."""
    text = f"by {row['by']} ahead in {row['ahead']} of {row['folds']}, behind in {row['behind']}, not told apart in {row['not_told']}"
    text += f", unknown in {row['unknown']}" if row["unknown"] else ""
    if np.isfinite(row["mean"]):
        mean = {"value": row["mean"], "low": row["mean_low"], "high": row["mean_high"]}
        text += f"; mean {'skill over it' if row['by'] == 'error' else 'gain'} {estimate(mean)}"
    return text
