"""The ENCODE resolver against a local portal: every rule, every reason, every fault of the wire."""

import re
from dataclasses import FrozenInstanceError

import pandas as pd
import pytest
from portal_server import (
    LocalPortal, make_analysis, make_audit, make_experiment, make_file, read_recorded, serve,
)

from chromacc_lib import ChromaccError, cli
from chromacc_lib.encode import CHOICE_COLUMNS, ENCODE_COLUMNS, EncodeQuery, resolve, write_resolution
from chromacc_lib.manifest import COLUMNS
from chromacc_lib.portal import open_portal, review_accessions

FOLD, PSEUDO, IDR = "fold change over control", "pseudo-replicated peaks", "IDR thresholded peaks"
NARROW = "bed narrowPeak"
MARK = EncodeQuery(("K562", ), ("H3K27ac", ), accessibility=())


def histone(accession, files, **changes):
    return make_experiment(accession, "Histone ChIP-seq", files, "H3K27ac", **changes)


def atac(accession="ENCSR000ZZT", **changes):
    files = [make_file("ENCFF000ZTA", FOLD),
             make_file("ENCFF000ZTB", PSEUDO, form=NARROW, preferred_default=True),
             make_file("ENCFF000ZTC", IDR, form=NARROW),
             make_file("ENCFF000ZTD", PSEUDO, form="bigBed narrowPeak")]
    return make_experiment(accession, "ATAC-seq", files, **changes)


def ask(portal, query=MARK, **options):
    """Resolve without waiting; return the resolution and the reason of each accession (or thing)."""
    with serve(portal):
        resolution = resolve(query, portal.url, pause=lambda seconds: None, **options)
    choices = resolution.choices
    return resolution, dict(zip(choices["accession"].where(choices["accession"] != "", choices["thing"]),
                                choices["reason"]))


def refused(portal, query=MARK, **options):
    """Return the message of the ChromaccError that a query ends in."""
    with pytest.raises(ChromaccError) as caught:
        ask(portal, query, **options)
    return str(caught.value)


def chosen(resolution):
    return list(resolution.manifest["accession"])


# --- what comes out -----------------------------------------------------------------------------------------


def test_the_manifest_has_the_columns_of_the_contract_and_every_field():
    portal = LocalPortal([atac(), histone("ENCSR000ZZB", [make_file("ENCFF000ZBA", FOLD, file_size=77)])])
    resolution, _ = ask(portal, EncodeQuery(("K562", ), ("H3K27ac", )))
    manifest = resolution.manifest
    assert tuple(manifest.columns) == ENCODE_COLUMNS and ENCODE_COLUMNS[:len(COLUMNS)] == COLUMNS
    assert tuple(resolution.choices.columns) == CHOICE_COLUMNS
    assert list(manifest["kind"]) == ["accessibility_signal", "accessibility_peaks", "histone"]
    assert manifest.iloc[2].to_dict() == {
        "cell_type": "K562", "assay": "Histone ChIP-seq", "target": "H3K27ac", "kind": "histone",
        "path_or_url": f"{portal.url}/files/ENCFF000ZBA/@@download/ENCFF000ZBA.bigWig",
        "md5": "7affbe98b325949b4764609065f61997", "accession": "ENCFF000ZBA", "biosample": "K562",
        "donor": "ENCDO000ZZA", "assembly": "GRCh38", "output_type": FOLD, "lineage": "blood", "bytes": 77,
        "experiment": "ENCSR000ZZB"}
    assert manifest["path_or_url"][1].endswith("ENCFF000ZTB.bed.gz")
    assert manifest["target"][1] == "accessibility"
    assert resolution.missing.empty


def test_one_file_alone_and_one_experiment_alone():
    resolution, reasons = ask(LocalPortal([histone("ENCSR000ZZB", [make_file("ENCFF000ZBA", FOLD)])]))
    assert chosen(resolution) == ["ENCFF000ZBA"]
    assert reasons == {"ENCSR000ZZB": "the only one that can be used",
                       "ENCFF000ZBA": "the only one that can be used"}
    assert list(resolution.choices["chosen"]) == [True, True]


def test_expression_takes_gene_quantifications():
    files = [make_file("ENCFF000ZEA", "gene quantifications", (1, ), form="tsv"),
             make_file("ENCFF000ZEB", "transcript quantifications", (1, ), form="tsv")]
    portal = LocalPortal([make_experiment("ENCSR000ZZE", "total RNA-seq", files)])
    resolution, reasons = ask(portal, EncodeQuery(("K562", ), accessibility=(), expression=True))
    assert chosen(resolution) == ["ENCFF000ZEA"] and resolution.manifest["kind"][0] == "expression"
    assert resolution.manifest["target"][0] == "expression"
    assert reasons["ENCFF000ZEB"] == "output type transcript quantifications, not gene quantifications"


def test_polya_rna_is_preferred_to_total():
    experiments = [make_experiment(f"ENCSR000ZE{i}", assay, [make_file(f"ENCFF000ZE{i}", "gene quantifications",
                                                                       form="tsv")])
                   for i, assay in (("A", "total RNA-seq"), ("B", "polyA plus RNA-seq"))]
    query = EncodeQuery(("K562", ), accessibility=(), expression=True)
    resolution, reasons = ask(LocalPortal(experiments), query)
    assert chosen(resolution) == ["ENCFF000ZEB"]
    assert reasons["ENCSR000ZEA"] == "total RNA-seq; polyA plus RNA-seq is preferred"


def test_a_resolution_is_the_same_whatever_the_order_of_the_answers():
    experiments = [histone(f"ENCSR000ZZ{x}", [make_file(f"ENCFF000ZZ{x}", FOLD)]) for x in "DBCA"]
    first, reasons = ask(LocalPortal(experiments))
    again, _ = ask(LocalPortal(experiments[::-1]))
    assert chosen(first) == chosen(again) == ["ENCFF000ZZA"]
    assert reasons["ENCSR000ZZB"] == "equal to ENCSR000ZZA; the lower accession is taken"
    pd.testing.assert_frame_equal(first.choices, again.choices)


# --- files --------------------------------------------------------------------------------------------------
GOOD = make_file("ENCFF000ZAA", FOLD)


@pytest.mark.parametrize("other, reason", [
    (make_file("ENCFF000ZBB", FOLD, status="archived", superseded_by=["/files/ENCFF000ZAA/"]),
     "archived, superseded by ENCFF000ZAA"),
    (make_file("ENCFF000ZBB", FOLD, superseded_by=[{"@id": "/files/ENCFF000ZAA/"}]),
     "released, superseded by ENCFF000ZAA"),
    (make_file("ENCFF000ZBB", FOLD, status="archived"), "archived"),
    (make_file("ENCFF000ZBB", FOLD, status="revoked"), "revoked"),
    (make_file("ENCFF000ZBB", FOLD, status="replaced"), "replaced"),
    (make_file("ENCFF000ZBB", FOLD, assembly="hg19"), "assembly hg19, not GRCh38"),
    (make_file("ENCFF000ZBB", "signal p-value"), f"output type signal p-value, not {FOLD}"),
    (make_file("ENCFF000ZBB", FOLD, no_file_available=True), "no file is available"),
    (make_file("ENCFF000ZBB", FOLD, restricted=True), "access is restricted"),
    (make_file("ENCFF000ZBB", FOLD, md5sum=""), "the portal gives no md5"),
    (make_file("ENCFF000ZBB", FOLD, file_size=0), "the portal gives no size"),
    (make_file("ENCFF000ZBB", FOLD, href="https://evil.example/ENCFF000ZBB.bigWig"),
     "no download address on the portal or in its public cloud bucket"),
    (make_file("ENCFF000ZBB", FOLD, href="//evil.example/ENCFF000ZBB.bigWig"),
     "no download address on the portal or in its public cloud bucket"),
    (make_file("ENCFF000ZBB", FOLD, href="file:///etc/passwd"),
     "no download address on the portal or in its public cloud bucket"),
    (make_file("ENCFF000ZBB", FOLD, (1, )), "of replicate(s) 1 alone; ENCFF000ZAA pools 1, 2"),
    (make_file("ENCFF000ZBB", FOLD, created="2017-01-05"), "an older record than ENCFF000ZAA"),
    (make_file("ENCFF000ZBB", FOLD), "equal to ENCFF000ZAA; the lower accession is taken"),
])
def test_why_another_file_is_not_taken(other, reason):
    resolution, reasons = ask(LocalPortal([histone("ENCSR000ZZA", [other, GOOD])]))
    assert chosen(resolution) == ["ENCFF000ZAA"] and reasons["ENCFF000ZBB"] == reason


def test_the_chosen_of_several_files_says_so():
    _, reasons = ask(LocalPortal([histone("ENCSR000ZZA", [make_file("ENCFF000ZBB", FOLD, (1, )), GOOD])]))
    assert reasons["ENCFF000ZAA"] == "the first of 2 by the rules"


def test_the_preferred_default_goes_before_everything_else():
    files = [make_file("ENCFF000ZAA", FOLD, created="2024-01-01"),
             make_file("ENCFF000ZAB", FOLD, (1, ), preferred_default=True)]
    resolution, reasons = ask(LocalPortal([histone("ENCSR000ZZA", files)]))
    assert chosen(resolution) == ["ENCFF000ZAB"]
    assert reasons["ENCFF000ZAA"] == "ENCFF000ZAB is the portal's preferred default"


@pytest.mark.parametrize("newer", [False, True], ids=["analysis_objects", "analyses"])
def test_the_newest_analysis_is_that_with_the_newest_files(newer):
    """The portal opened the record of the 2017 analysis last; its files are older all the same."""
    files = [make_file("ENCFF000ZAA", FOLD, created="2017-01-05"), make_file("ENCFF000ZAB", FOLD, (1, )),
             make_file("ENCFF000ZAC", "signal p-value", (1, ))]
    analyses = [make_analysis("ENCAN000ZZA", ["ENCFF000ZAA"], created="2020-10-14"),
                make_analysis("ENCAN000ZZB", ["ENCFF000ZAB", "ENCFF000ZAC"], created="2020-09-30")]
    record = histone("ENCSR000ZZA", files, **{"analyses" if newer else "analysis_objects": analyses})
    resolution, reasons = ask(LocalPortal([record]))
    assert chosen(resolution) == ["ENCFF000ZAB"]
    assert reasons["ENCFF000ZAA"] == ("of an older analysis (ENCAN000ZZA, 2017-01-05) than ENCFF000ZAB "
                                      "(ENCAN000ZZB, 2020-09-30)")


@pytest.mark.parametrize("name", ["/analyses/ENCAN000ZZB/", {"@id": "/analyses/ENCAN000ZZB/"}],
                         ids=["@id", "object"])
def test_a_file_may_name_its_own_analyses(name):
    files = [make_file("ENCFF000ZAA", FOLD), make_file("ENCFF000ZAB", FOLD, (1, ), analyses=[name])]
    resolution, reasons = ask(LocalPortal([histone("ENCSR000ZZA", files)]))
    assert chosen(resolution) == ["ENCFF000ZAB"]
    assert reasons["ENCFF000ZAA"] == ("of an older analysis (none, unknown date) than ENCFF000ZAB "
                                      "(ENCAN000ZZB, 2020-09-30)")


def test_peaks_are_narrowpeak_and_idr_goes_before_pseudo_replicated():
    files = [GOOD, make_file("ENCFF000ZAB", PSEUDO, form=NARROW), make_file("ENCFF000ZAC", IDR, form=NARROW),
             make_file("ENCFF000ZAD", IDR, form="bigBed narrowPeak"),
             make_file("ENCFF000ZAE", "IDR ranked peaks", form="bed idr_ranked_peak"),
             make_file("ENCFF000ZAF", "replicated peaks", form=NARROW)]
    portal = LocalPortal([make_experiment("ENCSR000ZZA", "ATAC-seq", files)])
    resolution, reasons = ask(portal, EncodeQuery(("K562", )))
    assert chosen(resolution) == ["ENCFF000ZAA", "ENCFF000ZAC"]
    assert reasons["ENCFF000ZAB"] == f"{PSEUDO}; {IDR} are preferred"
    assert reasons["ENCFF000ZAD"] == "bigBed; the bed file of the same peaks is read"
    assert reasons["ENCFF000ZAE"] == "format bed idr_ranked_peak, not bed narrowPeak"
    assert reasons["ENCFF000ZAF"].startswith("output type replicated peaks, not IDR thresholded peaks or ")


def test_peaks_follow_the_replicate_and_the_alignments_of_the_signal():
    files = [make_file("ENCFF000ZAA", "read-depth normalized signal", (2, ),
                       derived_from=["/files/ENCFF000ZZB/"]),
             make_file("ENCFF000ZAB", "peaks", (1, ), "2023-01-01", form=NARROW),
             make_file("ENCFF000ZAC", "peaks", (2, ), form=NARROW, derived_from=["/files/ENCFF000ZZB/"]),
             make_file("ENCFF000ZAD", "peaks", (2, ), "2022-01-01", form=NARROW)]
    portal = LocalPortal([make_experiment("ENCSR000ZZA", "DNase-seq", files)])
    resolution, reasons = ask(portal, EncodeQuery(("K562", )))
    assert chosen(resolution) == ["ENCFF000ZAA", "ENCFF000ZAC"]
    assert reasons["ENCFF000ZAB"] == "of replicate(s) 1; the signal ENCFF000ZAA is of 2"
    assert reasons["ENCFF000ZAD"] == "shares fewer alignments with the signal ENCFF000ZAA"


def test_the_public_cloud_address_serves_where_the_portal_gives_no_href():
    cloud = "https://encode-public.s3.amazonaws.com/2020/09/30/x/ENCFF000ZAA.bigWig"
    file = make_file("ENCFF000ZAA", FOLD, href=None, cloud_metadata={"url": cloud})
    resolution, _ = ask(LocalPortal([histone("ENCSR000ZZA", [file])]))
    assert resolution.manifest["path_or_url"][0] == cloud


@pytest.mark.parametrize("cloud", ["https://encode-private.s3.amazonaws.com/x.bigWig",
                                   "http://encode-public.s3.amazonaws.com/x.bigWig",
                                   "https://encode-public.s3.amazonaws.com@evil.example/x.bigWig"])
def test_other_cloud_addresses_do_not(cloud):
    file = make_file("ENCFF000ZAA", FOLD, href=None, cloud_metadata={"url": cloud})
    resolution, reasons = ask(LocalPortal([histone("ENCSR000ZZA", [file])]))
    assert resolution.manifest.empty and reasons["ENCFF000ZAA"].startswith("no download address")


# --- experiments --------------------------------------------------------------------------------------------
BEST = histone("ENCSR000ZZA", [make_file("ENCFF000ZAA", FOLD)])
OTHER = [make_file("ENCFF000ZBA", FOLD)]
MODIFIED = {"library": {"biosample": {"applied_modifications": ["/genetic-modifications/ENCGM000ZZA/"]}}}
TREATED = {"library": {"biosample": {"treatments": ["/treatments/x/"]}}}


@pytest.mark.parametrize("changes, reason", [
    ({"audit": make_audit("ERROR", "extremely low read depth", "extremely low read depth")},
     "red audit: extremely low read depth"),
    ({"status": "archived"}, "its status is archived, not released"),
    ({"superseded_by": ["/experiments/ENCSR000ZZA/"]}, "superseded by ENCSR000ZZA"),
    ({"perturbed": True}, "perturbed or treated cells (K562)"),
    ({"replicates": [TREATED]}, "perturbed or treated cells (K562)"),
    ({"biosample_summary": "K562 treated with 100 nM dexamethasone for 1 hour"},
     "perturbed or treated cells (K562 treated with 100 nM dexamethasone for 1 hour)"),
    ({"replicates": [MODIFIED]}, "genetically modified cells (K562)"),
    ({"biosample_summary": "K562 genetically modified using CRISPR"},
     "genetically modified cells (K562 genetically modified using CRISPR)"),
    ({"biosample_summary": "K562 G1 phase"}, "a variant of the cell type (K562 G1 phase)"),
    ({"audit": make_audit("NOT_COMPLIANT", "insufficient read depth")},
     "orange audit: insufficient read depth; ENCSR000ZZA has none"),
    ({"created": "2011-01-01"}, "an older record than ENCSR000ZZA"),
    ({}, "equal to ENCSR000ZZA; the lower accession is taken"),
])
def test_why_another_experiment_is_not_taken(changes, reason):
    resolution, reasons = ask(LocalPortal([BEST, histone("ENCSR000ZZB", OTHER, **changes)]))
    assert chosen(resolution) == ["ENCFF000ZAA"] and reasons["ENCSR000ZZB"] == reason
    assert list(resolution.manifest["experiment"]) == ["ENCSR000ZZA"]


def test_a_newer_analysis_wins_among_experiments():
    old = histone("ENCSR000ZZA", [make_file("ENCFF000ZAA", FOLD)],
                  analysis_objects=[make_analysis("ENCAN000ZZA", ["ENCFF000ZAA"])])
    new = histone("ENCSR000ZZB", [make_file("ENCFF000ZBA", FOLD, created="2022-05-01")],
                  analyses=[make_analysis("ENCAN000ZZB", ["ENCFF000ZBA"])])
    resolution, reasons = ask(LocalPortal([old, new]))
    assert chosen(resolution) == ["ENCFF000ZBA"]
    assert reasons["ENCSR000ZZA"] == ("its newest analysis is of 2020-09-30, that of ENCSR000ZZB of 2022-05-01")
    assert reasons["ENCSR000ZZB"] == "the first of 2 by the rules"


def test_a_treated_experiment_is_not_even_fetched():
    portal = LocalPortal([BEST, histone("ENCSR000ZZB", OTHER, biosample_summary="K562 treated with ethanol")])
    ask(portal)
    assert [path for path, _ in portal.asked if "ENCSR" in path] == ["/experiments/ENCSR000ZZA/"]


def test_a_red_audit_can_be_accepted_and_is_said():
    audit = make_audit("ERROR", "extremely low read depth", "missing control")
    record = histone("ENCSR000ZZA", OTHER, audit=audit)
    query = EncodeQuery(("K562", ), ("H3K27ac", ), accessibility=(),
                        accepted_audits=("extremely low read depth", ))
    _, reasons = ask(LocalPortal([record]), query)
    assert reasons["ENCSR000ZZA"] == "red audit: missing control"
    query = EncodeQuery(("K562", ), ("H3K27ac", ), accessibility=(),
                        accepted_audits=("extremely low read depth", "missing control"))
    resolution, reasons = ask(LocalPortal([record]), query)
    assert chosen(resolution) == ["ENCFF000ZBA"]
    assert reasons["ENCSR000ZZA"] == ("the only one that can be used; red audit accepted: extremely low read "
                                      "depth, missing control")


def test_an_experiment_without_a_usable_file_is_rejected_and_its_files_explained():
    record = histone("ENCSR000ZZA", [make_file("ENCFF000ZAA", FOLD, status="archived",
                                               superseded_by=["/files/ENCFF000ZAB/"])])
    resolution, reasons = ask(LocalPortal([record]))
    assert reasons["ENCSR000ZZA"] == "no file of histone can be used"
    assert reasons["ENCFF000ZAA"] == "archived, superseded by ENCFF000ZAB"
    assert reasons["assay"] == ("none of the 1 released experiment(s) can be used: Histone ChIP-seq of H3K27ac "
                                "in K562, GRCh38")
    assert resolution.manifest.empty


def test_accessibility_needs_signal_and_peaks_and_falls_back_to_the_other_assay():
    dnase = make_experiment("ENCSR000ZZB", "DNase-seq", [
        make_file("ENCFF000ZBA", "read-depth normalized signal", (1, )),
        make_file("ENCFF000ZBB", "peaks", (1, ), form=NARROW)])
    lame = atac()
    lame["files"] = lame["files"][:1]
    resolution, reasons = ask(LocalPortal([lame, dnase]), EncodeQuery(("K562", )))
    assert reasons["ENCSR000ZZT"] == "no file of accessibility peaks can be used"
    assert list(resolution.manifest["assay"]) == ["DNase-seq", "DNase-seq"]
    resolution, reasons = ask(LocalPortal([atac(), dnase]), EncodeQuery(("K562", )))
    assert reasons["ENCSR000ZZB"] == "DNase-seq; ATAC-seq is preferred"
    resolution, reasons = ask(LocalPortal([atac(), dnase]),
                              EncodeQuery(("K562", ), accessibility=("DNase-seq", "ATAC-seq")))
    assert reasons["ENCSR000ZZT"] == "ATAC-seq; DNase-seq is preferred"


def test_an_experiment_that_is_gone_or_replaced_is_rejected():
    portal = LocalPortal([BEST, histone("ENCSR000ZZB", OTHER), histone("ENCSR000ZZC", OTHER)])
    portal.gone.add("ENCSR000ZZB")
    portal.hits = list(portal.experiments.values())
    portal.experiments["ENCSR000ZZC"] = BEST  # as after a merger: the portal answers with the successor
    resolution, reasons = ask(portal)
    assert reasons["ENCSR000ZZB"] == "the search names it, but the portal does not have it (HTTP 404)"
    assert reasons["ENCSR000ZZC"] == "replaced by ENCSR000ZZA" and chosen(resolution) == ["ENCFF000ZAA"]


# --- what is missing ----------------------------------------------------------------------------------------


def test_a_missing_assay_is_a_row_of_choices_and_no_error():
    query = EncodeQuery(("K562", ), ("H3K27ac", "H3K4me3"), ("CTCF", ))
    resolution, _ = ask(LocalPortal([atac(), BEST]), query)
    assert chosen(resolution) == ["ENCFF000ZTA", "ENCFF000ZTB", "ENCFF000ZAA"]
    missing = resolution.missing
    assert list(missing["thing"]) == ["assay", "assay"] and not missing["chosen"].any()
    assert list(missing["target"]) == ["H3K4me3", "CTCF"]
    assert list(missing["reason"]) == [
        "no released experiment: Histone ChIP-seq of H3K4me3 in K562, GRCh38",
        "no released experiment: TF ChIP-seq of CTCF in K562, GRCh38"]


def test_a_cell_type_without_input_or_accessibility_is_listed():
    experiments = [atac(), histone("ENCSR000ZZB", OTHER, cell_type="HepG2")]
    resolution, _ = ask(LocalPortal(experiments), EncodeQuery(("K562", "HepG2"), ("H3K27ac", )))
    lacks = resolution.missing[resolution.missing["thing"] == "cell type"]
    assert list(zip(lacks["cell_type"], lacks["reason"])) == [
        ("K562", "no input track (histone, tf or expression): leave it out"),
        ("HepG2", "no accessibility: it can be predicted, but not trained or evaluated on")]


def test_a_known_cell_type_with_nothing_at_all_is_listed():
    query = EncodeQuery(("K562", "GM12878"), ("H3K27ac", ), accessibility=())
    resolution, reasons = ask(LocalPortal([BEST]), query)
    assert set(resolution.manifest["cell_type"]) == {"K562"}
    assert reasons["assay"] == "no released experiment: Histone ChIP-seq of H3K27ac in GM12878, GRCh38"
    assert reasons["cell type"] == "no input track (histone, tf or expression): leave it out"


@pytest.mark.parametrize("name, suggestion", [
    ("k-562", "did you mean K562?"),
    ("CD4", "did you mean CD4-positive, alpha-beta T cell or activated CD4-positive T cell?"),
    ("GM12879", "did you mean GM12878?"),
    ("???", "nothing like it; search for it at the portal"),
])
def test_an_unknown_cell_type_is_an_error_with_the_nearest_names(name, suggestion):
    terms = ("K562", "GM12878", "CD4-positive, alpha-beta T cell", "activated CD4-positive T cell")
    message = refused(LocalPortal([BEST], terms=terms), EncodeQuery(("K562", name), ("H3K27ac", )))
    assert "knows no such cell type" in message and message.endswith(f"\n  {name}: {suggestion}")


@pytest.mark.parametrize("marks, tfs, problem", [
    (("H3K27AC", ), (), "H3K27AC: did you mean H3K27ac?"),
    (("H3K27ac", "H3K27"), (), "H3K27: did you mean H3K27ac?"),
    (("H3K27ac", ), ("p300", ), "p300: did you mean EP300?"),
    (("H3K27ac", ), ("???", ), "???: nothing like it; search for it at the portal"),
])
def test_an_unknown_mark_or_tf_is_an_error_with_the_nearest_names(marks, tfs, problem):
    message = refused(LocalPortal([BEST]), EncodeQuery(("K562", "HepG2"), marks, tfs))
    assert "knows no such mark or TF" in message and message.endswith(f"\n  {problem}")
    assert "cell type" not in message


def test_all_unknown_names_are_listed_at_once():
    message = refused(LocalPortal([BEST]), EncodeQuery(("k562", ), ("H3K27AC", ), ("GATA-1", )))
    for problem in ("k562: did you mean K562?", "H3K27AC: did you mean H3K27ac?", "GATA-1: did you mean GATA1?"):
        assert f"\n  {problem}" in message


def test_a_mark_that_only_another_cell_type_has_is_missing_and_no_error():
    query = EncodeQuery(("K562", "HepG2"), ("H3K27ac", "H3K4me3"), accessibility=())
    portal = LocalPortal([BEST, make_experiment("ENCSR000ZZC", "Histone ChIP-seq", [], "H3K4me3", "GM12878")])
    resolution, _ = ask(portal, query)
    assert chosen(resolution) == ["ENCFF000ZAA"]
    assert list(resolution.missing["target"]) == ["H3K4me3", "H3K27ac", "H3K4me3", ""]
    assert set(resolution.missing["reason"]) >= {
        f"no released experiment: Histone ChIP-seq of H3K4me3 in {name}, GRCh38" for name in ("K562", "HepG2")}


@pytest.mark.parametrize("listing, what", [("terms", "cell type"), ("targets", "mark or TF")])
def test_a_portal_that_lists_no_names_is_an_error(listing, what):
    assert f"lists no {what} for GRCh38" in refused(LocalPortal(**{listing: ()}))


@pytest.mark.parametrize("changes, message", [
    ({"cell_types": ()}, "names no cell type"),
    ({"cell_types": "K562"}, "needed a tuple of names"),
    ({"cell_types": ("K562", " ")}, "none of them empty"),
    ({"tfs": ("CTCF", "CTCF")}, "tfs: a name stands twice in CTCF, CTCF; give each once"),
    ({"accessibility": ("FAIRE-seq", )},
     "unknown accessibility assay FAIRE-seq; there are: ATAC-seq, DNase-seq"),
    ({"accessibility": ()}, "the query asks for no track"),
])
def test_a_query_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ChromaccError, match=re.escape(message)):
        EncodeQuery(**({"cell_types": ("K562", )} | changes))


def test_a_query_is_frozen():
    with pytest.raises(FrozenInstanceError):
        MARK.assembly = "hg19"


# --- the wire -----------------------------------------------------------------------------------------------


def many(count):
    return [histone(f"ENCSR{i:03d}ZZZ", [make_file(f"ENCFF{i:03d}ZZZ", FOLD)]) for i in range(count)]


def test_a_search_is_read_to_its_last_page():
    portal = LocalPortal(many(7))
    resolution, reasons = ask(portal, page_size=3)
    searches = [params for path, params in portal.asked if path == "/search/"]
    assert [params["from"][0] for params in searches] == ["0", "3", "6"]
    assert len([name for name in reasons if name.startswith("ENCSR")]) == 7
    assert chosen(resolution) == ["ENCFF000ZZZ"]


def test_the_search_asks_for_what_the_query_says():
    portal = LocalPortal([BEST])
    ask(portal, EncodeQuery(("K562", ), ("H3K27ac", ), accessibility=()))
    assert portal.asked[0] == ("/search/", {
        "type": ["Experiment"], "status": ["released"], "assembly": ["GRCh38"], "limit": ["100"], "from": ["0"],
        "biosample_ontology.term_name": ["K562"], "assay_title": ["Histone ChIP-seq"],
        "target.label": ["H3K27ac"], "format": ["json"]})


def test_names_are_escaped():
    name = "T & B=cell?type=File#é"
    portal = LocalPortal([histone("ENCSR000ZZA", [GOOD], cell_type=name)])
    resolution, _ = ask(portal, EncodeQuery((name, ), ("H3K27ac", ), accessibility=()))
    assert chosen(resolution) == ["ENCFF000ZAA"]
    assert portal.asked[0][1]["biosample_ontology.term_name"] == [name]


@pytest.mark.parametrize("page_size", [3, 100])
def test_a_short_answer_is_refused(page_size):
    portal = LocalPortal(many(7))
    portal.lost = 2
    message = refused(portal, page_size=page_size)
    assert "the portal counts 7 experiment(s), but 5 came; needed all of them" in message


def test_an_empty_search_is_no_error():
    resolution, reasons = ask(LocalPortal())
    assert resolution.manifest.empty and list(resolution.manifest.columns) == list(ENCODE_COLUMNS)
    assert reasons["assay"] == "no released experiment: Histone ChIP-seq of H3K27ac in K562, GRCh38"


def test_a_404_that_is_no_search_is_an_error():
    portal = LocalPortal([BEST])
    portal.script = [(404, {}, '{"title": "Not Found"}')]
    assert "got no @graph or no total (HTTP 404)" in refused(portal)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_fault_is_tried_again_after_what_retry_after_says(status):
    portal, waited = LocalPortal([BEST]), []
    portal.script = [(status, {"Retry-After": "7"}, "busy"), (status, {}, "busy"),
                     (status, {"Retry-After": "100000"}, "busy")]
    with serve(portal):
        resolution = resolve(MARK, portal.url, pause=waited.append)
    assert chosen(resolution) == ["ENCFF000ZAA"] and waited == [7.0, 2.0, 60.0]


def test_retry_after_may_be_a_date():
    portal, waited = LocalPortal([BEST]), []
    portal.script = [(503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, "busy")]
    with serve(portal):
        resolve(MARK, portal.url, pause=waited.append)
    assert waited == [0.0]


def test_a_lasting_fault_is_an_error_after_a_bounded_number_of_tries():
    portal = LocalPortal([BEST])
    portal.script = [(503, {}, "busy")] * 10
    message = refused(portal, attempts=3)
    assert "/search/: got HTTP 503, 3 time(s) in a row" in message and "try again later" in message
    assert len(portal.asked) == 3


def test_nobody_there_is_an_error():
    with serve(LocalPortal()) as portal:
        url = portal.url
    with pytest.raises(ChromaccError, match=r"got no answer \(ConnectionError\), 2 time\(s\) in a row"):
        resolve(MARK, url, attempts=2, pause=lambda seconds: None)


@pytest.mark.parametrize("answer, message", [
    ((200, {}, "<html>login</html>"), "the answer is not JSON; it starts with '<html>login</html>'"),
    ((200, {}, "[1, 2]"), "got a JSON list; needed an object"),
    ((403, {}, "{}"), "got HTTP 403; needed 200"),
    ((200, {}, '{"@graph": []}'), "got no @graph or no total (HTTP 200)"),
    ((200, {}, '{"@graph": [{"@id": "/x/"}], "total": 1}'), "the portal's record /x/ has no accession"),
    ((200, {}, '{"@graph": [{"accession": "../../x"}], "total": 1}'), "a search gave the accession '../../x'"),
])
def test_an_answer_that_is_none_is_an_error(answer, message):
    portal = LocalPortal([BEST])
    portal.script = [answer]
    assert message in refused(portal)
    assert len(portal.asked) == 1, "such an answer is not asked for again"


def test_a_redirect_to_another_host_is_refused():
    with serve(LocalPortal([BEST])) as other:
        portal = LocalPortal([BEST])
        portal.script = [(302, {"Location": other.url + "/search/?limit=1"}, "")]
        assert "sent us to" in refused(portal)


def test_an_experiment_without_embedded_files_is_an_error():
    portal = LocalPortal([BEST | {"files": ["/files/ENCFF000ZAA/"]}])
    assert "ENCSR000ZZA: the answer has no embedded files" in refused(portal)


@pytest.mark.parametrize("url", ["ftp://www.encodeproject.org", "www.encodeproject.org", "file:///etc/passwd",
                                 "https://me@host", "https://host/?x=1"])
def test_a_portal_has_a_web_address(url):
    with pytest.raises(ChromaccError, match="needed http"):
        open_portal(url, 1, lambda seconds: None)


# --- written, and looked at again ---------------------------------------------------------------------------


def test_what_is_written_is_what_was_resolved(tmp_path):
    resolution, _ = ask(LocalPortal([atac(), BEST]), EncodeQuery(("K562", ), ("H3K27ac", )))
    tracks, choices = write_resolution(resolution, tmp_path / "new" / "k562")
    assert sorted(path.name for path in tracks.parent.iterdir()) == ["choices.tsv", "tracks.tsv"]
    again = pd.read_csv(tracks, sep="\t", dtype=str).astype({"bytes": "int64"})
    pd.testing.assert_frame_equal(again, resolution.manifest, check_dtype=False)
    assert len(pd.read_csv(choices, sep="\t")) == len(resolution.choices)


def test_the_files_of_a_manifest_are_reviewed():
    good = make_file("ENCFF000ZAA", FOLD)
    old = make_file("ENCFF000ZAB", FOLD, status="archived", superseded_by=["/files/ENCFF000ZAA/"])
    portal = LocalPortal(files=[good, old, make_file("ENCFF000ZAC", FOLD, status="revoked")])
    portal.files["ENCFF000ZAD"] = good  # merged into its successor
    names = [f"ENCFF000ZA{x}" for x in "ABCDE"]
    with serve(portal):
        review = review_accessions(names, portal.url, pause=lambda seconds: None).set_index("accession")
    assert list(review["current"]) == [True, False, False, False, False]
    assert list(review["successor"]) == ["", "ENCFF000ZAA", "", "ENCFF000ZAA", ""]
    assert list(review["reason"]) == ["released", "archived, its successor is ENCFF000ZAA", "revoked",
                                      "replaced, its successor is ENCFF000ZAA", "the portal does not have it"]
    with pytest.raises(ChromaccError, match="needed a file of ENCODE"):
        review_accessions(["../x"], portal.url)


def review_at(portal, path):
    with serve(portal):
        return cli.main(["review", str(path), "--portal", portal.url])


def test_the_review_command_names_what_is_no_longer_current(tmp_path, capsys):
    good = make_file("ENCFF000ZAA", FOLD)
    old = make_file("ENCFF000ZAB", FOLD, status="archived", superseded_by=["/files/ENCFF000ZAA/"])
    header = "cell_type\ttarget\tkind\tpath_or_url\tassembly\taccession"
    rows = [f"A\tCTCF\ttf\t{name}.bigWig\tGRCh38\t{name}" for name in ("ENCFF000ZAA", "ENCFF000ZAB")]
    path = tmp_path / "tracks.tsv"
    path.write_text("\n".join([header, *rows, "A\tMAX\ttf\tmine.bigWig\tGRCh38\tGSM1"]) + "\n")
    portal = LocalPortal(files=[good, old])
    assert review_at(portal, path) == 1
    said = capsys.readouterr()
    assert said.err == f"{path}, line 3: ENCFF000ZAB: archived, its successor is ENCFF000ZAA\n"
    assert "1 of 2 ENCODE file(s) are current; 1 row(s) without an accession of ENCODE were not looked at" in said.out
    assert [asked for asked, _ in portal.asked] == ["/files/ENCFF000ZAA/", "/files/ENCFF000ZAB/"]
    path.write_text("\n".join([header, rows[0]]) + "\n")
    assert review_at(portal, path) == 0 and capsys.readouterr().err == ""
    path.write_text("\n".join([header, rows[0].replace("ENCFF", "other")]) + "\n")
    assert review_at(portal, path) == 1 and "none of 1 row(s) has an accession of ENCODE" in capsys.readouterr().err


def test_the_command_writes_and_says_what_is_kept_and_missing(tmp_path, capsys):
    portal = LocalPortal([atac(), BEST])
    with serve(portal):
        status = cli.main(["encode", "--cell-types", "K562", "--histone-marks", "H3K27ac", "--tfs", "CTCF",
                           "--portal", portal.url, "--out", str(tmp_path / "k562")])
    out = capsys.readouterr().out
    assert status == 0 and (tmp_path / "k562" / "tracks.tsv").is_file()
    assert "experiments: kept 2 of 2" in out and "files: kept 3 of 5" in out
    assert "missing: K562 CTCF: no released experiment: TF ChIP-seq of CTCF in K562, GRCh38" in out
    assert f"{tmp_path / 'k562' / 'tracks.tsv'}: 3 file(s), 3,000 bytes" in out


def test_the_command_ends_with_a_message_for_an_unknown_cell_type(tmp_path, capsys):
    with serve(LocalPortal([BEST])) as portal:
        assert cli.main(["encode", "--cell-types", "k562", "--histone-marks", "H3K27ac", "--accessibility",
                         "--portal", portal.url, "--out", str(tmp_path)]) == 1
    assert "k562: did you mean K562?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- recorded answers of the portal -------------------------------------------------------------------------


def recorded_portal(folder):
    return LocalPortal([read_recorded(path) for path in sorted(folder.glob("experiment_*.json.gz"))])


def test_recorded_k562(recorded):
    query = EncodeQuery(("K562", ), ("H3K27ac", ), ("CTCF", "GATA1"))
    resolution, reasons = ask(recorded_portal(recorded), query)
    assert chosen(resolution) == ["ENCFF831OKQ", "ENCFF188BOG", "ENCFF979PWH", "ENCFF932GTA"]
    assert reasons["ENCSR000EOT"] == reasons["ENCSR000AKP"] == "red audit: extremely low read depth"
    assert reasons["ENCFF148LCV"] == "ENCFF188BOG is the portal's preferred default"
    assert reasons["ENCFF954ZMC"] == "of replicate(s) 2 alone; ENCFF831OKQ pools 1, 2"
    assert reasons["ENCFF405AYC"] == ("of an older analysis (ENCAN047LTH, 2016-11-07) than ENCFF979PWH "
                                      "(ENCAN082OTH, 2020-09-26)")
    assert set(resolution.manifest["donor"]) == {"ENCDO000AAD"}
    assert set(resolution.manifest["lineage"]) == {"blood, bodily fluid"}
    assert list(resolution.missing["reason"]) == [
        "none of the 1 released experiment(s) can be used: Histone ChIP-seq of H3K27ac in K562, GRCh38"]


def test_recorded_red_audits_accepted(recorded):
    query = EncodeQuery(("K562", "GM12878"), ("H3K27ac", ), accessibility=(),
                        accepted_audits=("extremely low read depth", ))
    resolution, _ = ask(recorded_portal(recorded), query)
    assert chosen(resolution) == ["ENCFF849TDM", "ENCFF469WVA"]


def test_recorded_dnase_of_hepg2(recorded):
    """Two replicates, never pooled, two peak thresholds each, and three generations of archived files."""
    resolution, reasons = ask(recorded_portal(recorded), EncodeQuery(("HepG2", ), ("H3K27ac", ), ("CTCF", )))
    assert chosen(resolution) == ["ENCFF113VII", "ENCFF897NME"]
    assert reasons["ENCFF089DBO"] == "archived, superseded by ENCFF711IED"
    assert reasons["ENCFF903FUJ"] == "of replicate(s) 1; the signal ENCFF113VII is of 2"
    assert reasons["ENCFF422EDI"] == "an older record than ENCFF897NME"
    assert reasons["cell type"] == "no input track (histone, tf or expression): leave it out"


def test_a_recorded_search_is_paged(recorded):
    portal = LocalPortal()
    portal.hits = read_recorded(recorded / "search_721_experiments.json.gz")["@graph"]
    with serve(portal):
        client = open_portal(portal.url, 1, lambda seconds: None)
        assert len(client.search([("type", "Experiment")], 300)) == len(portal.hits) == 721
    assert [params["from"] for _, params in portal.asked] == [["0"], ["300"], ["600"]]
