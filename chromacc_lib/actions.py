"""What each `chromacc` command does: read its options, call the library, say what came of it; the exit status."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from chromacc_lib import ChromaccError
from chromacc_lib.progress import tell

__all__ = ["as_typed", "check", "compare", "encode", "export", "folds", "predict", "report", "review", "run", "sweep",
           "train", "variants", "zoo"]


def as_typed(text: str) -> Path:
    """Return a path as typed, from the working directory, made absolute."""
    return Path(text).expanduser().absolute()


def run(options: argparse.Namespace) -> int:
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


def encode(options: argparse.Namespace) -> int:
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


def review(options: argparse.Namespace) -> int:
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


def check(options: argparse.Namespace) -> int:
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


def sweep(options: argparse.Namespace) -> int:
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


def zoo(options: argparse.Namespace) -> int:
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


def export(options: argparse.Namespace) -> int:
    """Export a dataset."""
    from chromacc_lib.exports import export

    print(f"written to {export(options.dataset, options.format, options.out)}")
    return 0


def train(options: argparse.Namespace) -> int:
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


def folds(options: argparse.Namespace) -> int:
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


def predict(options: argparse.Namespace) -> int:
    """Predict one cell type."""
    from chromacc_lib.prediction import predict_manifest
    from chromacc_lib.prediction_page import write_qc_page
    from chromacc_lib.reference import genome_path

    prediction = predict_manifest(
        options.model,
        options.manifest,
        genome_path(options.genome_fasta),
        as_typed(options.regions) if Path(options.regions).expanduser().is_file() else options.regions,
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


def variants(options: argparse.Namespace) -> int:
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


def report(options: argparse.Namespace) -> int:
    """Rebuild the notebooks' pages and index.html of a run."""
    from chromacc_lib.report import export_page, is_simulated, write_index

    index = write_index(options.run_dir)
    for notebook in sorted(options.run_dir.glob("[0-9][0-9]_*.ipynb")):
        if not notebook.stem.endswith(".failed"):
            export_page(notebook, notebook.with_suffix(".html"), is_simulated(options.run_dir))
    print(f"report: {index}")
    return 0


def compare(options: argparse.Namespace) -> int:
    """Compare runs; print a sentence a run, and where the page is."""
    from chromacc_lib.compare import compare_runs
    from chromacc_lib.comparison_page import write_comparison

    comparison = compare_runs(options.runs)
    print(f"{comparison.sizes['rows']:,} rows shared by {', '.join(run.name for run in comparison.runs)}")
    for text in [*comparison.notes, *comparison.verdicts.values()]:
        print(text)
    print(f"comparison: {write_comparison(comparison, options.out)}")
    return 0
