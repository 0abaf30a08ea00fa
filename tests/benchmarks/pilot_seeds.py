"""The pilot over seeds: another simulated genome, other held-out cell types and another training each time.

    python tests/benchmarks/pilot_seeds.py [--seeds 1 2 3 4 5] [--at-once 2]

Runs `chromacc run pilot` for each seed, up to the diagnosis, in reports/pilot-seed<K>, as many side by side as asked for
(a run that is up to date is not run again), and prints the figures of unseen cell types x unseen chromosomes. Each seed
counts once: intervals are Student's t over seeds, of the logarithm of the ratio of losses where it is a skill. Returns 1
where a run failed or is not healthy, or an aim is missed.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import stats

from chromacc_lib import project_path

QUADRANT = "unseen_cell_type_x_unseen_chromosome"
OPPONENTS = ("boosting_with_average", "boosting_with_like_cell_types")
GOAL_CEILING = 0.95  # of the Pearson correlation that the noise-free truth reaches


def run(seed: int, threads: int) -> int:
    """Run the pilot with a seed; return its status."""
    data, log = f"data/pilot-seed{seed}", project_path(f"reports/pilot-seed{seed}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "chromacc_lib.cli", "run", "pilot", "--run-id", f"pilot-seed{seed}", "--until",
               "04_collapse_diagnostics", "--set", f"seed={seed}", f"raw_dir={data}/raw",
               f"dataset_dir={data}/dataset"]  # fmt: skip
    with log.open("w") as out:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        return subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=environment).returncode


def over_seeds(values: list[float]) -> tuple[float, float, float]:
    """Mean over seeds and its 95% t-interval."""
    mean, half = float(np.mean(values)), 0.0
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def show(what: str, values: list[float], is_skill: bool = False) -> tuple[float, float, float]:
    """Print a figure seed by seed, and over seeds; return the latter."""
    if is_skill:
        mean, low, high = (1 - np.exp(v) for v in over_seeds([float(np.log(1 - v)) for v in values]))
        low, high = high, low
    else:
        mean, low, high = over_seeds(values)
    by_seed = " ".join(f"{value:+.3f}" for value in values)
    print(f"{what:52} {by_seed}   {mean:+.3f} ({low:+.3f} to {high:+.3f})")
    return mean, low, high


def main() -> int:
    """Run, print the table and the aims."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side, with a thread each")
    options = parser.parse_args()
    with ThreadPoolExecutor(options.at_once) as executor:
        failed = [s for s, rc in zip(options.seeds, executor.map(lambda s: run(s, 1), options.seeds)) if rc]
    if failed:
        print(f"runs that failed: seeds {failed}; see reports/pilot-seed<K>.log", file=sys.stderr)
        return 1
    runs = [project_path(f"reports/pilot-seed{seed}") for seed in options.seeds]
    metrics = [json.loads((run / "evaluation_metrics.json").read_text()) for run in runs]
    verdicts = [json.loads((run / "collapse_diagnostics.json").read_text())["verdict"] for run in runs]
    against = lambda name, figure: [m["baselines"][name][QUADRANT][figure]["value"] for m in metrics]
    print(f"simulated data, unseen cell types x unseen chromosomes\n{'':52} seeds {options.seeds}, mean (95% interval)")
    met = [show("skill over the average", [m["headline"]["skill"]["value"] for m in metrics], True)[1] > 0]
    show("AUPRC above the average's", [m["headline"]["pr_auc_gain"]["value"] for m in metrics])
    for name in OPPONENTS:
        words = name.replace("_", " ")
        met.append(show(f"skill over {words}", against(name, "model_skill"), True)[1] > 0)
        show(f"AUPRC above that of {words}", against(name, "pr_auc_difference"))
    show("Pearson", [m["headline"]["pearson"]["value"] for m in metrics])
    share = show("its share of the ceiling's", [m["ceiling"]["fraction_of_pearson"]["value"] for m in metrics])[0]
    met += [share >= GOAL_CEILING, set(verdicts) == {"healthy"}]
    aims = ("skill over the average above 0", *(f"ahead of {name.replace('_', ' ')}" for name in OPPONENTS),
            f"{GOAL_CEILING:.0%} of the ceiling's Pearson", f"no collapse (verdicts: {', '.join(verdicts)})")  # fmt: skip
    for is_met, aim in zip(met, aims, strict=True):
        print(f"{'met   ' if is_met else 'MISSED'} {aim}")
    return int(not all(met))


if __name__ == "__main__":
    sys.exit(main())
