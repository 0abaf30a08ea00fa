"""Train many settings side by side and put them in one table: a search over a grid, or an ablation by name.

Only validation rows have a say: every figure is that of the epoch which the run would keep. Test cell types and test
chromosomes are never looked at.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pandas as pd
import torch
import yaml

from chromacc_lib import ChromaccError
from chromacc_lib.cache import file_lock
from chromacc_lib.dataset import Arrays, load_arrays
from chromacc_lib.devices import choose_device, device_words, start_fabric
from chromacc_lib.model import ModelConfig
from chromacc_lib.monitor import Monitor
from chromacc_lib.problems import YAML_ERRORS
from chromacc_lib.progress import progress
from chromacc_lib.provenance import reached_sources
from chromacc_lib.training import FROM_DATA, TrainingConfig, train
from chromacc_lib.workers import ALONE, gpu_of_worker, side_by_side

__all__ = ["Sweep", "read_sweep", "run_sweep", "summarise"]

FIGURES = ("validation_mse", "validation_skill", "validation_pearson", "seconds", "samples_per_second")
_TRAINING = {f.name for f in fields(TrainingConfig)}
_MODEL = {f.name for f in fields(ModelConfig)} - set(FROM_DATA)


@dataclass(frozen=True)
class Sweep:
    """What to train: every setting with every seed.

    settings: {name: {field: value}}, each on top of base; fields are those of TrainingConfig and ModelConfig. The first
    is what the others are compared with. windows: so many training windows, evenly spaced; 0 = all. stop_on_collapse: end
    runs that head for collapse, see `monitor.Monitor`.
    """

    settings: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...] = (1,)
    base: Mapping[str, Any] = field(default_factory=dict)
    windows: int = 0
    stop_on_collapse: bool = False

    def __post_init__(self) -> None:
        problems = []
        for where, given in {"base": self.base, **self.settings}.items():
            for name in given:
                if name not in _TRAINING | _MODEL or name == "seed":
                    near = get_close_matches(name, _TRAINING | _MODEL, 1)
                    problems.append(f"{where}: {name!r} is no setting" + (f"; did you mean {near[0]!r}?" if near else ""))
        if not self.settings or not self.seeds:
            problems.append("needed: at least one setting and one seed")
        if problems:
            raise ChromaccError("sweep: " + "; ".join(problems))


def read_sweep(path: str | Path) -> Sweep:
    """Read a sweep from YAML: `seeds`, `base`, `windows`, `stop_on_collapse`, and `settings` by name or a `grid` of lists.

    Of a grid, all combinations are taken, or `draw` of them, drawn by `draw_seed` (1). Raises ChromaccError for
    anything else that the file holds.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig")) or {}
    except (OSError, *YAML_ERRORS) as error:
        raise ChromaccError(f"{path}: this sweep cannot be read ({error})") from error
    known = {"seeds", "base", "windows", "settings", "grid", "draw", "draw_seed", "stop_on_collapse"}
    if not isinstance(content, dict) or set(content) - known or ("settings" in content) == ("grid" in content):
        raise ChromaccError(
            f"{path}: a sweep holds `settings` or `grid`, not both, and may hold seeds, base, windows, draw, draw_seed, "
            f"stop_on_collapse; got {', '.join(map(str, content)) if isinstance(content, dict) else type(content).__name__}"
        )
    _require_types(path, content)
    settings = content.get("settings")
    if settings is None:
        settings = {_name(combination): combination for combination in _combinations(content["grid"])}
        if "draw" in content:
            chosen = random.Random(content.get("draw_seed", 1)).sample(sorted(settings), min(content["draw"], len(settings)))
            settings = {name: settings[name] for name in chosen}
    settings = {name: given or {} for name, given in settings.items()}
    return Sweep(settings, tuple(content.get("seeds", (1,))), content.get("base") or {}, content.get("windows", 0),
                 content.get("stop_on_collapse", False))  # fmt: skip


def _require_types(path: str | Path, content: Mapping[str, Any]) -> None:
    """Raise ChromaccError that lists every entry of a sweep's file which is not of its kind."""

    def is_number(value: object) -> bool:
        """Whether it is a whole number, 0 or more; True and False are none."""
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0

    def is_mapping(value: object) -> bool:
        """Whether it has names for keys."""
        return isinstance(value, dict) and all(isinstance(name, str) for name in value)

    kinds = {
        "seeds": ("a list of whole numbers", lambda v: isinstance(v, list) and all(map(is_number, v))),
        "base": ("settings with values", lambda v: v is None or is_mapping(v)),
        "settings": ("names, each with settings and values", lambda v: is_mapping(v) and all(
            one is None or is_mapping(one) for one in v.values())),
        "grid": ("settings, each with a list of values", lambda v: is_mapping(v) and all(isinstance(one, list) for one in v.values())),
        "windows": ("a whole number", is_number), "draw": ("a whole number", is_number), "draw_seed": ("a whole number", is_number),
        "stop_on_collapse": ("true or false", lambda v: isinstance(v, bool)),
    }  # fmt: skip
    wrong = [f"{name}: got {content[name]!r}, needed {needed}" for name, (needed, fits) in kinds.items()
             if name in content and not fits(content[name])]
    if wrong:
        raise ChromaccError(f"{path}: this sweep cannot be read: {'; '.join(wrong)}")


def _combinations(grid: Mapping[str, list]) -> list[dict[str, Any]]:
    return [dict(zip(grid, values)) for values in itertools.product(*grid.values())]


def _name(combination: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in combination.items())


def run_sweep(
    dataset_dir: str | Path, sweep: Sweep, out_dir: str | Path, workers: int | None = None, dask_address: str = "",
    device: str = "auto", say: Callable[[str], None] = print,
) -> pd.DataFrame:  # fmt: skip
    """Train every setting with every seed; returns and writes `out_dir`/sweep.csv, one row a run.

    Columns: setting, seed, the figures of FIGURES at the best epoch (seconds: of all epochs), best_epoch, epochs,
    parameters, warning (the first line in which `monitor.Monitor` warned of the run, if it did), stopped (why it ended
    before its last epoch, if it did), error (a run that fails has its message here and no figures), key. A run that
    stands in the table already, of the same settings (defaults too), seed, dataset and code, is not trained again, so
    an interrupted sweep goes on. workers: runs at a time, None = one a GPU, or on CPUs one a core, each with its share
    of the threads. dask_address: of a scheduler whose workers have this project installed and see dataset_dir.
    Raises ChromaccError while another sweep writes there.
    """
    table_path = Path(out_dir) / "sweep.csv"
    with file_lock(table_path.with_name(".lock"), "give a folder", f"{out_dir}: another sweep is being run there"):
        return _run_sweep(dataset_dir, sweep, table_path, workers, dask_address, device, say)


def _run_sweep(
    dataset_dir: str | Path, sweep: Sweep, table_path: Path, workers: int | None, dask_address: str, device: str,
    say: Callable[[str], None],
) -> pd.DataFrame:  # fmt: skip
    """Do what `run_sweep` says, in a folder that is locked."""
    dataset = json.loads((Path(dataset_dir) / "curation.json").read_text())["fingerprint"]
    shared, jobs = [sweep.windows, dataset, reached_sources("import chromacc_lib.training, chromacc_lib.monitor")], {}
    for name, seed in itertools.product(sweep.settings, sweep.seeds):
        given = {**sweep.base, **sweep.settings[name], "seed": seed}
        made_from = [given, shared, *(["stop on collapse"] if sweep.stop_on_collapse else [])]
        key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
        jobs[name, seed] = key, given
    rows = pd.read_csv(table_path).to_dict("records") if table_path.is_file() else []
    done = {row["key"] for row in rows if not isinstance(row["error"], str)}
    rows = [row for row in rows if row["key"] in done]
    todo = {who: given for who, (key, given) in jobs.items() if key not in done}
    say(f"{len(jobs)} runs ({len(sweep.settings)} settings x {len(sweep.seeds)} seeds), {len(jobs) - len(todo)} done before")
    if not dask_address:
        say(device_words(choose_device(device)))
    bar = progress(len(jobs), "sweep", "runs", len(jobs) - len(todo))
    with bar, side_by_side(dask_address, workers, device) as (client, threads):
        arguments = {"dataset_dir": str(Path(dataset_dir).absolute()), "windows": sweep.windows, "device": device,
                     "threads": threads, "stop_on_collapse": sweep.stop_on_collapse}  # fmt: skip
        futures = {client.submit(_run, given, **arguments, pure=False): who for who, given in todo.items()}
        for future, result in distributed.as_completed(list(futures), loop=client.loop, with_results=True):
            name, seed = futures[future]
            rows.append({"setting": name, "seed": seed, **result, "key": jobs[name, seed][0]})
            pd.DataFrame(rows).to_csv(table_path.with_suffix(".new"), index=False)
            table_path.with_suffix(".new").replace(table_path)
            figures = result["error"] or f"validation skill {result['validation_skill']:+.3f}, {result['seconds']:.0f} s"
            say(f"{name}, seed {seed}: {figures}" + (f"; {result['warning']}" if result["warning"] else ""))
            bar.update()
    found = {row["key"]: row for row in rows}  # named as they are asked for now, in that order
    return pd.DataFrame([found[key] | {"setting": name, "seed": seed} for (name, seed), (key, _) in jobs.items()])


def _run(
    given: Mapping[str, Any], dataset_dir: str, windows: int, device: str, threads: int, stop_on_collapse: bool
) -> dict[str, Any]:
    """Train one setting in a worker; the figures of the epoch that it keeps, or the message of what went wrong."""
    warnings: list[str] = []
    sizes = {name: value for name, value in given.items() if name in _MODEL}
    try:
        settings = TrainingConfig(**{name: value for name, value in given.items() if name in _TRAINING})
        with ALONE:
            torch.set_num_threads(threads)
            fabric = start_fabric(device, settings.precision, gpu_of_worker(device))
            result = train(_arrays(dataset_dir, windows), settings, sizes=sizes, fabric=fabric,
                           callbacks=[Monitor(warnings.append, stop_on_collapse)])  # fmt: skip
    except ChromaccError as error:
        none = dict.fromkeys((*FIGURES, "best_epoch", "epochs", "parameters"), np.nan)
        return none | {"warning": "".join(warnings[:1]), "stopped": "", "error": str(error)}
    best = result.history.set_index("epoch").loc[result.best_epoch]
    figures = {figure: float(best[figure]) for figure in FIGURES} | {"seconds": float(result.history["seconds"].sum())}
    parameters = sum(p.numel() for p in result.model.parameters())
    return figures | {"best_epoch": result.best_epoch, "epochs": len(result.history), "parameters": parameters,
                      "warning": "".join(warnings[:1]), "stopped": result.stopped, "error": ""}  # fmt: skip


@lru_cache(maxsize=1)
def _arrays(dataset_dir: str, windows: int) -> Arrays:
    arrays = load_arrays(dataset_dir)
    train_windows = np.flatnonzero(arrays.windows["split"].to_numpy() == "train")
    if not 0 < windows < len(train_windows):
        return arrays
    kept = train_windows[np.linspace(0, len(train_windows) - 1, windows).round().astype(int)]
    split = arrays.windows["split"].to_numpy(copy=True)
    split[np.setdiff1d(train_windows, kept)] = "left out"
    return replace(arrays, windows=arrays.windows.assign(split=split))


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """One row a setting, in the table's order: its mean figures, and what it differs from the first in, seed by seed.

    Columns: setting, seeds, validation_skill (mean), skill_sd (over seeds), difference (mean over the seeds that both
    have), lowest, highest (of the seeds' differences), seconds (mean), failed (runs with an error).
    """
    first = table["setting"].iloc[0]
    skill = table.pivot_table(index="seed", columns="setting", values="validation_skill", dropna=False)
    rows = []
    for name, runs in table.groupby("setting", sort=False):
        apart = (skill[name] - skill[first]).dropna()
        rows.append({
            "setting": name, "seeds": int(runs["validation_skill"].notna().sum()),
            "validation_skill": runs["validation_skill"].mean(), "skill_sd": runs["validation_skill"].std(),
            "difference": apart.mean(), "lowest": apart.min(), "highest": apart.max(),
            "seconds": runs["seconds"].mean(), "failed": int(runs["validation_skill"].isna().sum()),
        })  # fmt: skip
    return pd.DataFrame(rows)
