"""Run the numbered notebooks in sequence into one folder, each only when something that it depends on has
changed.

A stage is one notebook. Its fingerprint covers the parameters that it declares, its cells, the library
modules that it can reach, the files that its parameters name, and what the stage before it was and wrote.
run.json in the run's folder records all of it, and is written last: a stage is done, or it is not.
"""

import contextlib
import datetime
import difflib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import nbformat
import papermill
import zmq
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from chromacc_lib import ChromaccError, project_path
from chromacc_lib.cache import file_lock
from chromacc_lib.console import Output, clock, is_terminal, stage_table
from chromacc_lib.parameters import (
    Parameter,
    check_settings,
    declared_parameters,
    parse_overrides,
    read_profile,
)
from chromacc_lib.problems import machine_remedy
from chromacc_lib.progress import WATCHED
from chromacc_lib.provenance import (
    dependency_versions,
    digest,
    git_state,
    hash_file,
    hash_path,
    input_files,
    reached_sources,
    shown_path,
    snapshot,
    write_atomically,
    written_since,
)
from chromacc_lib.report import drop_progress, export_page, headline, is_simulated, write_index

__all__ = ["Stage", "find_stages", "run"]

START_TIMEOUT = 180  # seconds that a kernel may take to start; a busy two-core machine has needed 60
KERNEL_ENVIRONMENT = {
    "TQDM_DISABLE": "1",  # a bar would be saved as a frozen line in the page: `progress` prints lines instead
    "PYTHONHASHSEED": "0",  # the order of a set must not make two runs differ
}


@dataclass(frozen=True)
class Stage:
    """One numbered notebook and what it is made of."""

    path: Path
    parameters: dict[str, Parameter]
    code: str  # the cells that a run executes, IPython magics left out
    prose: str  # all other cells: they change the page, but nothing that a later stage reads

    @property
    def name(self) -> str:
        """The file's name without its suffix, such as 02_training."""
        return self.path.stem


class _ThisInterpreter(AsyncKernelManager):
    """A kernel on the very Python that runs the pipeline, whatever kernelspecs the user has registered."""

    environment = KERNEL_ENVIRONMENT

    def __init__(self, **settings: object) -> None:
        """Encrypt what goes to and fro where ZeroMQ was built for it, as PyPI's wheels are."""
        super().__init__(**settings, transport_encryption="auto" if zmq.has("curve") else "disabled")

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernelspec, made here instead of looked up by name."""
        return KernelSpec(**get_kernel_dict(), env=dict(self.environment))


class _Watched(_ThisInterpreter):
    """One whose notebooks tell often how far they are, for somebody who watches."""

    environment = KERNEL_ENVIRONMENT | {WATCHED: "1"}


@dataclass
class _Run:
    """One run of the pipeline: where it writes, what it was asked, and its record (the content of run.json).
    """

    folder: Path
    stages: list[Stage]
    values: dict[str, object]  # the parameters that profile, command line and run id set
    record: dict
    out: TextIO
    known_hashes: dict[str, dict] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)  # of the stages that were looked at this time

    def parameters(self, stage: Stage) -> dict[str, object]:
        """Return every parameter of a stage: its default, or what was set."""
        return {name: self.values.get(name, p.default) for name, p in stage.parameters.items()}

    def folders(self, stage: Stage) -> list[Path]:
        """Return the folders in which a stage may write: the run's own, and those named by its `*_dir`
        parameters.
        """
        named = {project_path(v) for n, v in self.parameters(stage).items() if n.endswith("_dir") and v}
        return sorted({self.folder, *named})

    def save(self) -> None:
        """Write run.json whole, or leave the old one; of the input files, those that some stage still reads.
        """
        read = {path for entry in self.record["stages"].values() for path in entry["inputs"]}
        known = self.record["inputs"] | self.known_hashes
        self.record["inputs"] = {path: known[path] for path in sorted(read)}
        write_atomically(
            self.folder / "run.json", json.dumps(self.record, indent=1, ensure_ascii=False) + "\n"
        )

    def say(self, stage: Stage, state: str, seconds: float | None = None) -> None:
        """Print that a stage begins or has ended, and remember it for the table of stages."""
        self.states[stage.name] = state
        took = "" if seconds is None else f"{clock(seconds):>9}"
        print(f"  {stage.name:<28}{state:<14}{took}".rstrip(), file=self.out, flush=True)

    def table(self) -> str:
        """Return the table of stages, with the time of each one's last run."""
        rows = []
        for name in (stage.name for stage in self.stages):
            entry = self.record["stages"].get(name, {})
            rows.append((name, self.states.get(name) or entry.get("state", "not run"), entry.get("seconds")))
        return stage_table(rows)


def find_stages(notebooks_dir: Path) -> list[Stage]:
    """Return the numbered notebooks of a folder in order.

    Raises ChromaccError when there is none, or when a notebook's parameters or code cannot be read.
    """
    paths = sorted(notebooks_dir.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise ChromaccError(f"{notebooks_dir}: no numbered notebook such as 01_data_curation.ipynb there")
    return [_read_stage(path) for path in paths]


def _read_stage(path: Path) -> Stage:
    """Read a notebook into a Stage."""
    notebook = nbformat.read(path, as_version=4)
    executed = [
        c
        for c in notebook.cells
        if c.cell_type == "code" and "skip-execution" not in c.metadata.get("tags", [])
    ]
    others = [c for c in notebook.cells if c not in executed]
    lines = (line for cell in executed for line in cell.source.splitlines())
    code = "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
    return Stage(path, declared_parameters(path), code, "\n\n".join(cell.source for cell in others))


def run(
    profile: str,
    overrides: Sequence[str] = (),
    run_id: str | None = None,
    *,
    start: str | None = None,
    until: str | None = None,
    only: str | None = None,
    force: bool = False,
    root: Path | None = None,
    out: TextIO | None = None,
) -> Path:
    """Run the stages of a profile that are not up to date, and return the run's folder.

    profile: name of a file in notebooks/profiles, or path of a YAML file. overrides: `name=value` texts.
    run_id: name of the run, the profile's name by default; run_dir, dataset_dir and raw_dir follow from it
    unless set. start, until, only: names of stages ("02_training", "02" or "training"); those before `start`
    are taken as they stand. force: run the chosen stages even when they are up to date. root: folder that
    holds notebooks/, data/ and reports/; the project's own by default. out: where each stage is
    named as it begins and ends, and below what its notebook prints, while it runs; last the table of stages with state
    and time, the report's path and the headline. Standard output by default.

    Raises ChromaccError for an unknown profile, parameter or stage, a folder that another run uses, a stage
    that fails (its half-run notebook is kept as NN_name.failed.ipynb), or a stage that changes an earlier
    stage's files.
    """
    home = project_path("") if root is None else root
    profile_name, settings = read_profile(profile, home / "notebooks" / "profiles")
    stages = find_stages(home / "notebooks")
    declared = {name: parameter for stage in stages for name, parameter in stage.parameters.items()}
    values = check_settings(settings | parse_overrides(overrides), declared)
    run_id = _checked_run_id(profile_name if run_id is None else run_id)
    values = {n: v for n, v in _default_folders(run_id, root).items() if n in declared} | values
    first, last = _selection(stages, start, until, only)
    folder = project_path(values.get("run_dir", _default_folders(run_id, root)["run_dir"]))

    with _locked(folder, values.get("dataset_dir")):
        record = _read_record(folder) | {"run_id": run_id, "profile": profile_name} | git_state()
        record |= {
            "versions": {"python": sys.version.split()[0]} | dependency_versions(),
            "parameters_set": values,
        }
        this = _Run(folder, stages, values, record, sys.stdout if out is None else out)
        record["parameters"] = {n: v for stage in stages for n, v in this.parameters(stage).items()}
        print(f"run {run_id} (profile {profile_name}) in {shown_path(folder)}", file=this.out)
        this.save()
        try:
            _run_stages(this, first, last, force)
        finally:
            print(this.table(), file=this.out, flush=True)
            write_index(folder)
        print(f"report: {folder / 'index.html'}\nheadline: {headline(folder)}", file=this.out)
    return folder


def _checked_run_id(run_id: str) -> str:
    """Return the run id when it can be the name of a folder; raise ChromaccError otherwise."""
    if not run_id.strip() or run_id.startswith((".", "-")) or any(c in run_id for c in '/\\:*?"<>|\0\n'):
        raise ChromaccError(
            f"run id {run_id!r}: it becomes the name of a folder; use letters, digits, - and _"
        )
    return run_id


def _default_folders(run_id: str, root: Path | None) -> dict[str, str]:
    """Return the folders of a run as parameters, relative to the project's root, or below `root` when given.
    """
    base = "" if root is None else f"{root}/"
    data = f"{base}data/{run_id}"
    return {"run_dir": f"{base}reports/{run_id}", "dataset_dir": f"{data}/dataset", "raw_dir": f"{data}/raw"}


def _selection(
    stages: list[Stage], start: str | None, until: str | None, only: str | None
) -> tuple[int, int]:
    """Return the indices of the first and the last stage to look at (both included)."""
    if only is not None:
        if start is not None or until is not None:
            raise ChromaccError(
                "--only cannot be combined with --from or --until: it names the one stage to run"
            )
        start = until = only
    first = 0 if start is None else _stage_index(stages, start)
    last = len(stages) - 1 if until is None else _stage_index(stages, until)
    if first > last:
        raise ChromaccError(
            f"--from {stages[first].name} comes after --until {stages[last].name}: nothing to run"
        )
    return first, last


def _stage_index(stages: list[Stage], wanted: str) -> int:
    """Return the place of the stage called `wanted`: its whole name, its number, or what follows the number.
    """
    for index, stage in enumerate(stages):
        number, _, title = stage.name.partition("_")
        if wanted in (stage.name, number, number.lstrip("0"), title):
            return index
    names = [stage.name for stage in stages]
    near = difflib.get_close_matches(wanted, names + [name.partition("_")[2] for name in names], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ChromaccError(f"no stage {wanted!r}.{hint} Stages: {', '.join(names)}")


@contextlib.contextmanager
def _locked(folder: Path, dataset_dir: str | None) -> Iterator[None]:
    """Hold the run's folder, and its dataset's, for this process alone.

    Raises ChromaccError when another process holds one of them. The lock goes with the process, however it
    ends.
    """
    files = {folder / ".lock": False}  # and whether it may do without a lock: a dataset that nobody can write to
    if dataset_dir:
        dataset = project_path(dataset_dir)
        files[dataset.parent / f".{dataset.name}.lock"] = dataset.is_dir()
    with contextlib.ExitStack() as stack:
        for path, to_read in files.items():
            busy = (
                f"{path.parent}: another chromacc run is writing there ({path.name} is locked). "
                "Wait for it, or give this run its own place with --run-id"
            )
            stack.enter_context(file_lock(path, "put reports and data", busy, to_read))
        yield


def _read_record(folder: Path) -> dict:
    """Return the content of run.json, or a new record.

    Raises ChromaccError when the file is no JSON object of ours.
    """
    path = folder / "run.json"
    if not path.exists():
        return {"run_id": "", "profile": "", "created": _now(), "inputs": {}, "stages": {}}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ChromaccError(f"{path}: no JSON ({error}). Delete it to run all stages again") from error
    if not isinstance(record, dict) or not {"created", "inputs", "stages"} <= record.keys():
        raise ChromaccError(f"{path}: not the record of a chromacc run. Delete it to run all stages again")
    return record


def _run_stages(this: _Run, first: int, last: int, force: bool) -> None:
    """Go through the chosen stages in order; those before them have to be done already."""
    for index, stage in enumerate(this.stages[: last + 1]):
        if index < first:
            if this.record["stages"].get(stage.name, {}).get("state") not in ("done", "outdated"):
                raise ChromaccError(
                    f"stage {this.stages[first].name} reads what {stage.name} writes, and that has not been run "
                    "here. Leave out --from and --only"
                )
            this.states[stage.name] = "as it stands"
            continue
        upstream = this.record["stages"][this.stages[index - 1].name] if index else None
        identity = _identity(this, stage, upstream)
        if not force and _up_to_date(this, stage, identity["fingerprint"]):
            this.states[stage.name] = "up to date"
            continue
        _run_stage(this, stage, identity)
    this.save()


def _identity(this: _Run, stage: Stage, upstream: dict | None) -> dict[str, object]:
    """Return what makes a stage the one it is: its parameters, its input files, and two hashes.

    `work` covers all that its results depend on, `fingerprint` its prose as well: correcting a sentence
    renews the stage's page, but not the stages after it. upstream: the record of the stage before it.
    """
    parameters = this.parameters(stage)
    inputs = {shown_path(path): _input_hash(this, path) for path in input_files(parameters)}
    try:
        sources = reached_sources(stage.code)
    except SyntaxError as error:
        raise ChromaccError(f"{stage.path}: its code is no plain Python: {error}") from error
    before = None
    if upstream is not None:
        data = {path: sha for path, sha in upstream["outputs"].items() if not path.endswith(".ipynb")}
        before = [upstream["work"], data]
    work = digest([parameters, stage.code, sources, inputs, before])
    return {
        "parameters": parameters,
        "inputs": sorted(inputs),
        "work": work,
        "fingerprint": digest([work, stage.prose]),
    }


def _input_hash(this: _Run, path: Path) -> str:
    """Return the SHA-256 of an input file; a file of the same size and time as at the last run is not read
    again.
    """
    name, stat = shown_path(path), path.stat()
    known = this.known_hashes.get(name) or this.record["inputs"].get(name, {})
    if (known.get("bytes"), known.get("mtime_ns")) != (stat.st_size, stat.st_mtime_ns):
        known = {"sha256": hash_file(path), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    this.known_hashes[name] = known
    return known["sha256"]


def _up_to_date(this: _Run, stage: Stage, fingerprint: str) -> bool:
    """Say whether a stage was finished with this fingerprint and all that it wrote is still there, unchanged.

    The executed notebook has only to be there: opening it in JupyterLab may save it, and that changes no
    result.
    """
    entry = this.record["stages"].get(stage.name)
    if entry is None or entry["state"] not in ("done", "outdated") or entry["fingerprint"] != fingerprint:
        return False
    for shown, sha in entry["outputs"].items():
        path = project_path(shown)
        if not path.exists() or (path.suffix != ".ipynb" and hash_path(path) != sha):
            return False
    entry["state"] = "done"
    page = this.folder / f"{stage.name}.html"
    if not page.exists():
        export_page(this.folder / f"{stage.name}.ipynb", page, is_simulated(this.folder))
    return True


def _run_stage(this: _Run, stage: Stage, identity: dict[str, object]) -> None:
    """Execute a stage and record it; on failure record that, keep the half-run notebook, and raise
    ChromaccError.
    """
    known = this.record["stages"].get(stage.name, {}).get("outputs", {})
    entry = {
        "state": "running",
        "started": _now(),
        "finished": None,
        "seconds": None,
        **identity,
        "outputs": known,
        "error": None,
    }
    this.record["stages"][stage.name] = entry
    for later in this.stages[this.stages.index(stage) + 1 :]:
        if this.record["stages"].get(later.name, {}).get("state") == "done":
            this.record["stages"][later.name]["state"] = "outdated"
    this.save()
    this.say(stage, "running")
    began = time.perf_counter()
    try:
        before = snapshot(this.folders(stage))
        _execute(this, stage)
        entry["outputs"] = _outputs(this, stage, before, known)
        entry["state"] = "done"
    except BaseException as error:
        entry["state"], entry["error"] = "failed", _cause(error)
        if isinstance(error, (PapermillExecutionError, DeadKernelError)):
            raise ChromaccError(_failure(this, stage, error)) from error
        raise
    finally:
        entry["seconds"], entry["finished"] = round(time.perf_counter() - began, 1), _now()
        this.say(stage, entry["state"], entry["seconds"])
        this.save()


def _execute(this: _Run, stage: Stage) -> None:
    """Run one notebook by papermill into the run's folder, and export its page; both appear only when whole.
    """
    target = this.folder / f"{stage.name}.ipynb"
    running, failed = target.with_name(f".{stage.name}.running.ipynb"), target.with_suffix(".failed.ipynb")
    failed.unlink(missing_ok=True)
    try:
        with Output(this.out, stage.name) as output:
            papermill.execute_notebook(
                nbformat.read(stage.path, as_version=4),
                str(running)
                .replace("{", "{{")
                .replace("}", "}}"),  # papermill fills braces in a path with parameters
                parameters=this.parameters(stage),
                kernel_name="python3",
                kernel_manager_class=_Watched if is_terminal(this.out) else _ThisInterpreter,
                start_timeout=START_TIMEOUT,
                progress_bar=False,  # the notebook's own lines are shown instead
                stdout_file=output.stream(),
                stderr_file=output.stream(),
                cwd=project_path(""),
            )
    except BaseException:
        if running.exists():
            os.replace(running, failed)
        raise
    executed = nbformat.read(running, as_version=4)
    drop_progress(executed)
    nbformat.write(executed, running)
    os.replace(running, target)
    export_page(target, target.with_suffix(".html"), is_simulated(this.folder))


def _outputs(this: _Run, stage: Stage, before: dict, known: dict[str, str]) -> dict[str, str]:
    """Return the hash of each file that a stage wrote now, wrote earlier and left alone, or found in its data
    folders.

    What it found counts when no other stage wrote it: two runs may share a dataset, which the second leaves
    as it is. Raises ChromaccError when the stage changed a file that another stage wrote: a file has one
    writer.
    """
    derived = {this.folder / name for name in ("run.json", "index.html", f"{stage.name}.html", "model/model_card.md")}
    data_folders = [folder for folder in this.folders(stage) if folder != this.folder]
    paths = set(written_since(before, this.folders(stage))) | set(written_since({}, data_folders))
    paths |= {project_path(shown) for shown in known if project_path(shown).exists()}
    outputs = {shown_path(path): hash_path(path) for path in paths - derived}
    for other in this.stages:
        owned = this.record["stages"].get(other.name, {}).get("outputs", {}) if other is not stage else {}
        for shown in outputs.keys() & owned.keys():
            if outputs[shown] != owned[shown]:
                raise ChromaccError(
                    f"stage {stage.name} changed {shown}, which {other.name} wrote; a file has one writer"
                )
            del outputs[shown]
    return dict(sorted(outputs.items()))


def _cause(error: BaseException) -> str:
    """Return one line for run.json: the notebook's own error where there is one."""
    if isinstance(error, PapermillExecutionError):
        return f"{error.ename}: {error.evalue}"
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _failure(this: _Run, stage: Stage, error: Exception) -> str:
    """Return the message for a stage whose notebook failed."""
    kept = shown_path(this.folder / f"{stage.name}.failed.ipynb")
    if isinstance(error, DeadKernelError):
        what = (
            "its kernel died. The usual cause is too little memory: lower batch_windows, "
            "max_positive_windows or sim_genome_mb"
        )
    else:
        line = error.source.strip().splitlines()
        told = f"{error.ename}: {error.evalue}"
        remedy = machine_remedy(told)
        what = f"in cell {error.exec_count}, {line[0] if line else ''}\n{told}" + (f"\n{remedy}" if remedy else "")
    return (
        f"stage {stage.name} failed: {what}\nThe notebook as far as it came: {kept}. "
        "Stages that are done are not run again"
    )


def _now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
