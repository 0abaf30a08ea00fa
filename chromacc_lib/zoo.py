"""The collapse zoo: break a healthy run in every known way, one at a time, and see whether the diagnosis names it.

A case is a fault, one of its three strengths and a seed. The seed chooses the windows and cell types of a reduced run
(`reduced`) out of a curated dataset, and everything that is drawn afterwards. Faults that leave the training alone are
planted in the seed's one healthy run. Everything about the zoo's data is as simulated, or as real, as the dataset.
"""

import copy
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from chromacc_lib import ChromaccError
from chromacc_lib.callbacks import Callback, TrainingState
from chromacc_lib.collapse import Diagnosis, diagnose
from chromacc_lib.dataset import Arrays, load_arrays
from chromacc_lib.faults import Fault, Run
from chromacc_lib.inference import predict_dataset
from chromacc_lib.monitor import watch
from chromacc_lib.progress import progress
from chromacc_lib.provenance import reached_sources
from chromacc_lib.training import TrainingConfig, train
from chromacc_lib.workers import ALONE, side_by_side
from chromacc_lib.zoo_data import DATA_FAULTS, GENERALISATION_FAULTS
from chromacc_lib.zoo_training import MODEL_FAULTS, TRAINING_FAULTS

__all__ = ["FAULTS", "GALLERY", "HEALTHY", "confusion", "finish", "gallery", "healthy_run", "plant", "reduced", "run_zoo",
           "summarise_zoo"]

HEALTHY = "healthy"
FAULTS: dict[str, Fault] = {fault.name: fault for fault in (*DATA_FAULTS, *TRAINING_FAULTS, *MODEL_FAULTS,
                                                            *GENERALISATION_FAULTS)}  # fmt: skip
# For a look at the zoo in seconds: faults at their strongest that need no training but the healthy run's.
GALLERY = ("constant output", "dead modality", "reads GC")

# Enough to learn from in five seconds on one core, and to test on with an AUC interval of about +-0.06.
WINDOWS = {"train": 480, "validation": 150, "test": 400}
CELL_TYPES = {"train": 8, "validation": 2, "test": 3}
SIZES = {"d_model": 32, "sequence_layers": 1, "encoder_layers": 2, "encoder_heads": 4, "histone_filters": 16,
         "histone_blocks": 1, "tf_hidden": 32}
SETTINGS = {"epochs": 6, "batch_windows": 16, "cells_per_window": 4, "learning_rate": 5e-3, "precision": "32-true"}
SEEN_WINDOWS = 100      # of training chromosomes that are predicted in every cell type
COLUMNS = ("fault", "group", "stage", "strength", "strength_in_words", "seed", "planted", "named", "named_first",
           "alternatives", "verdict", "confidence", "sentence", "failed", "warned_epoch", "warned_of", "seconds", "simulated",
           "key")


# --- a reduced run ---------------------------------------------------------------------------------------------
def reduced(arrays: Arrays, seed: int, windows: dict[str, int] | None = None,
            cell_types: dict[str, int] | None = None) -> Arrays:
    """Return a part of a dataset: of each split at most so many windows and cell types, drawn by the seed.

    Windows are taken in stretches, one of each chromosome, so that neighbours stay neighbours. Cell types: at random.
    """
    rng = np.random.default_rng((seed, 0))
    places = arrays.windows.reset_index(drop=True).sort_values(["chrom", "start"])
    chosen = []
    for split, most in (WINDOWS if windows is None else windows).items():
        whole = [group.index.to_numpy() for _, group in places[places["split"] == split].groupby("chrom")]
        share = min(1.0, most / max(1, sum(map(len, whole))))
        for stretch in whole:
            n = round(share * len(stretch))
            start = rng.integers(len(stretch) - n + 1)
            chosen.append(stretch[start:start + n])
    splits = arrays.cell_types["split"].to_numpy()
    cells = [rng.permutation(np.flatnonzero(splits == split))[:most]
             for split, most in (CELL_TYPES if cell_types is None else cell_types).items()]
    return taken(arrays, np.sort(np.concatenate(chosen)), np.sort(np.concatenate(cells)))


def taken(arrays: Arrays, windows: np.ndarray, cells: np.ndarray) -> Arrays:
    """Return some windows and cell types of a dataset, by index, in the order that is given."""
    at = np.ix_(windows, cells)
    by_both = ("histone", "histone_observed", "tf", "tf_observed", "accessibility", "score", "label", "truth",
               "score_replicate")
    return replace(
        arrays, sequence=arrays.sequence[windows], windows=arrays.windows.iloc[windows].reset_index(drop=True),
        metadata=arrays.metadata[cells], metadata_observed=arrays.metadata_observed[cells],
        cell_types=arrays.cell_types.iloc[cells].reset_index(drop=True),
        **{name: getattr(arrays, name)[at] for name in by_both if getattr(arrays, name) is not None})


def healthy_run(arrays: Arrays, seed: int, **settings: Any) -> Run:
    """Return a run of the zoo's settings, not yet trained. arrays: already reduced. settings: that differ."""
    return Run(arrays, TrainingConfig(**{**SETTINGS, "seed": seed, **settings}), SIZES)


class _Kept(Callback):
    """Keep the state of a training within reach, so that one which breaks off can be looked at."""

    def on_start(self, state: TrainingState) -> None:
        """Take hold of the state."""
        self.state = state


def trained(run: Run) -> Run:
    """Train, and return the run with its model and history.

    Of a training that breaks off, what it leaves behind: the weights of its last step, and the epochs that ended with
    one more row for that which did not (its validation figures NaN).
    """
    kept = _Kept()
    try:
        result = train(run.arrays, run.config, "cpu", dict(run.sizes), [kept, *(make() for make in run.callbacks)])
        return replace(run, model=result.model, history=result.history)
    except ChromaccError as error:
        if not hasattr(kept, "state"):  # it never began: a fault of the zoo, not of the run
            raise
        state = kept.state
        broken = {"epoch": state.epoch, "train_loss": np.nan, "validation_mse": np.nan, "error": str(error)}
        steps = pd.DataFrame(state.steps).mean().drop(["step", "wait", "samples"], errors="ignore")
        history = pd.DataFrame([*state.history, {**steps, **broken}])
        return replace(run, model=copy.deepcopy(state.model).to("cpu").eval(), history=history)


def predicted(run: Run) -> Run:
    """Predict with the run's model, in evaluation's own way."""
    return replace(run, predictions=predict_dataset(run.model, run.arrays, 32, SEEN_WINDOWS))


def finish(run: Run) -> Run:
    """Train and predict, as far as that is not done."""
    run = trained(run) if run.model is None else run
    return predicted(run) if run.predictions is None else run


def plant(run: Run, fault: Fault, strength: int, seed: int, healthy: Callable[[], Run] | None = None) -> Run:
    """Return a finished run with a fault in it; strength 1 to 3.

    run: healthy and not trained. healthy: gives the same run finished, for faults that leave training alone; it is
    trained here when not given.
    """
    rng = np.random.default_rng((seed, strength, *fault.name.encode()))
    value = fault.strengths[strength - 1][1]
    if fault.stage == "training":
        return finish(fault.plant(run, value, rng))
    done = (healthy or (lambda: finish(run)))()
    if fault.stage == "prediction":
        done = replace(done, model=copy.deepcopy(done.model), predictions=None)
    return finish(fault.plant(done, value, rng))


def diagnosed(run: Run, seed: int) -> Diagnosis:
    """Diagnose a finished run with what it is to be given."""
    return diagnose(run.predictions, seed=seed, **{name: getattr(run, name) for name in run.given})


# --- the whole zoo ---------------------------------------------------------------------------------------------
def run_zoo(
    dataset_dir: str | Path, out_dir: str | Path, seeds: Sequence[int] = (1, 2, 3), faults: Sequence[str] = (),
    strengths: Sequence[int] = (1, 2, 3), healthy: int = 10, workers: int | None = None, dask_address: str = "",
    say: Callable[[str], None] = print,
) -> pd.DataFrame:  # fmt: skip
    """Run every case, and `healthy` runs of seeds 1, 2, ...; returns and writes `out_dir`/zoo.csv, one row a case.

    faults: names of FAULTS, () = all. The columns are COLUMNS; failed: names of the checks that failed; warned_epoch,
    warned_of: when the monitor would first have warned while the model trained, and of what (0 and "": never). A case that
    stands in the table already, of the same dataset, settings and code, is not run again, so that a zoo which was
    interrupted goes on; confusion.csv is `confusion` of the table. Raises ChromaccError for a fault that is not known.
    """
    unknown = sorted(set(faults) - set(FAULTS))
    if unknown:
        raise ChromaccError(f"zoo: no fault is called {', '.join(map(repr, unknown))}; there are: {'; '.join(FAULTS)}")
    dataset, out = Path(dataset_dir).absolute(), Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    cases = [(HEALTHY, 0, seed) for seed in range(1, healthy + 1)]
    cases += [case for seed in seeds for case in itertools.product(faults or FAULTS, strengths, (seed,))]
    keys = {case: key for case, key in zip(cases, _keys(cases, dataset))}
    rows = pd.read_csv(out / "zoo.csv").to_dict("records") if (out / "zoo.csv").is_file() else []
    rows = [row for row in rows if row["key"] in set(keys.values())]
    done = {row["key"] for row in rows}
    todo = [case for case in cases if keys[case] not in done]
    say(f"{len(cases)} cases, {len(cases) - len(todo)} done before")
    begun = time.monotonic()
    bar = progress(len(cases), "zoo", "cases", len(cases) - len(todo))
    with bar, side_by_side(dask_address, workers, "cpu", max(1, len(todo))) as (client, _):
        futures = {client.submit(_case, *case, str(dataset), pure=False): case for case in todo}
        for future, row in distributed.as_completed(list(futures), loop=client.loop, with_results=True):
            rows.append(row | {"key": keys[futures[future]]})
            _write(pd.DataFrame(rows, columns=COLUMNS), out / "zoo.csv")
            say(_line(row))
            bar.update()
    order = {key: i for i, key in enumerate(keys.values())}
    table = pd.DataFrame(sorted(rows, key=lambda row: order[row["key"]]), columns=COLUMNS)
    _write(table, out / "zoo.csv")
    _write(confusion(table).reset_index(), out / "confusion.csv")
    say(f"{len(todo)} cases in {time.monotonic() - begun:.0f} s")
    return table


def _keys(cases: Sequence[tuple[str, int, int]], dataset: Path) -> list[str]:
    """Return a key a case: it changes with the dataset, the settings and the code."""
    fingerprint = json.loads((dataset / "curation.json").read_text())["fingerprint"]
    shared = [fingerprint, WINDOWS, CELL_TYPES, SIZES, SETTINGS, SEEN_WINDOWS,
              reached_sources("import chromacc_lib.zoo")]
    return [hashlib.sha256(json.dumps([case, shared], sort_keys=True).encode()).hexdigest()[:16] for case in cases]


def _write(table: pd.DataFrame, path: Path) -> None:
    """Write a table whole or not at all."""
    table.to_csv(path.with_suffix(".new"), index=False)
    path.with_suffix(".new").replace(path)


def _line(row: dict[str, Any]) -> str:
    """What came of a case, in one line."""
    what = row["fault"] if row["fault"] == HEALTHY else f"{row['fault']}, {row['strength_in_words']}"
    return f"{'ok  ' if row['named_first'] else 'MISS'} {what}, seed {row['seed']}: {row['named']}, {row['seconds']:.1f} s"


def _case(name: str, strength: int, seed: int, dataset: str) -> dict[str, Any]:
    """Run one case in a worker; its row of the table, without the key. One thread: the models are too small for two."""
    with ALONE, threadpool_limits(1):
        torch.set_num_threads(1)
        fault, begun = FAULTS.get(name), time.monotonic()
        if fault is None:
            done = _healthy(dataset, seed)
        else:
            done = plant(_start(dataset, seed), fault, strength, seed, lambda: _healthy(dataset, seed))
        found = diagnosed(done, seed)
    return case_row(fault, strength, seed, done, found, time.monotonic() - begun)


def case_row(fault: Fault | None, strength: int, seed: int, run: Run, found: Diagnosis, seconds: float
             ) -> dict[str, Any]:  # fmt: skip
    """Return the row of a case, without its key; fault None: a healthy run."""
    planted = HEALTHY if fault is None else fault.cause
    named = HEALTHY if found.verdict == "healthy" else found.cause
    warnings = watch(run.history, run.config)
    return {
        "fault": HEALTHY if fault is None else fault.name, "group": HEALTHY if fault is None else fault.group,
        "stage": "" if fault is None else fault.stage, "strength": strength,
        "strength_in_words": "" if fault is None else fault.strengths[strength - 1][0], "seed": seed,
        "planted": planted, "named": named, "named_first": planted == named,
        "alternatives": "; ".join(found.alternatives), "verdict": found.verdict, "confidence": found.confidence,
        "sentence": found.sentence, "failed": "; ".join(c.name for c in found.checks if c.verdict == "fail"),
        "warned_epoch": int(warnings["epoch"].iloc[0]) if len(warnings) else 0,
        "warned_of": warnings["cause"].iloc[0] if len(warnings) else "", "seconds": seconds, "simulated": found.simulated,
    }


@lru_cache(maxsize=1)
def _arrays(dataset: str) -> Arrays:
    return load_arrays(dataset)


@lru_cache(maxsize=2)
def _start(dataset: str, seed: int) -> Run:
    return healthy_run(reduced(_arrays(dataset), seed), seed)


@lru_cache(maxsize=2)
def _healthy(dataset: str, seed: int) -> Run:
    return finish(_start(dataset, seed))


def gallery(arrays: Arrays, seed: int, faults: Sequence[str] = GALLERY) -> pd.DataFrame:
    """Return the rows of a zoo in small: one healthy run, and `faults` planted in it at their strongest, in one process.

    arrays: a whole dataset; the seed chooses the part of it that is trained on. Columns: COLUMNS but for the key.
    """
    begun = time.monotonic()
    start = healthy_run(reduced(arrays, seed), seed)
    done = finish(start)
    rows = [case_row(None, 0, seed, done, diagnosed(done, seed), time.monotonic() - begun)]
    for name in faults:
        fault, begun = FAULTS[name], time.monotonic()
        broken = plant(start, fault, 3, seed, lambda: done)
        rows.append(case_row(fault, 3, seed, broken, diagnosed(broken, seed), time.monotonic() - begun))
    return pd.DataFrame(rows)


# --- what came of it -------------------------------------------------------------------------------------------
def confusion(table: pd.DataFrame) -> pd.DataFrame:
    """Return the number of cases by planted cause (rows) and named cause (columns), both in the order of the table.

    Causes that were planted come first among the columns, so that a perfect zoo is a diagonal.
    """
    planted = list(dict.fromkeys(table["planted"]))
    named = [*planted, *sorted(set(table["named"]) - set(planted))]
    counts = pd.crosstab(table["planted"], table["named"])
    return counts.reindex(index=planted, columns=named, fill_value=0)


def summarise_zoo(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row a fault: group, fault, planted, cases, named_first (cases), named_otherwise (in words), warned (cases
    in which the monitor would have warned), seconds.
    """
    rows = []
    for fault, cases in table.groupby("fault", sort=False):
        wrong = cases.loc[~cases["named_first"].astype(bool), "named"].value_counts()
        rows.append({
            "group": cases["group"].iloc[0], "fault": fault, "planted": cases["planted"].iloc[0], "cases": len(cases),
            "named_first": int(cases["named_first"].sum()),
            "named_otherwise": "; ".join(f"{n} x {name}" for name, n in wrong.items()),
            "warned": int((cases["warned_epoch"] > 0).sum()), "seconds": cases["seconds"].sum(),
        })
    return pd.DataFrame(rows)
