"""The `chromacc` command: run a profile, find and check data, predict a new cell type, rebuild a report."""

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from chromacc_lib import ChromaccError, __version__, actions
from chromacc_lib.problems import machine_remedy

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
    run.set_defaults(command=actions.run)


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
    encode.add_argument("--out", type=actions.as_typed, required=True, metavar="FOLDER")
    encode.set_defaults(command=actions.encode)


def _add_review(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc review`."""
    review = commands.add_parser("review", help="ask the ENCODE portal what became of a manifest's files")
    review.add_argument("manifest", type=actions.as_typed)
    review.add_argument("--portal", metavar="URL", help="https://www.encodeproject.org by default")
    review.set_defaults(command=actions.review)


def _add_check(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc check`."""
    check = commands.add_parser("check", help="check a manifest and its files, and list all problems")
    check.add_argument("manifest", type=actions.as_typed)
    check.add_argument("--genome-fasta", type=_path_or_name, required=True, help=GENOME_HELP)
    check.add_argument("--blacklist", type=_path_or_name, help="path of a BED file, or hg38")
    check.add_argument("--gene-names", type=actions.as_typed, help=GENES_HELP)
    check.add_argument("--rename-chromosomes", action="store_true", help=RENAME_HELP)
    check.add_argument("--for-prediction", action="store_true", help="allow cell types without accessibility")
    check.set_defaults(command=actions.check)


def _add_sweep(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc sweep`."""
    sweep = commands.add_parser(
        "sweep", help="train many settings side by side and compare them on the validation rows"
    )
    sweep.add_argument("dataset", type=actions.as_typed, metavar="DATASET_DIR", help="such as data/pilot/dataset")
    sweep.add_argument("settings", type=actions.as_typed, metavar="YAML", help="seeds, and settings by name or a grid")
    sweep.add_argument("--out", type=actions.as_typed, required=True, metavar="FOLDER")
    sweep.add_argument(
        "--workers", type=int, metavar="N", help="runs at a time; one a GPU or a core by default"
    )
    sweep.add_argument("--dask-address", default="", metavar="URL", help="of a scheduler, tcp://host:8786")
    sweep.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    sweep.set_defaults(command=actions.sweep)


def _add_zoo(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc zoo`."""
    zoo = commands.add_parser(
        "zoo", help="break a healthy run in every known way, and see whether the diagnosis names each cause"
    )
    zoo.add_argument("dataset", type=actions.as_typed, metavar="DATASET_DIR", help="such as data/pilot/dataset")
    zoo.add_argument("--out", type=actions.as_typed, required=True, metavar="FOLDER", help="such as reports/zoo")
    zoo.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N")
    zoo.add_argument("--strengths", type=int, nargs="+", default=[1, 2, 3], choices=(1, 2, 3), metavar="1..3")
    zoo.add_argument("--faults", nargs="+", default=[], metavar="NAME", help="all by default; a wrong name lists them")
    zoo.add_argument("--healthy", type=int, default=10, metavar="N", help="healthy runs, of seeds 1 to N")
    zoo.add_argument("--workers", type=int, metavar="N", help="cases at a time; one a core by default")
    zoo.add_argument("--dask-address", default="", metavar="URL", help="of a scheduler, tcp://host:8786")
    zoo.set_defaults(command=actions.zoo)


def _add_export(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc export`."""
    export = commands.add_parser(
        "export", help="write a dataset as tensors, as TFRecord, or as tracks of a genome browser"
    )
    export.add_argument("dataset", type=actions.as_typed, metavar="DATASET_DIR", help="such as data/pilot/dataset")
    export.add_argument(
        "--format",
        required=True,
        choices=("tensors", "tfrecord", "browser"),
        help="safetensors for PyTorch; TFRecord with its feature description; BED and bigWig",
    )
    export.add_argument(
        "--out", type=actions.as_typed, required=True, metavar="FOLDER", help="new, or an earlier export"
    )
    export.set_defaults(command=actions.export)


def _add_train(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc train`."""
    train = commands.add_parser(
        "train", help="train as notebook 02_training does, without it; several GPUs or machines through torchrun"
    )
    train.add_argument("dataset", type=actions.as_typed, metavar="DATASET_DIR", help="such as data/pilot/dataset")
    train.add_argument(
        "--out", type=actions.as_typed, required=True, metavar="MODEL_DIR", help="such as reports/pilot/model"
    )
    train.add_argument(
        "--set",
        action="append",
        default=[],
        nargs="+",
        metavar="NAME=VALUE",
        help="parameters of 02_training that differ from its defaults",
    )
    train.set_defaults(command=actions.train)


def _add_folds(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc folds`."""
    folds = commands.add_parser(
        "folds", help="hold out each cell type in turn: curate, train and evaluate, all folds in one table"
    )
    folds.add_argument("manifest", type=actions.as_typed)
    folds.add_argument("genome", type=_path_or_name, metavar="GENOME", help=GENOME_HELP)
    folds.add_argument("--out", type=actions.as_typed, required=True, metavar="FOLDER", help="gets folds.csv and a folder a fold")
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
    folds.set_defaults(command=actions.folds)


def _add_predict(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc predict`."""
    predict = commands.add_parser("predict", help="predict a cell type's accessibility from a trained model")
    predict.add_argument(
        "--model", type=actions.as_typed, required=True, metavar="FOLDER", help="such as reports/pilot/model"
    )
    predict.add_argument(
        "--manifest", type=actions.as_typed, required=True, help="whatever tracks the cell type has"
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
    predict.add_argument("--gene-names", type=actions.as_typed, help=GENES_HELP)
    predict.add_argument("--rename-chromosomes", action="store_true", help=RENAME_HELP)
    predict.add_argument("--out", type=actions.as_typed, required=True, metavar="FOLDER")
    predict.set_defaults(command=actions.predict)


def _add_variants(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc variants`."""
    variants = commands.add_parser("variants", help="effects of single-base variants on predicted accessibility")
    variants.add_argument("variants", type=actions.as_typed, metavar="VARIANTS", help="a VCF, gzipped or not; or a table, tab- or "
                          "comma-separated, with columns chrom, pos (1-based), ref, alt")  # fmt: skip
    variants.add_argument("--model", type=actions.as_typed, required=True, metavar="FOLDER", help="such as reports/pilot/model")
    variants.add_argument("--manifest", type=actions.as_typed, required=True, help="the tracks of the cell types to ask")
    variants.add_argument("--genome-fasta", type=_path_or_name, required=True, help=GENOME_HELP)
    variants.add_argument("--cell-types", nargs="+", default=[], metavar="NAME", help="of the manifest; all by default")
    variants.add_argument("--gene-names", type=actions.as_typed, help=GENES_HELP)
    variants.add_argument("--workers", type=int, metavar="N", help="threads that read tracks; one a core by default")
    variants.add_argument("--out", type=actions.as_typed, required=True, metavar="FILE.csv", help="one line a variant, a column a cell type")
    variants.set_defaults(command=actions.variants)


def _add_report(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc report`."""
    report = commands.add_parser("report", help="rebuild the pages of a finished run")
    report.add_argument("run_dir", type=actions.as_typed, metavar="RUN_DIR", help="such as reports/pilot")
    report.set_defaults(command=actions.report)


def _add_compare(commands: argparse._SubParsersAction) -> None:
    """Add `chromacc compare`."""
    compare = commands.add_parser("compare", help="put finished runs side by side, on the rows that all of them held out")
    compare.add_argument("runs", type=actions.as_typed, nargs="+", metavar="RUN_DIR", help="two or more; compared with the first one")
    compare.add_argument("--out", type=actions.as_typed, required=True, metavar="FOLDER", help="gets comparison.html and comparison.csv")
    compare.set_defaults(command=actions.compare)


def _path_or_name(text: str) -> str | Path:
    """Return the name of a pinned reference as it is, and anything else as a path; ./hg38 is a path."""
    from chromacc_lib.reference import REFERENCES

    return text if text in REFERENCES else actions.as_typed(text)


if __name__ == "__main__":
    sys.exit(main())
