"""The ENCODE resolver: which experiment, and which of its files, stand for each cell type and target.

The rules, in their order. An experiment is rejected unless it is released, not superseded, of untreated and
unperturbed cells, without a red audit (ERROR), and has the files that are needed. Of those left: the assay
that the query names first; cells that are not genetically modified; the cell type as it is, no variant; no
orange audit (NOT_COMPLIANT); the newest analysis; the newest record; the lowest accession.

A file is rejected unless it is of the right format, output type and assembly, released, not superseded,
available, with md5 and size, and under an address of the portal. Of those left: the portal's preferred
default; the newest analysis; for peaks, the replicates and the alignments of the chosen signal; the most
replicates (pooled); the output type that `OUTPUTS` names first; the newest record; the lowest accession.
An analysis is as new as its newest file: in autumn 2020 the portal opened records of its old analyses too,
so their own date misleads.

A cell type's lineage is the names of its organs (`organ_slims` of the portal's ontology; where it has none, its
kinds of cell, `cell_slims`), sorted: the whole list is one lineage (`manifest.lineages_of`).
"""

import difflib
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import pandas as pd

from chromacc_lib import ChromaccError
from chromacc_lib.manifest import COLUMNS, INPUT_KINDS
from chromacc_lib.portal import PORTAL, Portal, accessions_of, id_of, open_portal, text_field

__all__ = [
    "ACCESSIBILITY_ASSAYS", "CHOICE_COLUMNS", "ENCODE_COLUMNS", "EncodeQuery", "Resolution", "resolve",
    "write_resolution",
]

ACCESSIBILITY_ASSAYS = ("ATAC-seq", "DNase-seq")
EXPRESSION_ASSAYS = ("polyA plus RNA-seq", "polyA RNA-seq", "total RNA-seq")  # the second is an older name
ENCODE_COLUMNS = (*COLUMNS, "lineage", "bytes", "experiment")
CHOICE_COLUMNS = ("cell_type", "target", "thing", "experiment", "accession", "output_type", "chosen", "reason")

IDR = ("IDR thresholded peaks", "optimal IDR thresholded peaks", "conservative IDR thresholded peaks")
PSEUDO = ("pseudo-replicated peaks", "pseudoreplicated peaks")  # the older and the newer spelling
FORMATS = {"accessibility_signal": ("bigWig", ), "accessibility_peaks": ("bed", "bigBed"),
           "histone": ("bigWig", ), "tf": ("bigWig", ), "expression": ("tsv", )}
# Which output types serve, the first preferred; {kind: {assay: ...}}, "" = whatever the assay.
OUTPUTS = {
    "accessibility_signal": {"ATAC-seq": ("fold change over control", ),
                             "DNase-seq": ("read-depth normalized signal", )},
    "accessibility_peaks": {"ATAC-seq": (*IDR, *PSEUDO), "DNase-seq": ("peaks", )},
    "histone": {"": ("fold change over control", )},
    "tf": {"": ("fold change over control", )},
    "expression": {"": ("gene quantifications", )},
}
NOTHING = "no released experiment"
CELL_TYPE, TARGET = "biosample_ontology.term_name", "target.label"  # the portal's fields, whose values it lists
CLOUD_HOSTS = ("encode-public.s3.amazonaws.com", )  # where cloud_metadata.url of public files points


@dataclass(frozen=True)
class EncodeQuery:
    """What is looked for. Names are the portal's own: `biosample_ontology.term_name`, `target.label`.

    accessibility: assays, the preferred first; () = none. accepted_audits: categories of red audits, such as
    "extremely low read depth", that do not reject an experiment.
    """

    cell_types: tuple[str, ...]
    histone_marks: tuple[str, ...] = ()
    tfs: tuple[str, ...] = ()
    accessibility: tuple[str, ...] = ACCESSIBILITY_ASSAYS
    expression: bool = False
    assembly: str = "GRCh38"
    accepted_audits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.cell_types:
            raise ChromaccError("the query names no cell type; give at least one, such as K562")
        for name in ("cell_types", "histone_marks", "tfs", "accessibility"):
            values = getattr(self, name)
            if isinstance(values, str) or any(not value.strip() for value in values):
                raise ChromaccError(f"{name}: got {values!r}; needed a tuple of names, none of them empty")
            if len(set(values)) < len(values):
                raise ChromaccError(f"{name}: a name stands twice in {', '.join(values)}; give each once")
        unknown = sorted(set(self.accessibility) - set(ACCESSIBILITY_ASSAYS))
        if unknown:
            raise ChromaccError(f"unknown accessibility assay {', '.join(unknown)}; there are: "
                                f"{', '.join(ACCESSIBILITY_ASSAYS)}")
        if not (self.histone_marks or self.tfs or self.expression or self.accessibility):
            raise ChromaccError("the query asks for no track; name marks, TFs, expression or accessibility")


@dataclass(frozen=True)
class Resolution:
    """manifest: `ENCODE_COLUMNS`, one row a chosen file; `bytes` int64, all else text.

    choices: `CHOICE_COLUMNS`, one row for each experiment that was looked at, each file of the chosen ones and
    of those that failed by their files, and each assay or cell type that is missing (thing = "assay" or
    "cell type", no accession).
    """

    manifest: pd.DataFrame
    choices: pd.DataFrame

    @property
    def missing(self) -> pd.DataFrame:
        """The rows of `choices` that name a missing assay, or what a cell type lacks as a whole."""
        return self.choices[self.choices["thing"].isin(("assay", "cell type"))]


class _Track(NamedTuple):
    """One target of one cell type: which assays serve, and which kinds of manifest row it gives."""

    target: str
    assays: tuple[str, ...]
    kinds: tuple[str, ...]
    label: str = ""  # target.label at the portal


@dataclass
class _File:
    """One file of an experiment, with its newest analysis ("" and the earliest date where it is in none)."""

    record: Mapping[str, Any]
    analysis: str
    analysed: datetime

    @property
    def replicates(self) -> tuple[int, ...]:
        """The biological replicates that the file is made from, sorted."""
        return tuple(sorted(self.record.get("biological_replicates") or ()))


@dataclass
class _Experiment:
    """One experiment that passed, with the file chosen for each kind, and the rows that explain the files."""

    record: Mapping[str, Any]
    chosen: dict[str, _File] = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)

    @property
    def analysed(self) -> datetime:
        """When the newest of its chosen files was analysed."""
        return max(file.analysed for file in self.chosen.values())


class _Rule(NamedTuple):
    """Keep the candidates whose `key` is the best; `lost(loser, winner)` says why another one is not taken."""

    key: Callable[[Any], Any]
    lost: Callable[[Any, Any], str]
    best: Callable = max


# --- reading records ----------------------------------------------------------------------------------------
def _date(record: Mapping[str, Any]) -> datetime:
    moment = datetime.fromisoformat(text_field(record, "date_created"))
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


EARLIEST = datetime.min.replace(tzinfo=timezone.utc)


def _audits(record: Mapping[str, Any], level: str) -> list[str]:
    """Return the categories of an experiment's audits of one level: ERROR is red, NOT_COMPLIANT orange."""
    return sorted({text_field(audit, "category") for audit in (record.get("audit") or {}).get(level, ())})


def _biosamples(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the biosamples that the portal embedded in an experiment's replicates."""
    libraries = [replicate.get("library") for replicate in record.get("replicates") or () if
                 isinstance(replicate, Mapping)]
    samples = [library.get("biosample") for library in libraries if isinstance(library, Mapping)]
    return [sample for sample in samples if isinstance(sample, Mapping)]


def _is_modified(record: Mapping[str, Any]) -> bool:
    return "genetically modified" in record.get("biosample_summary", "") or any(
        sample.get("applied_modifications") or sample.get("genetic_modifications")
        for sample in _biosamples(record))


def _files(record: Mapping[str, Any], assembly: str) -> list[_File]:
    """Return an experiment's files, each with the newest of its analyses.

    Older answers tell a file's analyses in the experiment's `analysis_objects`, newer ones in its `analyses`,
    and the file's own `analyses` beside it.
    """
    records = record.get("files")
    if not isinstance(records, list) or not all(isinstance(file, Mapping) for file in records):
        raise ChromaccError(f"{text_field(record, 'accession')}: the answer has no embedded files; needed the "
                            "portal's page of the experiment. Its format may have changed: please report it")
    members: dict[str, set[str]] = {}
    for analysis in [*(record.get("analyses") or ()), *(record.get("analysis_objects") or ())]:
        if isinstance(analysis, Mapping):
            members.setdefault(accessions_of([analysis]), set()).update(map(id_of, analysis.get("files") or ()))
    for file in records:
        for analysis in file.get("analyses") or ():
            members.setdefault(accessions_of([analysis]), set()).add(text_field(file, "@id"))
    dates = {text_field(file, "@id"): _date(file) for file in records if file.get("assembly") == assembly}
    made = {name: max((dates[i] for i in ids if i in dates), default=EARLIEST) for name, ids in members.items()}
    files = []
    for file in records:
        own = [(made[name], name) for name, ids in members.items() if text_field(file, "@id") in ids]
        analysed, analysis = max(own, default=(EARLIEST, ""))
        files.append(_File(file, analysis, analysed))
    return files


# --- rules --------------------------------------------------------------------------------------------------
def _narrow(candidates: Sequence[Any], rules: Sequence[_Rule]) -> tuple[Any, list[tuple[Any, str]]]:
    """Apply the rules in turn; return the one left, and each of the others with the reason."""
    left, dropped = list(candidates), []
    for rule in rules:
        best = rule.best(rule.key(candidate) for candidate in left)
        dropped += [(candidate, rule) for candidate in left if rule.key(candidate) != best]
        left = [candidate for candidate in left if rule.key(candidate) == best]
    return left[0], [(candidate, rule.lost(candidate, left[0])) for candidate, rule in dropped]


def _experiment_fault(record: Mapping[str, Any], query: EncodeQuery) -> str:
    """Say why an experiment cannot be used, "" if it can, its files aside."""
    if record["status"] != "released":
        return f"its status is {record['status']}, not released"
    if record.get("superseded_by"):
        return f"superseded by {accessions_of(record['superseded_by'])}"
    treated = "treated with" in record.get("biosample_summary", "") or any(
        sample.get("treatments") for sample in _biosamples(record))
    if treated or record.get("perturbed"):
        return f"perturbed or treated cells ({record.get('biosample_summary', 'no summary')})"
    red = [category for category in _audits(record, "ERROR") if category not in query.accepted_audits]
    return f"red audit: {', '.join(red)}" if red else ""


def _experiment_rules(track: _Track, cell_type: str) -> list[_Rule]:
    """The order among experiments that can be used."""
    def summary(e: _Experiment) -> str:
        """The biosample in the portal's words."""
        return e.record.get("biosample_summary", "")

    return [
        _Rule(lambda e: track.assays.index(e.record["assay_title"]),
              lambda e, w: f"{e.record['assay_title']}; {w.record['assay_title']} is preferred", min),
        _Rule(lambda e: _is_modified(e.record), lambda e, w: f"genetically modified cells ({summary(e)})", min),
        _Rule(lambda e: summary(e) == cell_type, lambda e, w: f"a variant of the cell type ({summary(e)})"),
        _Rule(lambda e: bool(_audits(e.record, "NOT_COMPLIANT")),
              lambda e, w: f"orange audit: {', '.join(_audits(e.record, 'NOT_COMPLIANT'))}; "
                           f"{w.record['accession']} has none", min),
        _Rule(lambda e: e.analysed,
              lambda e, w: f"its newest analysis is of {_day(e.analysed)}, that of {w.record['accession']} of "
                           f"{_day(w.analysed)}"),
        _Rule(lambda e: _date(e.record), lambda e, w: f"an older record than {w.record['accession']}"),
        _Rule(lambda e: e.record["accession"], lambda e, w: f"equal to {w.record['accession']}; "
                                                            "the lower accession is taken", min),
    ]


def _day(moment: datetime) -> str:
    return "unknown date" if moment == EARLIEST else f"{moment:%Y-%m-%d}"


def _file_fault(record: Mapping[str, Any], kind: str, outputs: Sequence[str], assembly: str,
                portal: str) -> str:
    """Say why a file cannot be used, "" if it can."""
    successors = accessions_of(record.get("superseded_by") or ())
    successor = f", superseded by {successors}" if successors else ""
    form = record.get("file_type") or record["file_format"]
    faults = [
        (record.get("assembly") != assembly, f"assembly {record.get('assembly', 'unknown')}, not {assembly}"),
        (record["status"] != "released" or successor, f"{record['status']}{successor}"),
        (record["file_format"] == "bigBed", "bigBed; the bed file of the same peaks is read"),
        (kind == "accessibility_peaks" and form != "bed narrowPeak", f"format {form}, not bed narrowPeak"),
        (record["output_type"] not in outputs,
         f"output type {record['output_type']}, not {' or '.join(outputs)}"),
        (record.get("no_file_available"), "no file is available"),
        (record.get("restricted"), "access is restricted"),
        (not re.fullmatch(r"[0-9a-f]{32}", record.get("md5sum") or ""), "the portal gives no md5"),
        (not (record.get("file_size") or 0) > 0, "the portal gives no size"),
        (not _address(record, portal), "no download address on the portal or in its public cloud bucket"),
    ]
    return next((fault for failed, fault in faults if failed), "")


def _address(record: Mapping[str, Any], portal: str) -> str:
    """Return a file's full address: its href on the portal's own host, else the public cloud's, else ""."""
    href = record.get("href") or ""
    full = urlsplit(urljoin(portal + "/", href))
    if href and (full.scheme, full.netloc) == urlsplit(portal)[:2]:
        return full.geturl()
    cloud = urlsplit((record.get("cloud_metadata") or {}).get("url") or "")
    return cloud.geturl() if cloud.scheme == "https" and cloud.netloc in CLOUD_HOSTS else ""


def _file_rules(outputs: Sequence[str], signal: _File | None) -> list[_Rule]:
    """The order among files that can be used; peaks follow the signal's replicates and alignments."""
    def shared(f: _File) -> int:
        """How many alignments the peaks and the signal both derive from."""
        return len(set(f.record.get("derived_from") or ()) & set(signal.record.get("derived_from") or ()))

    name = "" if signal is None else signal.record["accession"]
    follow = [] if signal is None else [
        _Rule(lambda f: f.replicates == signal.replicates,
              lambda f, w: f"of replicate(s) {_replicates(f)}; the signal {name} is of {_replicates(signal)}"),
        _Rule(shared, lambda f, w: f"shares fewer alignments with the signal {name}")]
    return [
        _Rule(lambda f: bool(f.record.get("preferred_default")),
              lambda f, w: f"{w.record['accession']} is the portal's preferred default"),
        _Rule(lambda f: f.analysed,
              lambda f, w: f"of an older analysis ({f.analysis or 'none'}, {_day(f.analysed)}) than "
                           f"{w.record['accession']} ({w.analysis}, {_day(w.analysed)})"),
        *follow,
        _Rule(lambda f: len(f.replicates),
              lambda f, w: f"of replicate(s) {_replicates(f)} alone; {w.record['accession']} pools "
                           f"{_replicates(w)}"),
        _Rule(lambda f: outputs.index(f.record["output_type"]),
              lambda f, w: f"{f.record['output_type']}; {w.record['output_type']} are preferred", min),
        _Rule(lambda f: _date(f.record), lambda f, w: f"an older record than {w.record['accession']}"),
        _Rule(lambda f: f.record["accession"],
              lambda f, w: f"equal to {w.record['accession']}; the lower accession is taken", min),
    ]


def _why(usable: Sequence[Any]) -> str:
    return f"the first of {len(usable)} by the rules" if len(usable) > 1 else "the only one that can be used"


def _replicates(file: _File) -> str:
    return ", ".join(map(str, file.replicates)) or "unknown number"


# --- resolving ----------------------------------------------------------------------------------------------
def resolve(query: EncodeQuery, portal: str = PORTAL, *, page_size: int = 100, attempts: int = 4,
            pause: Callable[[float], None] = time.sleep,
            say: Callable[[str], None] = lambda line: None) -> Resolution:
    """Ask the portal, and return the manifest with every choice and every rejection.

    page_size: experiments a page of a search. attempts: tries in all, of each request; between them `pause`
    gets the seconds to wait. say: gets a line for each cell type. A missing assay is a row of `choices`, not an
    error. Raises ChromaccError for a cell type, mark or TF that the portal does not know (with the nearest
    names), an answer that is none, or a search of which only a part came.
    """
    client = open_portal(portal, attempts, pause)
    tracks = _tracks(query)
    rows: list[dict] = []
    choices: list[dict] = []
    nothing = {CELL_TYPE: list(query.cell_types), TARGET: [*query.histone_marks, *query.tfs]}  # found for these yet
    for cell_type in query.cell_types:
        seen, first = 0, len(rows)
        for track in tracks:
            hits = client.search(_search_params(query, cell_type, track), page_size)
            seen += len(hits)
            for listed, name in ((CELL_TYPE, cell_type), (TARGET, track.label)):
                if hits and name in nothing[listed]:
                    nothing[listed].remove(name)
            chosen = _choose_experiment(client, query, cell_type, track, hits, choices)
            if chosen is not None:
                rows += _manifest_rows(client, query, cell_type, track, chosen)
        choices += _lacks(query, cell_type, {row["kind"] for row in rows[first:]})
        say(f"{cell_type}: {len(rows) - first} file(s) of {seen} experiment(s)")
    _require_known(client, query, nothing)
    manifest = pd.DataFrame(rows, columns=ENCODE_COLUMNS).astype({"bytes": "int64"})
    return Resolution(manifest, pd.DataFrame(choices, columns=CHOICE_COLUMNS).astype({"chosen": bool}))


def _tracks(query: EncodeQuery) -> list[_Track]:
    """What is looked for in each cell type, in the manifest's order."""
    tracks = []
    if query.accessibility:
        kinds = ("accessibility_signal", "accessibility_peaks")
        tracks.append(_Track("accessibility", query.accessibility, kinds))
    tracks += [_Track(mark, ("Histone ChIP-seq", ), ("histone", ), mark) for mark in query.histone_marks]
    tracks += [_Track(tf, ("TF ChIP-seq", ), ("tf", ), tf) for tf in query.tfs]
    return tracks + ([_Track("expression", EXPRESSION_ASSAYS, ("expression", ))] if query.expression else [])


def _search_params(query: EncodeQuery, cell_type: str, track: _Track) -> list[tuple[str, str]]:
    """The search for one track; requests escapes the values."""
    params = [("type", "Experiment"), ("status", "released"), ("assembly", query.assembly),
              (CELL_TYPE, cell_type), *(("assay_title", assay) for assay in track.assays)]
    return params + ([(TARGET, track.label)] if track.label else [])


def _choose_experiment(client: Portal, query: EncodeQuery, cell_type: str, track: _Track, hits: Sequence[dict],
                       choices: list[dict]) -> _Experiment | None:
    """Choose one experiment for a track, or none; append what explains it to `choices`."""
    def row(thing: str, experiment: str, chosen: bool, reason: str) -> dict:
        """A line of the table of choices."""
        values = (cell_type, track.target, thing, experiment, experiment, "", chosen, reason)
        return dict(zip(CHOICE_COLUMNS, values))

    usable: list[_Experiment] = []
    for hit in sorted(hits, key=lambda hit: text_field(hit, "accession")):
        experiment, fault = _examine(client, query, cell_type, track, hit)
        if fault:
            choices.append(row("experiment", hit["accession"], False, fault))
            choices += experiment.rows
        else:
            usable.append(experiment)
    if not usable:
        assays = " or ".join(track.assays) + (f" of {track.label}" if track.label else "")
        why = f"none of the {len(hits)} released experiment(s) can be used" if hits else NOTHING
        choices.append(row("assay", "", False, f"{why}: {assays} in {cell_type}, {query.assembly}"))
        return None
    winner, others = _narrow(usable, _experiment_rules(track, cell_type))
    choices += [row("experiment", e.record["accession"], False, reason) for e, reason in others]
    accepted = _audits(winner.record, "ERROR")
    reason = _why(usable) + (f"; red audit accepted: {', '.join(accepted)}" if accepted else "")
    choices += [row("experiment", winner.record["accession"], True, reason), *winner.rows]
    return winner


def _examine(client: Portal, query: EncodeQuery, cell_type: str, track: _Track,
             hit: Mapping[str, Any]) -> tuple[_Experiment, str]:
    """Fetch one experiment of a search, and choose its files; return it with its fault, "" if it has none."""
    accession = text_field(hit, "accession")
    if not re.fullmatch(r"ENCSR[0-9]{3}[A-Z]{3}", accession):
        raise ChromaccError(f"{client.url}: a search gave the accession {accession!r}; needed one like "
                            "ENCSR000AKP. Check the portal's address")
    if "treated with" in hit.get("biosample_summary", ""):  # known already: its large page is not fetched
        return _Experiment(hit), f"perturbed or treated cells ({hit['biosample_summary']})"
    status, record = client.get(f"/experiments/{accession}/")
    if status == 404:
        return _Experiment(hit), "the search names it, but the portal does not have it (HTTP 404)"
    experiment = _Experiment(record)
    if text_field(record, "accession") != accession:
        return experiment, f"replaced by {record['accession']}"
    if text_field(record, "assay_title") not in track.assays:
        return experiment, f"the assay is {record['assay_title']}"
    text_field(record, "status")
    fault = _experiment_fault(record, query)
    if fault:
        return experiment, fault
    files = _files(record, query.assembly)
    for kind in track.kinds:
        _choose_file(client, query, cell_type, track, kind, experiment, files)
    lacking = [kind.replace("_", " ") for kind in track.kinds if kind not in experiment.chosen]
    return experiment, f"no file of {' and '.join(lacking)} can be used" if lacking else ""


def _choose_file(client: Portal, query: EncodeQuery, cell_type: str, track: _Track, kind: str,
                 experiment: _Experiment, files: Sequence[_File]) -> None:
    """Choose the file of one kind, into experiment.chosen, and explain it in experiment.rows."""
    by_assay = OUTPUTS[kind]
    outputs = by_assay.get(experiment.record["assay_title"], by_assay.get("", ()))

    def add(file: _File, chosen: bool, reason: str) -> None:
        """Note what became of a file."""
        values = (cell_type, track.target, "file", experiment.record["accession"], file.record["accession"],
                  file.record["output_type"], chosen, reason)
        experiment.rows.append(dict(zip(CHOICE_COLUMNS, values)))

    usable = []
    for file in files:
        for name in ("accession", "file_format", "output_type", "status"):
            text_field(file.record, name)
        if file.record["file_format"] not in FORMATS[kind]:
            continue
        fault = _file_fault(file.record, kind, outputs, query.assembly, client.url)
        if fault:
            add(file, False, fault)
        else:
            usable.append(file)
    if usable:
        winner, others = _narrow(usable, _file_rules(outputs, experiment.chosen.get("accessibility_signal")))
        for file, reason in others:
            add(file, False, reason)
        add(winner, True, _why(usable))
        experiment.chosen[kind] = winner


def _manifest_rows(client: Portal, query: EncodeQuery, cell_type: str, track: _Track,
                   experiment: _Experiment) -> list[dict]:
    """The manifest's rows of a chosen experiment."""
    record = experiment.record
    ontology = record.get("biosample_ontology")
    ontology = ontology if isinstance(ontology, Mapping) else {}
    donors = [sample["donor"] for sample in _biosamples(record) if sample.get("donor")]
    shared = {
        "cell_type": cell_type, "assay": record["assay_title"], "target": track.target,
        "biosample": record.get("biosample_summary", ""), "assembly": query.assembly,
        "donor": ", ".join(sorted({accessions_of([donor]) for donor in donors})),
        "lineage": ", ".join(sorted(ontology.get("organ_slims") or ontology.get("cell_slims") or ())),
        "experiment": record["accession"]}
    return [shared | {"kind": kind, "path_or_url": _address(file.record, client.url),
                      "md5": file.record["md5sum"], "accession": file.record["accession"],
                      "output_type": file.record["output_type"], "bytes": file.record["file_size"]}
            for kind, file in experiment.chosen.items()]


def _lacks(query: EncodeQuery, cell_type: str, kinds: set[str]) -> list[dict]:
    """What a cell type as a whole lacks, as rows of `choices`."""
    lacks = []
    if not kinds & set(INPUT_KINDS):
        lacks.append("no input track (histone, tf or expression): leave it out")
    if query.accessibility and "accessibility_signal" not in kinds:
        lacks.append("no accessibility: it can be predicted, but not trained or evaluated on")
    return [dict(zip(CHOICE_COLUMNS, (cell_type, "", "cell type", "", "", "", False, lack))) for lack in lacks]


def _require_known(client: Portal, query: EncodeQuery, nothing: Mapping[str, Sequence[str]]) -> None:
    """Raise ChromaccError for names that the portal does not list at all, each with the nearest that it lists.

    nothing: {`CELL_TYPE` or `TARGET`: names of the query for which no experiment was found}.
    """
    if not any(nothing.values()):
        return
    params = [("type", "Experiment"), ("status", "released"), ("assembly", query.assembly), ("limit", "0")]
    _, content = client.get("/search/", params)
    facets = {facet.get("field"): facet.get("terms") or () for facet in content.get("facets") or ()}
    problems = []
    for listed, names in nothing.items():
        known = [text_field(term, "key") for term in facets.get(listed, ())]
        what = "cell type" if listed == CELL_TYPE else "mark or TF"
        if names and not known:
            raise ChromaccError(
                f"{client.url}: no experiment of {', '.join(names)}, and the portal lists no {what} for "
                f"{query.assembly}. Check the names, the assembly and the portal's address")
        strange = [f"  {name}: {_suggestion(name, known)}" for name in names if name not in known]
        if strange:
            problems += [f"{client.url} knows no such {what} (its names are exact, capitals count):", *strange]
    if problems:
        raise ChromaccError("\n".join(problems))


def _suggestion(name: str, known: Sequence[str]) -> str:
    """Name the nearest of the portal's names: equal but for capitals and signs, or containing it, or alike."""
    def bare(text: str) -> str:
        """A name without capitals and signs."""
        return re.sub(r"[^a-z0-9]", "", text.lower())

    near = [k for k in known if bare(k) == bare(name)]
    near = near or [k for k in known if bare(name) and bare(name) in bare(k)]
    alike = difflib.get_close_matches(bare(name), [bare(k) for k in known], n=5, cutoff=0.5)
    near = near or [next(k for k in known if bare(k) == form) for form in alike]
    return f"did you mean {' or '.join(near[:5])}?" if near else "nothing like it; search for it at the portal"


def write_resolution(resolution: Resolution, folder: str | Path) -> tuple[Path, Path]:
    """Write tracks.tsv and choices.tsv into `folder`, each under a temporary name first; return their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"choices.tsv": resolution.choices, "tracks.tsv": resolution.manifest}
    for name, table in tables.items():
        table.to_csv(folder / f".{name}.partial", sep="\t", index=False)
    for name in tables:  # the manifest last: where it is new, its explanation is too
        os.replace(folder / f".{name}.partial", folder / name)
    return folder / "tracks.tsv", folder / "choices.tsv"
