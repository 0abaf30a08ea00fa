"""The `chromacc` command: run a profile, find and check data, predict a new cell type, rebuild a report."""

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from chromacc_lib import ChromaccError, __version__
from chromacc_lib.problems import machine_remedy
from chromacc_lib.progress import tell

__all__ = ["main"]

STOPPED = "stopped. The same command goes on: what was finished is kept, and a training from its last checkpoint"
GENES_HELP = "TSV (gene_id, gene_name), GTF or GFF3 for expression by Ensembl id; by default the human TFs"
RENAME_HELP = "read 1 as chr1, or the other way round, where the FASTA calls it so; each renaming is said and recorded"
GENOME_HELP = "path of a plain or bgzipped FASTA or a .2bit file; or hg38, fetched once into the cache (0.8 GB)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 done, 1 the user has to act, 2 wrong usage, 130 or 143 stopped.

    A ChromaccError prints its message alone, and so does what the machine lacks (space, memory, permission); any other
    error keeps its traceback, for it is ours. Ctrl-C and SIGTERM stop in good order.
    """
    options = _parser().parse_args(arguments)
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminate) if in_main else None
    try:
        return options.command(options)
    except ChromaccError as error:
        message, status = str(error), 1
    except _Terminated:
        message, status = STOPPED, 143
    except KeyboardInterrupt:
        message, status = STOPPED, 130
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        if not machine_remedy(told):
            raise
        message, status = f"{told}\n{machine_remedy(told)}", 1
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)
    print(f"chromacc: {message}", file=sys.stderr)
    return status


class _Terminated(KeyboardInterrupt):
    """Raised by SIGTERM; event loops and notebooks let this kind through, and wind up."""


def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
    raise _Terminated("SIGTERM")


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="chromacc", description="Chromatin accessibility in cell types that nobody has assayed."
    )
    parser.add_argument("--version", action="version", version=f"chromacc {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_encode(commands)
    _add_review(commands)
    _add_check(commands)
    _add_sweep(commands)
    _add_zoo(commands)
    _add_export(commands)
    _add_train(commands)
    _add_folds(commands)
    _add_predict(commands)
    _add_variants(commands)
    _add_report(commands)
    _add_compare(commands)
    return parser


def _add_run(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc run`."""
    run = commands.add_parser(
        "run", help="run the six notebooks into reports/RUN_ID; what is up to date is kept"
    )
    run.add_argument(
        "profile", help="a file of notebooks/profiles without its .yaml, or the path of your own .yaml"
    )
    run.add_argument(
        "--set",
        action="append",
        default=[],
        nargs="+",
        metavar="NAME=VALUE",
        help="override parameters; relative paths start at the project's root",
    )
    run.add_argument("--run-id", help="name of the run's folder; the profile's name by default")
    run.add_argument(
        "--from", dest="start", metavar="STAGE", help="take the stages before this one as they stand"
    )
    run.add_argument("--until", metavar="STAGE", help="stop after this stage")
    run.add_argument("--only", metavar="STAGE", help="look at this stage alone")
    run.add_argument(
        "--force", action="store_true", help="run the chosen stages even when they are up to date"
    )
    run.set_defaults(command=_run)


def _add_encode(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc encode`."""
    encode = commands.add_parser(
        "encode", help="find experiments and files at the ENCODE portal, and write a manifest of them"
    )
    encode.add_argument("--cell-types", nargs="+", required=True, metavar="NAME", help="such as K562 GM12878")
    encode.add_argument("--histone-marks", nargs="+", default=[], metavar="MARK", help="such as H3K27ac")
    encode.add_argument("--tfs", nargs="+", default=[], metavar="TF", help="such as CTCF GATA1")
    encode.add_argument(
        "--accessibility",
        nargs="*",
        metavar="ASSAY",
        help="ATAC-seq and DNase-seq, the preferred first (both by default); none: --accessibility alone",
    )
    encode.add_argument("--expression", action="store_true", help="gene quantifications of RNA-seq too")
    encode.add_argument("--assembly", default="GRCh38")
    encode.add_argument(
        "--accept-audits",
        nargs="+",
        default=[],
        metavar="CATEGORY",
        help='red audits that do not reject an experiment, such as "extremely low read depth"',
    )
    encode.add_argument("--portal", metavar="URL", help="https://www.encodeproject.org by default")
    encode.add_argument("--out", type=_path, required=True, metavar="FOLDER")
    encode.set_defaults(command=_encode)


def _add_review(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc review`."""
    review = commands.add_parser("review", help="ask the ENCODE portal what became of a manifest's files")
    review.add_argument("manifest", type=_path)
    review.add_argument("--portal", metavar="URL", help="https://www.encodeproject.org by default")
    review.set_defaults(command=_review)


def _add_check(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc check`."""
    check = commands.add_parser("check", help="check a manifest and its files, and list all problems")
    check.add_argument("manifest", type=_path)
    check.add_argument("--genome-fasta", type=_path_or_name, required=True, help=GENOME_HELP)
    check.add_argument("--blacklist", type=_path_or_name, help="path of a BED file, or hg38")
    check.add_argument("--gene-names", type=_path, help=GENES_HELP)
    check.add_argument("--rename-chromosomes", action="store_true", help=RENAME_HELP)
    check.add_argument("--for-prediction", action="store_true", help="allow cell types without accessibility")
    check.set_defaults(command=_check)


def _add_sweep(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc sweep`."""
    sweep = commands.add_parser(
        "sweep", help="train many settings side by side and compare them on the validation rows"
    )
    sweep.add_argument("dataset", type=_path, metavar="DATASET_DIR", help="such as data/pilot/dataset")
    sweep.add_argument("settings", type=_path, metavar="YAML", help="seeds, and settings by name or a grid")
    sweep.add_argument("--out", type=_path, required=True, metavar="FOLDER")
    sweep.add_argument(
        "--workers", type=int, metavar="N", help="runs at a time; one a GPU or a core by default"
    )
    sweep.add_argument("--dask-address", default="", metavar="URL", help="of a scheduler, tcp://host:8786")
    sweep.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    sweep.set_defaults(command=_sweep)


def _add_zoo(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc zoo`."""
    zoo = commands.add_parser(
        "zoo", help="break a healthy run in every known way, and see whether the diagnosis names each cause"
    )
    zoo.add_argument("dataset", type=_path, metavar="DATASET_DIR", help="such as data/pilot/dataset")
    zoo.add_argument("--out", type=_path, required=True, metavar="FOLDER", help="such as reports/zoo")
    zoo.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N")
    zoo.add_argument("--strengths", type=int, nargs="+", default=[1, 2, 3], choices=(1, 2, 3), metavar="1..3")
    zoo.add_argument("--faults", nargs="+", default=[], metavar="NAME", help="all by default; a wrong name lists them")
    zoo.add_argument("--healthy", type=int, default=10, metavar="N", help="healthy runs, of seeds 1 to N")
    zoo.add_argument("--workers", type=int, metavar="N", help="cases at a time; one a core by default")
    zoo.add_argument("--dask-address", default="", metavar="URL", help="of a scheduler, tcp://host:8786")
    zoo.set_defaults(command=_zoo)


def _add_export(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc export`."""
    export = commands.add_parser(
        "export", help="write a dataset as tensors, as TFRecord, or as tracks of a genome browser"
    )
    export.add_argument("dataset", type=_path, metavar="DATASET_DIR", help="such as data/pilot/dataset")
    export.add_argument(
        "--format",
        required=True,
        choices=("tensors", "tfrecord", "browser"),
        help="safetensors for PyTorch; TFRecord with its feature description; BED and bigWig",
    )
    export.add_argument(
        "--out", type=_path, required=True, metavar="FOLDER", help="new, or an earlier export"
    )
    export.set_defaults(command=_export)


def _add_train(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc train`."""
    train = commands.add_parser(
        "train", help="train as notebook 02_training does, without it; several GPUs or machines through torchrun"
    )
    train.add_argument("dataset", type=_path, metavar="DATASET_DIR", help="such as data/pilot/dataset")
    train.add_argument(
        "--out", type=_path, required=True, metavar="MODEL_DIR", help="such as reports/pilot/model"
    )
    train.add_argument(
        "--set",
        action="append",
        default=[],
        nargs="+",
        metavar="NAME=VALUE",
        help="parameters of 02_training that differ from its defaults",
    )
    train.set_defaults(command=_train)


def _add_folds(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc folds`."""
    folds = commands.add_parser(
        "folds", help="hold out each cell type in turn: curate, train and evaluate, all folds in one table"
    )
    folds.add_argument("manifest", type=_path)
    folds.add_argument("genome", type=_path_or_name, metavar="GENOME", help=GENOME_HELP)
    folds.add_argument("--out", type=_path, required=True, metavar="FOLDER", help="gets folds.csv and a folder a fold")
    folds.add_argument(
        "--cell-types", nargs="+", default=[], metavar="NAME", help="those to hold out, all by default; the rest trains"
    )
    folds.add_argument(
        "--set",
        action="append",
        default=[],
        nargs="+",
        metavar="NAME=VALUE",
        help="parameters of 01_data_curation, 02_training and 03_evaluation that differ from their defaults",
    )
    folds.add_argument(
        "--workers", type=int, metavar="N", help="folds at a time; one a GPU or a core by default"
    )
    folds.add_argument("--dask-address", default="", metavar="URL", help="of a scheduler, tcp://host:8786")
    folds.set_defaults(command=_folds)


def _add_predict(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc predict`."""
    predict = commands.add_parser("predict", help="predict a cell type's accessibility from a trained model")
    predict.add_argument(
        "--model", type=_path, required=True, metavar="FOLDER", help="such as reports/pilot/model"
    )
    predict.add_argument(
        "--manifest", type=_path, required=True, help="whatever tracks the cell type has"
    )
    predict.add_argument("--genome-fasta", type=_path_or_name, required=True, help=GENOME_HELP)
    predict.add_argument(
        "--regions",
        default="",
        metavar="BED|CHROMOSOMES|genome",
        help="where to predict: a BED file, chromosomes such as chr8,chr9, or the whole genome; by default the windows "
        "for which the model has a locus average",
    )
    predict.add_argument(
        "--stride", type=int, default=0, metavar="BP", help="from window to window in a region; side by side by default"
    )
    predict.add_argument(
        "--cell-type", default="", help="which cell type of the manifest, when it has several"
    )
    predict.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="probability from which a window is open; the evaluation's by default",
    )
    predict.add_argument(
        "--workers", type=int, metavar="N", help="threads that read tracks; one a core by default"
    )
    predict.add_argument(
        "--processes", type=int, default=0, metavar="N", help="that predict side by side; one, or one a GPU, by default"
    )
    predict.add_argument("--dask-address", default="", metavar="URL", help="of a scheduler, tcp://host:8786")
    predict.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    predict.add_argument(
        "--overwrite", action="store_true", help="replace another cell type's prediction in the folder"
    )
    predict.add_argument("--gene-names", type=_path, help=GENES_HELP)
    predict.add_argument("--rename-chromosomes", action="store_true", help=RENAME_HELP)
    predict.add_argument("--out", type=_path, required=True, metavar="FOLDER")
    predict.set_defaults(command=_predict)


def _add_variants(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc variants`."""
    variants = commands.add_parser("variants", help="effects of single-base variants on predicted accessibility")
    variants.add_argument("variants", type=_path, metavar="VARIANTS", help="a VCF, gzipped or not; or a table, tab- or "
                          "comma-separated, with columns chrom, pos (1-based), ref, alt")  # fmt: skip
    variants.add_argument("--model", type=_path, required=True, metavar="FOLDER", help="such as reports/pilot/model")
    variants.add_argument("--manifest", type=_path, required=True, help="the tracks of the cell types to ask")
    variants.add_argument("--genome-fasta", type=_path_or_name, required=True, help=GENOME_HELP)
    variants.add_argument("--cell-types", nargs="+", default=[], metavar="NAME", help="of the manifest; all by default")
    variants.add_argument("--gene-names", type=_path, help=GENES_HELP)
    variants.add_argument("--workers", type=int, metavar="N", help="threads that read tracks; one a core by default")
    variants.add_argument("--out", type=_path, required=True, metavar="FILE.csv", help="one line a variant, a column a cell type")
    variants.set_defaults(command=_variants)


def _add_report(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc report`."""
    report = commands.add_parser("report", help="rebuild the pages of a finished run")
    report.add_argument("run_dir", type=_path, metavar="RUN_DIR", help="such as reports/pilot")
    report.set_defaults(command=_report)


def _add_compare(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc compare`."""
    compare = commands.add_parser("compare", help="put finished runs side by side, on the rows that all of them held out")
    compare.add_argument("runs", type=_path, nargs="+", metavar="RUN_DIR", help="two or more; compared with the first one")
    compare.add_argument("--out", type=_path, required=True, metavar="FOLDER", help="gets comparison.html and comparison.csv")
    compare.set_defaults(command=_compare)


def _path(text: str) -> Path:
    """Return a path as typed, from the working directory, made absolute."""
    return Path(text).expanduser().absolute()


def _path_or_name(text: str) -> str | Path:
    """Return the name of a pinned reference as it is, and anything else as a path; ./hg38 is a path."""
    from chromacc_lib.reference import REFERENCES

    return text if text in REFERENCES else _path(text)


def _run(options: argparse.Namespace) -> int:
    """Run a profile."""
    from chromacc_lib.pipeline import run

    overrides = [override for group in options.set for override in group]
    run(
        options.profile,
        overrides,
        options.run_id,
        start=options.start,
        until=options.until,
        only=options.only,
        force=options.force,
    )
    return 0


def _encode(options: argparse.Namespace) -> int:
    """Resolve a query at the ENCODE portal; print what was kept, what is missing, and how many bytes it is."""
    from chromacc_lib.encode import ACCESSIBILITY_ASSAYS, EncodeQuery, resolve, write_resolution
    from chromacc_lib.portal import PORTAL

    accessibility = ACCESSIBILITY_ASSAYS if options.accessibility is None else options.accessibility
    query = EncodeQuery(
        tuple(options.cell_types),
        tuple(options.histone_marks),
        tuple(options.tfs),
        tuple(accessibility),
        options.expression,
        options.assembly,
        tuple(options.accept_audits),
    )
    resolution = resolve(query, options.portal or PORTAL, say=print)
    tracks, explained = write_resolution(resolution, options.out)
    for thing in ("experiment", "file"):
        chosen = resolution.choices.loc[resolution.choices["thing"] == thing, "chosen"]
        print(f"{thing}s: kept {chosen.sum()} of {len(chosen)}; each choice is explained in {explained}")
    for row in resolution.missing.itertuples():
        print(f"missing: {row.cell_type} {row.target}: {row.reason}")
    print(f"{tracks}: {len(resolution.manifest)} file(s), {resolution.manifest['bytes'].sum():,} bytes")
    return 0


def _review(options: argparse.Namespace) -> int:
    """Print which of a manifest's files ENCODE has archived, replaced or revoked; 1 if there is any."""
    from chromacc_lib.manifest import read_manifest
    from chromacc_lib.portal import FILE_ACCESSION, PORTAL, review_accessions

    manifest = read_manifest(options.manifest)
    accessions = manifest["accession"][manifest["accession"].str.fullmatch(FILE_ACCESSION)]
    if accessions.empty:
        raise ChromaccError(
            f"{options.manifest}: none of {len(manifest)} row(s) has an accession of ENCODE, such as "
            "ENCFF849TDM, in the column accession; fill it in, or make a manifest with `chromacc encode`"
        )
    review = review_accessions(accessions, options.portal or PORTAL)
    changed = review[~review["current"]]
    for line, row in zip(accessions.index[~review["current"]], changed.itertuples()):
        print(f"{options.manifest}, line {line}: {row.accession}: {row.reason}", file=sys.stderr)
    print(
        f"{options.manifest}: {len(accessions) - len(changed)} of {len(accessions)} ENCODE file(s) are current; "
        f"{len(manifest) - len(accessions)} row(s) without an accession of ENCODE were not looked at"
    )
    return 1 if len(changed) else 0


def _check(options: argparse.Namespace) -> int:
    """Check a manifest; print every problem and every note. Notes alone leave it usable."""
    from chromacc_lib.curation import CurationParameters
    from chromacc_lib.intake import take_in
    from chromacc_lib.reference import blacklist_path, genome_path

    problems = take_in(
        options.manifest,
        genome_path(options.genome_fasta),
        CurationParameters(gene_names=str(options.gene_names or ""), rename_chromosomes=options.rename_chromosomes),
        blacklist=blacklist_path(options.blacklist or ""),
        for_training=not options.for_prediction,
        split_later=True,
    ).problems
    for problem in problems:
        print(problem, file=sys.stderr)
    fatal = sum(problem.fatal for problem in problems)
    print(f"{options.manifest}: {fatal} problem(s), {len(problems) - fatal} note(s)")
    return 1 if fatal else 0


def _sweep(options: argparse.Namespace) -> int:
    """Run a sweep, and print its settings from the best to the worst."""
    from chromacc_lib.sweep import read_sweep, run_sweep, summarise

    table = run_sweep(
        options.dataset, read_sweep(options.settings), options.out, options.workers, options.dask_address, options.device,
        say=tell,
    )
    summary = summarise(table)
    summary.to_csv(options.out / "summary.csv", index=False)
    print(summary.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    return 1 if summary["failed"].any() else 0


def _zoo(options: argparse.Namespace) -> int:
    """Run the zoo, and print a line a fault; 1 when a cause was not named first, or a healthy run was blamed."""
    from chromacc_lib.zoo import run_zoo, summarise_zoo

    table = run_zoo(
        options.dataset, options.out, options.seeds, options.faults, options.strengths, options.healthy,
        options.workers, options.dask_address, say=tell,
    )
    print(summarise_zoo(table).to_string(index=False, float_format=lambda value: f"{value:.0f}"))
    right = table["named_first"].astype(bool)
    print(f"{right.sum()} of {len(table)} named first; the table is {options.out / 'zoo.csv'}")
    return 0 if right.all() else 1


def _export(options: argparse.Namespace) -> int:
    """Export a dataset."""
    from chromacc_lib.exports import export

    print(f"written to {export(options.dataset, options.format, options.out)}")
    return 0


def _train(options: argparse.Namespace) -> int:
    """Train a model; each process that torchrun started comes by here, and the first one talks."""
    from chromacc_lib.callbacks import EpochLine
    from chromacc_lib.fit import EPOCH_LINE, PRETRAINING_LINE, fit, training_settings
    from chromacc_lib.streaming import open_training_data

    values = _notebook_values(options, ["02_training"], {"run_dir", "dataset_dir", "trained_model"})
    config, sizes = training_settings(values)
    arrays, data = open_training_data(options.dataset, config.stream_windows)
    fit(
        options.dataset,
        options.out,
        arrays,
        data,
        config,
        sizes,
        device=values["device"],
        patience=values["patience"],
        stop_on_collapse=values["stop_on_collapse"],
        callbacks=[EpochLine(lambda row: print(EPOCH_LINE.format(**row), flush=True),
                             lambda row: print(PRETRAINING_LINE.format(**row), flush=True))],
        say=lambda text: print(text, flush=True),
    )
    return 0


def _folds(options: argparse.Namespace) -> int:
    """Run all folds, and print their table."""
    from dataclasses import fields

    from chromacc_lib.curation import CurationParameters
    from chromacc_lib.fit import training_settings
    from chromacc_lib.folds import leave_one_out
    from chromacc_lib.reference import blacklist_path, genome_path

    values = _notebook_values(
        options,
        ["01_data_curation", "02_training", "03_evaluation"],
        {"run_dir", "dataset_dir", "trained_model", "manifest", "genome_fasta", "source", "raw_dir", "exports",
         "sim_genome_mb", "sim_cell_types", "test_cell_types", "dask_address"},
    )
    given = {field.name: values[field.name] for field in fields(CurationParameters) if field.name in values}
    parameters = CurationParameters(**{n: tuple(v) if isinstance(v, list) else v for n, v in given.items()})
    config, sizes = training_settings(values)
    table = leave_one_out(
        options.manifest,
        genome_path(options.genome),
        options.out,
        options.cell_types,
        parameters,
        config,
        sizes,
        blacklist=blacklist_path(values["blacklist"]),
        workers=options.workers,
        dask_address=options.dask_address,
        say=tell,
        **{name: values[name] for name in ("truth_manifest", "remote_tracks", "patience", "stop_on_collapse", "device")},
        **{name: values[name] for name in ("n_bootstrap", "block_bp")},
    )
    shown = ["fold", "stratum", "windows", "base_rate", "skill", "skill_low", "skill_high", "pr_auc", "pr_auc_average"]
    print(table[shown].to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    print(f"every baseline, with intervals: {options.out / 'folds.csv'}")
    return 0


def _notebook_values(options: argparse.Namespace, notebooks: Sequence[str], given_otherwise: set[str]) -> dict:
    """Return the parameters of some notebooks, with what --set gives; those that are given otherwise are not known."""
    from chromacc_lib import project_path
    from chromacc_lib.parameters import check_settings, declared_parameters, parse_overrides

    paths = [project_path("notebooks") / f"{name}.ipynb" for name in notebooks]
    declared = {name: parameter for path in paths for name, parameter in declared_parameters(path).items()
                if name not in given_otherwise}
    settings = parse_overrides([override for group in options.set for override in group])
    return {name: parameter.default for name, parameter in declared.items()} | check_settings(settings, declared)


def _predict(options: argparse.Namespace) -> int:
    """Predict one cell type."""
    from chromacc_lib.prediction import predict_manifest
    from chromacc_lib.prediction_page import write_qc_page
    from chromacc_lib.reference import genome_path

    prediction = predict_manifest(
        options.model,
        options.manifest,
        genome_path(options.genome_fasta),
        _path(options.regions) if Path(options.regions).expanduser().is_file() else options.regions,
        options.out,
        stride=options.stride,
        cell_type=options.cell_type,
        threshold=options.threshold,
        workers=options.workers,
        processes=options.processes,
        dask_address=options.dask_address,
        device=options.device,
        overwrite=options.overwrite,
        gene_names=options.gene_names or "",
        rename_chromosomes=options.rename_chromosomes,
    )
    page = write_qc_page(prediction)
    print(f"written to {options.out}; what to make of it: {page}")
    return 0


def _variants(options: argparse.Namespace) -> int:
    """Score the variants of a file."""
    from chromacc_lib.reference import genome_path
    from chromacc_lib.variants import predict_variants

    genome = genome_path(options.genome_fasta)
    table = predict_variants(options.model, options.manifest, genome, options.variants, options.cell_types,
                             gene_names=options.gene_names or "", workers=options.workers)  # fmt: skip
    partial = options.out.with_name(f"{options.out.name}.partial")
    table.to_csv(partial, index=False)
    partial.replace(options.out)
    print(f"written: {options.out}, {len(table):,} variants; the unit is arcsinh fold, alternative minus reference allele")
    return 0


def _report(options: argparse.Namespace) -> int:
    """Rebuild the notebooks' pages and index.html of a run."""
    from chromacc_lib.report import export_page, is_simulated, write_index

    index = write_index(options.run_dir)
    for notebook in sorted(options.run_dir.glob("[0-9][0-9]_*.ipynb")):
        if not notebook.stem.endswith(".failed"):
            export_page(notebook, notebook.with_suffix(".html"), is_simulated(options.run_dir))
    print(f"report: {index}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    """Compare runs; print a sentence a run, and where the page is."""
    from chromacc_lib.compare import compare_runs
    from chromacc_lib.comparison_page import write_comparison

    comparison = compare_runs(options.runs)
    print(f"{comparison.sizes['rows']:,} rows shared by {', '.join(run.name for run in comparison.runs)}")
    for text in [*comparison.notes, *comparison.verdicts.values()]:
        print(text)
    print(f"comparison: {write_comparison(comparison, options.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
