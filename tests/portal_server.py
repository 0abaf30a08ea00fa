"""A local stand-in for the ENCODE portal, and builders of small records in the shape of its recorded answers.

Every accession here is invented, but for what a test takes from recorded answers.
"""

import gzip
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

HIT_FIELDS = ("@id", "@type", "accession", "assay_title", "assay_term_name", "audit", "biosample_ontology",
              "biosample_summary", "status", "target")


class LocalPortal:
    """Records by accession, and what else the portal answers. `script`: raw answers that go first, in turn."""

    def __init__(self, experiments=(), files=(), terms=("GM12878", "HepG2", "K562"),
                 targets=("CTCF", "EP300", "GATA1", "H3K27ac", "H3K4me3")):
        self.experiments = {record["accession"]: record for record in experiments}
        self.files = {record["accession"]: record for record in files}
        self.facets = {"biosample_ontology.term_name": terms, "target.label": targets}
        self.script = []  # (status, headers, body as text)
        self.gone = set()  # accessions that the search still names
        self.lost = 0  # hits that the search counts, but does not give
        self.hits = None  # the hits of every search, whatever it asks for
        self.asked = []  # (path, parameters)
        self.url = ""

    def answer(self, path, params):
        """Return (status, headers, body as text)."""
        self.asked.append((path, params))
        if self.script:
            return self.script.pop(0)
        if path == "/search/":
            return self._search(params)
        folder, accession = path.strip("/").split("/")
        records = self.experiments if folder == "experiments" else self.files
        if accession in records and accession not in self.gone:
            return 200, {}, json.dumps(records[accession])
        content = {"@type": ["HTTPNotFound", "Error"], "status": "error", "code": 404, "title": "Not Found",
                   "description": "The resource could not be found.", "detail": path}
        return 404, {}, json.dumps(content)

    def _search(self, params):
        found = list(self.experiments.values()) if self.hits is None else self.hits
        wanted = {name: values for name, values in params.items() if self.hits is None}
        found = [record for record in found if all(self._matches(record, *item) for item in wanted.items())]
        facets = [{"field": field, "terms": [{"key": term, "doc_count": 1} for term in terms]}
                  for field, terms in self.facets.items()]
        start, limit = int(params.get("from", ["0"])[0]), int(params["limit"][0])
        page = found[:len(found) - self.lost][start:start + limit]
        content = {"@type": ["Search"], "title": "Search", "total": len(found), "facets": facets,
                   "@graph": [{k: r[k] for k in HIT_FIELDS if k in r} for r in page]}
        return (200 if found else 404), {}, json.dumps(content)

    @staticmethod
    def _matches(record, name, values):
        if name == "biosample_ontology.term_name":
            return record["biosample_ontology"]["term_name"] in values
        if name == "target.label":
            return record.get("target", {}).get("label") in values
        return name != "assay_title" or record["assay_title"] in values


@contextmanager
def serve(portal):
    """Serve a LocalPortal on a free port of 127.0.0.1; its `url` is set."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            status, headers, body = portal.answer(parts.path, parse_qs(parts.query))
            data = body.encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        portal.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield portal
        finally:
            server.shutdown()
            thread.join()


def make_file(accession, output_type, replicates=(1, 2), created="2020-09-30", *, form="bigWig", **changes):
    """Return a file's record. form: bigWig, bigBed, tsv, or bed followed by its type, as in `file_type`."""
    file_format, _, kind = form.partition(" ")
    ending = {"bed": "bed.gz"}.get(file_format, file_format)
    record = {
        "@id": f"/files/{accession}/", "@type": ["File", "Item"], "accession": accession, "status": "released",
        "file_format": file_format, "file_type": form, "output_type": output_type, "assembly": "GRCh38",
        "biological_replicates": list(replicates), "date_created": f"{created}T06:16:00.427664+00:00",
        "md5sum": "7affbe98b325949b4764609065f61997", "file_size": 1000, "no_file_available": False,
        "href": f"/files/{accession}/@@download/{accession}.{ending}", "superseded_by": [], "derived_from": []}
    return record | ({"file_format_type": kind} if kind else {}) | changes


def make_experiment(accession, assay, files, target="", cell_type="K562", created="2013-11-07", **changes):
    """Return an experiment's record with its files embedded; without analyses, unless `changes` gives them."""
    donor = {"@id": "/human-donors/ENCDO000ZZA/", "accession": "ENCDO000ZZA"}
    biosample = {"accession": "ENCBS000ZZA", "donor": donor, "treatments": [], "applied_modifications": [],
                 "genetic_modifications": []}
    record = {
        "@id": f"/experiments/{accession}/", "@type": ["Experiment", "Dataset", "Item"], "accession": accession,
        "status": "released", "assay_title": assay, "assembly": ["GRCh38", "hg19"], "perturbed": False,
        "biosample_summary": cell_type, "date_created": f"{created}T22:16:17.477010+00:00", "superseded_by": [],
        "biosample_ontology": {"term_name": cell_type, "organ_slims": ["blood"], "cell_slims": ["leukocyte"]},
        "replicates": [{"biological_replicate_number": 1, "library": {"biosample": biosample}}],
        "audit": {}, "files": list(files)}
    return record | ({"target": {"label": target}} if target else {}) | changes


def make_analysis(accession, files, created="2020-10-14"):
    """Return an analysis of the files with these accessions; created: when the portal opened its record."""
    return {"@id": f"/analyses/{accession}/", "accession": accession, "status": "released",
            "assembly": "GRCh38", "date_created": f"{created}T00:45:49.473738+00:00",
            "files": [f"/files/{name}/" for name in files]}


def make_audit(level, *categories):
    """Return an experiment's audits of one level, such as ERROR."""
    return {level: [{"category": category, "level_name": level} for category in categories]}


def read_recorded(path):
    """Return a recorded answer (.json.gz)."""
    with gzip.open(Path(path), "rt") as handle:
        return json.load(handle)
