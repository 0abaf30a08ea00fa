"""Kill `chromacc run` with signal 9 at random moments in each of the six notebooks, start it again, compare what comes out.

    python tests/benchmarks/kill_notebooks.py [--times 10] [--profile smoke] [--seed 1]

An undisturbed run comes first. Then each stage is killed so many times, while its notebook runs, and let end: in turn
the process of `chromacc run` is killed, its kernel, and both. What the two runs wrote is compared byte by byte, and where
bytes differ (files that hold times), value by value. Exit status 1 where a value differs. The test suite's own kills are
in tests/test_faults.py.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

TARGETS = ("run", "kernel", "both")
TIMES = {"seconds", "samples_per_second", "share_waiting_for_data", "created", "seconds_total"}  # columns and keys


def command(profile: str, base: Path, *more: str) -> list[str]:
    """Return the command line of a run below a folder."""
    places = [f"run_dir={base / 'report'}", f"dataset_dir={base / 'dataset'}", f"raw_dir={base / 'raw'}"]
    return [sys.executable, "-m", "chromacc_lib.cli", "run", profile, "--set", *places, *more]


def record(base: Path) -> dict:
    """Return run.json's stages; {} before there is one."""
    path = base / "report" / "run.json"
    return json.loads(path.read_text())["stages"] if path.is_file() else {}


def to_the_end(line: list[str]) -> None:
    """Run a command that has to succeed."""
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def kill_in(stage: str, takes: float, line: list[str], base: Path, draw: random.Random, target: str) -> bool:
    """Start a run, and kill what `target` names of it at a random moment of a stage; False: it had ended by then."""
    before = record(base).get(stage, {}).get("started")
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        entry = record(base).get(stage, {})
        if entry.get("state") == "running" and entry.get("started") != before:
            break
        time.sleep(0.05)
    try:
        process.wait(draw.uniform(0, takes))
        return False
    except subprocess.TimeoutExpired:
        kernels = [child.pid for child in psutil.Process(process.pid).children() if "ipykernel" in " ".join(child.cmdline())]
    for pid in [process.pid] * (target != "kernel") + kernels * (target != "run"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return process.wait() != 0


def begin_anew(stage: str, base: Path) -> None:
    """Remove what a stage wrote, since it came to its end before it was killed."""
    for path in map(Path, record(base)[stage]["outputs"]):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def values(path: Path) -> object:
    """Return what a file holds, without times, so that two can be compared; its bytes, where its form is not known."""
    if path.suffix == ".json":
        return json.dumps(without_times(json.loads(path.read_text())), sort_keys=True)
    if path.suffix == ".csv":
        return pd.read_csv(path).drop(columns=list(TIMES), errors="ignore").to_csv()
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name].tobytes() for name in arrays.files}
    if path.is_dir():
        return {str(one.relative_to(path)): one.read_bytes() for one in sorted(path.rglob("*")) if one.is_file()}
    return path.read_bytes()


def without_times(content: object) -> object:
    """Return a JSON value without what `TIMES` names."""
    if isinstance(content, dict):
        return {name: without_times(value) for name, value in content.items() if name not in TIMES}
    return [without_times(one) for one in content] if isinstance(content, list) else content


def compare(stage: str, ours: dict, theirs: dict, base: Path, kept: Path) -> tuple[int, list[str], list[str]]:
    """Return how many files of a stage agree in every byte, those that agree in all but times, and those that do not."""
    equal, but_times, differ = 0, [], sorted(set(ours[stage]["outputs"]) ^ set(theirs[stage]["outputs"]))
    for name, sha in ours[stage]["outputs"].items():
        if name.endswith(".ipynb") or name in differ:
            continue
        if theirs[stage]["outputs"][name] == sha:
            equal += 1
            continue
        path = Path(name)
        same = values(path) == values(kept / path.relative_to(base))
        (but_times if same else differ).append(path.name)
    return equal, but_times, differ


def main() -> int:
    """Print a line a stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder, draw = Path(tempfile.mkdtemp(prefix="chromacc-kills-")), random.Random(options.seed)
    base, kept = folder / "run", folder / "undisturbed"
    to_the_end(command(options.profile, base))
    undisturbed = record(base)
    base.rename(kept)
    failed = False
    print(f"{'stage':<28}{'seconds':>9}{'kills':>7}{'equal files':>13}  equal but for times; different")
    for stage in undisturbed:
        line, takes, kills, tries = command(options.profile, base, "--until", stage), undisturbed[stage]["seconds"], 0, 0
        while kills < options.times and tries < 4 * options.times:
            tries += 1
            if kill_in(stage, takes, line, base, draw, TARGETS[kills % 3]):
                kills += 1
            else:
                begin_anew(stage, base)
        to_the_end(command(options.profile, base, "--until", stage))
        equal, but_times, differ = compare(stage, record(base), undisturbed, base, kept)
        failed |= bool(differ) or kills < options.times
        print(f"{stage:<28}{takes:>9.1f}{kills:>7}{equal:>13}  {', '.join(but_times) or '-'}; {', '.join(differ) or '-'}", flush=True)
    if failed:
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
