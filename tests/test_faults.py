"""Faults of the machine, planted for real: a full disk, no memory, kills, signals, two runs at once, another clock."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PARAMETERS, write_manifest
from safetensors import safe_open
from test_fit import FILES, SMALL, settings, straight, trained  # noqa: F401
from test_pipeline import FIRST, FOLDERS, SECOND, THIRD, record, write_notebook
from test_prediction import CELL, predict, rows_of
from test_prediction import trained as model_folder  # noqa: F401
from test_regions import assert_same
from test_training import TIMING, weights

from chromacc_lib import ChromaccError, cli, exports, fit, project_path
from chromacc_lib.batches import RegionData
from chromacc_lib.cache import file_lock
from chromacc_lib.callbacks import Callback, Checkpoint, Progress
from chromacc_lib.curation import curate
from chromacc_lib.dataset import load_arrays
from chromacc_lib.folds import leave_one_out
from chromacc_lib.pipeline import run
from chromacc_lib.prediction import predict_manifest
from chromacc_lib.problems import machine_remedy
from chromacc_lib.sweep import Sweep, run_sweep


@contextmanager
def full_disk(n_bytes):
    """No file can grow past so many bytes while this lasts: writing fails as on a full disk, in this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def silent(line):
    pass


# --- a full disk --------------------------------------------------------------------------------------------
def test_a_curation_on_a_full_disk_leaves_no_dataset_and_goes_on_when_there_is_space(project, tried):
    def made(name):
        return curate(project.manifest, project.genome_fasta, project.folder / name, PARAMETERS, say=silent).path

    for n_bytes in (100, 3_000, 30_000):
        with full_disk(n_bytes), pytest.raises(Exception) as caught:
            made("dataset")
        assert machine_remedy(f"{caught.type.__name__}: {caught.value}").startswith("the disk is full"), caught.value
        assert not (project.folder / "dataset").exists()
    assert_same(made("undisturbed"), made("dataset"))
    assert not list(project.folder.glob("*.partial"))
    tried("no space left at 3 moments of a curation", f"{machine_remedy(f'{caught.type.__name__}: {caught.value}')}; no dataset; the next run makes the same one")


def test_a_training_on_a_full_disk_keeps_its_last_checkpoint(curated, straight, tmp_path, tried):  # noqa: F811
    class FillsUp(Callback):
        """From the third step on there is no space."""

        def on_step(self, state):
            if len(state.steps) == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    folder = tmp_path / "model"
    for n_bytes in (500, 100_000):
        with full_disk(n_bytes), pytest.raises(ChromaccError, match="checkpoint cannot be written.*disk is full: free some"):
            trained(curated[1], folder, [])
        assert list(folder.iterdir()) == []
    with pytest.MonkeyPatch.context() as patch, full_disk(10**9):
        patch.setattr(fit, "Checkpoint", partial(Checkpoint, every_steps=2))
        with pytest.raises(ChromaccError, match="checkpoint cannot be written.*The last whole checkpoint is kept") as kept:
            trained(curated[1], folder, [], callbacks=[FillsUp()])
    said = []
    resumed = trained(curated[1], folder, said)
    assert "an interrupted training was found: it goes on at step 3 of epoch 1" in said
    assert (weights(resumed.result) == weights(straight[1].result)).all()
    tried("no space left for a checkpoint", str(kept.value).partition(" (")[0] + str(kept.value).rpartition(")")[2])


def test_a_prediction_on_a_full_disk_leaves_no_file_that_looks_whole(model_folder, tmp_path, tried):  # noqa: F811
    """pyBigWig closes a file in silence when there is no space for its last bytes."""
    manifest = write_manifest(tmp_path / "tracks.tsv", rows_of(model_folder, CELL))
    make = partial(predict_manifest, model_folder.model_dir, manifest, model_folder.genome_fasta, device="cpu", say=silent)
    whole, full = make(out_dir=tmp_path / "whole").bigwig.parent, tmp_path / "full"
    size = (whole / f"{CELL}.bw").stat().st_size
    for n_bytes in (300, 2_000, size // 2, size - 2_000, size - 10, size - 1):
        with full_disk(n_bytes), pytest.raises((OSError, RuntimeError, ChromaccError)):
            make(out_dir=full)
        assert [path.name for path in full.iterdir() if not path.name.startswith((".lock", ".chunks-"))] == [], n_bytes
    again = make(out_dir=full).bigwig.parent
    for name in (f"{CELL}.bw", f"{CELL}.bed", f"{CELL}.windows.parquet"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()
    tried("no space left at 6 moments of a prediction", "no file under its final name; the next run writes the same bytes")


@pytest.mark.parametrize("form", list(exports.FORMATS))
def test_an_export_on_a_full_disk_is_one_message_and_leaves_nothing(curated, tmp_path, capsys, form, tried):
    command = ["export", str(curated[1]), "--format", form, "--out", str(tmp_path / "out")]
    with full_disk(1_000):
        assert cli.main(command) == 1
    said = capsys.readouterr().err
    assert "the disk is full, or a quota is reached: free some, and start again" in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    assert cli.main(command) == 0
    tried(f"no space left for an export ({form})", said.splitlines()[-1])


@pytest.fixture
def disk(tmp_path):
    """A folder, and a function that gives it so many kB in all: a disk of its own where one can be mounted (Linux, root),
    else, in this process, no file grows past a quarter of them.
    """
    folder, limits = tmp_path / "disk", resource.getrlimit(resource.RLIMIT_FSIZE)
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode == 0

    def give(kb):
        if mounted:
            subprocess.run(["mount", "-o", f"remount,size={kb}k", folder], check=True)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (kb << 8, limits[1]))

    yield folder, give
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if mounted:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_and_then_has_space(project, curated, disk, capsys, tried):
    folder, give = disk
    for kb in (8, 60, 200):
        give(kb)
        with pytest.raises(Exception) as caught:
            curate(project.manifest, project.genome_fasta, folder / "dataset", PARAMETERS, blacklist=project.blacklist, say=silent)
        assert machine_remedy(f"{caught.type.__name__}: {caught.value}").startswith("the disk is full"), caught.value
        assert not (folder / "dataset").exists()
    command = ["export", str(curated[1]), "--format", "tensors", "--out", str(folder / "out")]
    assert cli.main(command) == 1
    said = capsys.readouterr().err
    assert "the disk is full, or a quota is reached" in said and "Traceback" not in said and not (folder / "out").exists()
    give(60_000)
    made = curate(project.manifest, project.genome_fasta, folder / "dataset", PARAMETERS, blacklist=project.blacklist, say=silent)
    assert_same(curated[1], made.path)
    assert cli.main(command) == 0
    tried("a disk of 8, 60 and 200 kB for a curation and an export", f"{said.splitlines()[-1]}; with more space, the same dataset")


# --- no memory ----------------------------------------------------------------------------------------------
@pytest.fixture
def three_stages(tmp_path):
    """Three throwaway notebooks, as in test_pipeline."""
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    (tmp_path / "notebooks" / "profiles" / "tiny.yaml").write_text("n: 3\n")
    scale = FOLDERS + "n: int = 2  # rows\nscale: float = 1.0  # any"
    for name, parameters, code in (("01_first", scale, FIRST), ("02_second", FOLDERS + "label: str = 'numbers'  # text", SECOND),
                                   ("03_third", FOLDERS, THIRD)):  # fmt: skip
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", parameters, code)
    return tmp_path


@pytest.mark.parametrize("code, remedy", [
    ("import resource, numpy\nresource.setrlimit(resource.RLIMIT_AS, (4 << 30,) * 2)\nnumpy.ones(1 << 33)",
     "memory ran out: lower batch_windows"),
    ("import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\nfrom pathlib import Path\n"
     "Path(run_dir, 'count.txt').write_text('x' * 60_000)", "the disk is full"),
])
def test_a_stage_without_memory_or_space_is_named_with_what_to_do(three_stages, code, remedy, tried):
    write_notebook(three_stages / "notebooks" / "02_second.ipynb", FOLDERS + "n: int = 2  # rows", code)
    with pytest.raises(ChromaccError, match=f"(?s)stage 02_second failed: in cell .*{remedy}.*Stages that are done are not") as caught:
        run("tiny", root=three_stages)
    assert record(three_stages)["stages"]["01_first"]["state"] == "done"
    tried(f"in a notebook, {'no memory' if 'AS' in code else 'no space left'}", caught)


def test_what_libraries_call_a_lack_of_memory_is_known():
    """The errors are the libraries' own, of more than any machine has."""
    for ask in (lambda: torch.empty(1 << 60), lambda: np.empty(1 << 58), lambda: bytearray(1 << 60)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            ask()
        assert "batch_windows" in machine_remedy(f"{caught.type.__name__}: {caught.value}"), caught.value
    assert "batch_windows" in machine_remedy("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
    assert machine_remedy("ValueError: windows of two lengths") == ""


# --- a loss that is not finite ------------------------------------------------------------------------------
def test_the_batch_of_a_loss_that_is_not_finite_is_kept_and_found_in_the_data(curated, tmp_path, tried):
    """A value in one window is infinite: the first batch with that window is caught at its step, and saved."""
    arrays = load_arrays(curated[1])
    window = int((arrays.windows["split"] == "train").to_numpy().nonzero()[0][7])
    arrays.histone[window] = float("inf")
    config, sizes = settings()
    with pytest.raises(ChromaccError, match=r"the loss became (nan|inf).*in step \d+ of epoch 1.*bad_batch.safetensors, as") as caught:
        fit.fit(curated[1], tmp_path / "model", arrays, RegionData(arrays), config, sizes, device="cpu", say=silent)
    with safe_open(tmp_path / "model" / "bad_batch.safetensors", "pt") as saved:
        assert saved.metadata()["epoch"] == "1" and int(saved.metadata()["step"]) >= 1
        histone, sequence = saved.get_tensor("batch.histone"), saved.get_tensor("batch.sequence")
        assert {"batch.tf", "batch.accessibility", "target.score", "target.label"} <= set(saved.keys())
    bad = (~histone.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    assert len(bad) == 1
    mine = [arrays.sequence[window].tolist(), [3 - code if code < 4 else 4 for code in arrays.sequence[window][::-1].tolist()]]
    assert sequence[bad[0]].tolist() in mine
    assert not (tmp_path / "model" / "model.safetensors").exists()
    tried("an infinite value in one training window", str(caught.value))


# --- signals ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_the_step_end_and_leaves_a_checkpoint_to_go_on_from(
    tried,
    curated, straight, tmp_path, monkeypatch, capsys, number, status  # noqa: F811
):
    """The signal comes at the end of the second step; the command ends in good order, and goes on from there."""
    command = ["train", str(curated[1]), "--out", str(tmp_path / "model"), "--set", "device=cpu"]
    command += [f"{name}={value}" for name, value in SMALL.items()]
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

    class SendsSignal(Progress):
        def on_step(self, state):
            if (state.epoch, len(state.steps)) == (1, 2):
                os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "Progress", SendsSignal)
        assert cli.main(command) == status
    said = capsys.readouterr()
    assert f"stopped by {number.name} after step 2 of epoch 1; the same command goes on from there" in said.out
    assert "chromacc: stopped. The same command goes on" in said.err and "Traceback" not in said.err
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["checkpoint.pt"]
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers, "as they were"
    assert cli.main(command) == 0
    assert "it goes on at step 3 of epoch 1" in capsys.readouterr().out
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (straight[0] / "model.safetensors").read_bytes()
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == FILES
    tried(f"{number.name} to a training", next(line for line in said.out.splitlines() if "stopped by" in line) + "; weights as undisturbed")


def test_a_run_that_is_terminated_stops_its_kernel_and_goes_on(three_stages, tried):
    """SIGTERM to the process of `chromacc run`, while a notebook works."""
    write_notebook(
        three_stages / "notebooks" / "02_second.ipynb", FOLDERS + "label: str = 'numbers'  # text",
        "import os, time\nfrom pathlib import Path\nPath(run_dir, 'kernel').write_text(str(os.getpid()))\n"
        "while not Path(dataset_dir, 'go').exists():\n    time.sleep(0.05)", SECOND)  # fmt: skip
    script = ("import sys\nfrom pathlib import Path\nfrom chromacc_lib import cli, pipeline\nmine = pipeline.run\n"
              f"pipeline.run = lambda *a, **k: mine(*a, **k, root=Path({str(three_stages)!r}))\n"
              "sys.exit(cli.main(['run', 'tiny']))")  # fmt: skip
    kernel = three_stages / "reports" / "tiny" / "kernel"
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while not (kernel.exists() and kernel.read_text()) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and errors.splitlines()[-1].startswith("chromacc: stopped."), errors
    assert "chromacc_lib" not in errors, errors  # the kernel may complain of its closed sockets
    assert record(three_stages)["stages"]["02_second"]["state"] == "failed"
    assert not Path(f"/proc/{kernel.read_text()}").exists()
    (three_stages / "data" / "tiny" / "dataset" / "go").touch()
    run("tiny", root=three_stages)
    assert (three_stages / "reports" / "tiny" / "copy.txt").read_text() == "3 numbers"
    tried("SIGTERM to chromacc run", errors.splitlines()[-1])


# --- kill -9 at random moments ------------------------------------------------------------------------------
def killed(stage, project_folder, out, *rest, times=10):
    """Run kill_trials.py; return the folder of the undisturbed run, and those of all that came to their end."""
    script = project_path("tests") / "kill_trials.py"
    given = [str(one) for one in (stage, project_folder, out, times, *rest)]
    environment = os.environ | {"PYTHONPATH": f"{project_path('')}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script), *given], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    kills, whole = map(int, done.stdout.split()[-2:])
    assert kills == times and whole > 1
    return Path(f"{out}-0"), [Path(f"{out}-{number}") for number in range(1, whole)]


def test_a_curation_killed_at_random_ends_with_the_same_dataset(project, tried):
    undisturbed, others = killed("curate", project.folder, project.folder / "out")
    for other in others:
        assert_same(undisturbed / "dataset", other / "dataset")
        for name in ("curation.json", "manifest.lock.tsv"):
            assert (undisturbed / "dataset" / name).read_text() == (other / "dataset" / name).read_text()
        assert [path.name for path in other.iterdir() if not path.name.startswith(".")] == ["dataset"]
    tried("kill -9 at 10 random moments of a curation", "the next run goes on; the same dataset, array by array")


def test_a_training_killed_at_random_ends_with_the_same_weights(curated, tmp_path, tried):
    undisturbed, others = killed("train", tmp_path, tmp_path / "out", curated[1])
    history = pd.read_csv(undisturbed / "model" / "history.csv").drop(columns=TIMING)
    for other in others:
        assert sorted(path.name for path in (other / "model").iterdir()) == FILES
        for name in ("model.safetensors", "normalization.json"):
            assert (undisturbed / "model" / name).read_bytes() == (other / "model" / name).read_bytes()
        assert pd.read_csv(other / "model" / "history.csv").drop(columns=TIMING).equals(history)
    tried("kill -9 at 10 random moments of a training", "the next run goes on; the same weights, bit for bit")


def test_a_prediction_killed_at_random_ends_with_the_same_files(project, model_folder, tmp_path, tried):  # noqa: F811
    table = pd.read_csv(project.manifest, sep="\t", dtype=str, keep_default_na=False)
    mine = table[(table["cell_type"] == CELL) & ~table["kind"].str.startswith("accessibility")]
    mine.to_csv(project.folder / "D.tsv", sep="\t", index=False)
    undisturbed, others = killed("predict", project.folder, tmp_path / "out", "", model_folder.model_dir)
    for other in others:
        names = sorted(path.name for path in (other / "prediction").iterdir())
        assert names == sorted(path.name for path in (undisturbed / "prediction").iterdir())
        for name in names:
            assert (undisturbed / "prediction" / name).read_bytes() == (other / "prediction" / name).read_bytes(), name
    tried("kill -9 at 10 random moments of a prediction", "the next run goes on; the same files, bit for bit")


def test_a_run_killed_at_random_ends_with_the_same_results(three_stages, tmp_path, tried):
    """The process of `chromacc run` is killed; its kernel finds itself alone and ends. The six notebooks themselves take
    longer: tests/benchmarks/kill_notebooks.py kills them.
    """
    undisturbed, others = killed("run", three_stages, tmp_path / "out", times=4)
    for other in others:
        for name in ("report/count.txt", "report/copy.txt", "dataset/numbers.txt"):
            assert (undisturbed / name).read_bytes() == (other / name).read_bytes()
        stages = json.loads((other / "report" / "run.json").read_text())["stages"]
        assert [stage["state"] for stage in stages.values()] == ["done"] * 3
        assert not list((other / "report").glob(".*.running.ipynb"))
    tried("kill -9 at 4 random moments of chromacc run", "the next run goes on; the same results, every stage done")


# --- two at once --------------------------------------------------------------------------------------------
def test_two_trainings_or_predictions_of_one_folder_do_not_meet(curated, model_folder, tmp_path, tried):  # noqa: F811
    refused = []

    class Second(Callback):
        def on_epoch(self, state):
            with pytest.raises(ChromaccError, match="model: another training is writing there. Wait until it is done") as caught:
                trained(curated[1], tmp_path / "model", [])
            refused.append(str(caught.value))

    trained(curated[1], tmp_path / "model", [], callbacks=[Second()])
    assert len(refused) == 2
    trained(curated[1], tmp_path / "model", [], changed={"epochs": 1})  # free again

    rows, told = rows_of(model_folder, CELL), []
    other = ("import sys, time\nfrom pathlib import Path\nfrom chromacc_lib.cache import file_lock\n"
             "(out := Path(sys.argv[1])).mkdir()\n(out / '.partial-left').mkdir()\n"
             "with file_lock(out / '.lock', 'wait', 'held elsewhere'):\n    print('held', flush=True)\n    time.sleep(60)\n")  # fmt: skip
    (tmp_path / "p").mkdir()
    with subprocess.Popen([sys.executable, "-c", other, tmp_path / "p" / "out"], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(ChromaccError, match="out: another prediction is writing there") as caught:
            predict(model_folder, rows, tmp_path / "p")
        process.kill()
    assert predict(model_folder, rows, tmp_path / "p", say=told.append).bigwig.exists()
    assert not list((tmp_path / "p" / "out").glob(".partial-*")), "what the killed one left"
    assert told[0] == "device: CPU (no GPU is used)"
    tried("two trainings of one folder at once", refused[0])
    tried("two predictions of one folder at once", caught)


def test_two_sweeps_or_folds_of_one_folder_are_refused(curated, project, tmp_path, tried):
    sweep, common = Sweep({"default": {}}), replace(PARAMETERS, test_cell_types=(), validation_cell_types=())
    second = {
        "sweeps": lambda out: run_sweep(curated[1], sweep, out, 1, device="cpu", say=silent),
        "folds": lambda out: leave_one_out(project.manifest, project.genome_fasta, out, ["D"], common, settings()[0], say=silent),
    }
    for what, begin in second.items():
        out = tmp_path / what
        with file_lock(out / ".lock", "wait", "held elsewhere"), ThreadPoolExecutor(1) as pool:
            with pytest.raises(ChromaccError, match="being run there") as caught:
                pool.submit(begin, out).result(timeout=60)
        assert [path.name for path in out.iterdir()] == [".lock"]
        tried(f"two {what} of one folder at once", caught)


# --- another clock ------------------------------------------------------------------------------------------
def test_files_dated_long_ago_or_in_the_future_change_nothing(three_stages, capsys, tried):
    """What a stage is made from is known by its content; a clock that jumped makes no stage run again."""
    run("tiny", root=three_stages)
    for years in (-30, 30):
        jump = time.time() + years * 365 * 86_400
        for path in [*(three_stages / "reports").rglob("*"), *(three_stages / "data").rglob("*")]:
            os.utime(path, (jump, jump))
        capsys.readouterr()
        run("tiny", root=three_stages)
        assert capsys.readouterr().out.count("up to date") == 3
    tried("a clock that jumps 30 years back or ahead", "no stage runs again")
