"""Kill one stage at random moments, again and again, and start it again: run by test_faults in a process of its own.

    python kill_trials.py STAGE PROJECT OUT TIMES [DATASET [MODEL]]

STAGE: curate, train, predict or run. OUT-0 is what an undisturbed run leaves; OUT-1 and on what each run leaves that came
to its end after those that were killed. Every run is a fork of this process, which has imported all and computed nothing.
The last line printed: how many runs were killed on their way, and how many folders there are.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import test_fit
from conftest import PARAMETERS

from chromacc_lib import curation, fit, pipeline, prediction


def silent(line: str) -> None:
    """Print nothing."""


def stages(project: Path, out: Path, dataset: Path, model: Path) -> dict[str, Callable[[], object]]:
    """Return {stage: what it does}, curation in regions of 16 windows, training with a checkpoint every second step."""
    curation.CHUNK_WINDOWS = 16
    fit.Checkpoint = partial(fit.Checkpoint, every_steps=2)
    return {
        "curate": lambda: curation.curate(project / "tracks.tsv", project / "genome.fa", out / "dataset", PARAMETERS,
                                          workers=1, per_region=16, say=silent),
        "train": lambda: test_fit.trained(dataset, out / "model", []),
        "predict": lambda: prediction.predict_manifest(model, project / "D.tsv", project / "genome.fa",
                                                       out_dir=out / "prediction", device="cpu", say=silent),
        "run": lambda: pipeline.run("tiny", [f"run_dir={out / 'report'}", f"dataset_dir={out / 'dataset'}"], root=project),
    }  # fmt: skip


def begin(what: Callable[[], object]) -> int:
    """Fork a process that does it; return its number."""
    process = os.fork()
    if not process:
        status = 1
        try:
            what()
            status = 0
        finally:
            os._exit(status)
    return process


def wait(process: int) -> bool:
    """Return whether a process came to its end; False: it was killed. Nothing else may happen to it."""
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or status == 0, f"a run failed, with status {status}"
    return not os.WIFSIGNALED(status)


def main() -> None:
    """Do it once undisturbed; then kill and restart until so many were killed, and let the last one end."""
    stage, project, out, times, *rest = sys.argv[1:]
    what = stages(Path(project), Path(out), *(*map(Path, rest), Path(), Path())[:2])[stage]
    began = time.monotonic()
    assert wait(begin(what))
    takes = time.monotonic() - began
    os.rename(out, f"{out}-0")
    draw, kills, whole = random.Random(stage), 0, 1
    while True:
        process = begin(what)
        if kills < int(times):
            time.sleep(draw.uniform(0.05, 1) * takes)
            os.kill(process, signal.SIGKILL)
        if wait(process):
            os.rename(out, f"{out}-{whole}")
            whole += 1
            if kills == int(times):
                break
        else:
            kills += 1
    print(kills, whole)


if __name__ == "__main__":
    main()
