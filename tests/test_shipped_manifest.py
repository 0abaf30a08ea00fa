"""The shipped manifest of ENCODE: consistent, what was recorded, and what the rules choose of it."""

import shlex
from collections import Counter
from itertools import combinations

import pandas as pd
import pytest
from portal_server import LocalPortal, make_experiment, make_file, read_recorded, serve

from chromacc_lib import cli, project_path
from chromacc_lib.encode import ENCODE_COLUMNS
from chromacc_lib.manifest import INPUT_KINDS, KINDS, UNKNOWN_LINEAGE, lineages_of
from chromacc_lib.parameters import read_profile


def shipped():
    table = pd.read_csv(project_path("data/manifests/encode.tsv"), sep="\t", dtype=str, keep_default_na=False)
    return table.astype({"bytes": "int64"})


def test_the_shipped_manifest_is_consistent():
    table = shipped()
    assert tuple(table.columns) == ENCODE_COLUMNS and set(table["kind"]) <= set(KINDS)
    assert table["md5"].str.fullmatch(r"[0-9a-f]{32}").all() and table["md5"].is_unique
    assert (table["bytes"] > 0).all() and set(table["assembly"]) == {"GRCh38"}
    assert table["accession"].str.fullmatch(r"ENCFF[0-9]{3}[A-Z]{3}").all() and table["accession"].is_unique
    assert table["experiment"].str.fullmatch(r"ENCSR[0-9]{3}[A-Z]{3}").all()
    assert not table.duplicated(["cell_type", "target", "kind"]).any()
    for row in table.itertuples():
        ending = "bed.gz" if row.kind == "accessibility_peaks" else "bigWig"
        assert row.path_or_url == (f"https://www.encodeproject.org/files/{row.accession}/@@download/"
                                   f"{row.accession}.{ending}")
    accessibility = table["kind"].str.startswith("accessibility")
    assert ((table["target"] == "accessibility") == accessibility).all()
    for _, rows in table[accessibility].groupby("cell_type"):
        assert rows["experiment"].nunique() == 1, "signal and peaks of one experiment"


def test_each_cell_type_of_the_shipped_manifest_has_one_lineage_and_one_donor():
    table = shipped()
    unknown = [name for name, lineage in lineages_of(table).items() if lineage == UNKNOWN_LINEAGE]
    assert unknown == ["A549", "H1", "HEK293"]
    assert (table.groupby("cell_type")[["donor", "lineage"]].nunique() == 1).all(axis=None)


TRAINABLE = ["K562", "GM12878", "HepG2", "A549", "MCF-7"]


def test_the_shipped_manifest_covers_seven_cell_types_of_which_five_can_be_trained_on():
    kinds = shipped().groupby("cell_type")["kind"].agg(set)
    assert set(kinds.index) == {*TRAINABLE, "H1", "HEK293"}
    needed = {"accessibility_signal", "accessibility_peaks", "histone", "tf"}
    assert all(needed <= found for found in kinds[TRAINABLE])
    assert all(found <= set(INPUT_KINDS) for found in kinds[["H1", "HEK293"]])


@pytest.mark.parametrize("name", ["encode-mini", "encode"])
def test_the_encode_profiles_name_what_the_manifest_has(name):
    settings = {key: one.value for key, one in read_profile(name, project_path("notebooks/profiles"))[1].items()}
    table = shipped()
    assert settings["manifest"] == "data/manifests/encode.tsv" and settings["cell_types"] == TRAINABLE
    held_out = settings["test_cell_types"] + settings["validation_cell_types"]
    kept = table[table["cell_type"].isin(TRAINABLE)]
    assert set(held_out) <= {*TRAINABLE, "none"}
    trained = kept[~kept["cell_type"].isin(held_out)]
    assert {"histone", "tf"} <= set(trained["kind"]) and trained["cell_type"].nunique() >= 3


def test_the_shipped_manifest_is_what_was_recorded(recorded):
    facts = pd.read_csv(recorded / "encode_files_from_recorded_api.tsv.gz", sep="\t", dtype=str)
    facts = facts.drop_duplicates("file_accession").set_index("file_accession")
    for row in shipped().itertuples():
        fact = facts.loc[row.accession]
        assert (row.md5, str(row.bytes), row.experiment) == (fact.md5sum, fact.file_size, fact.experiment)
        assert (row.assembly, row.output_type) == (fact.assembly, fact.output_type)
        assert row.cell_type == fact.biosample
        assert row.path_or_url.endswith(fact.href) and fact.status == "released"
        assert row.target in (fact.target, "accessibility")


def test_the_shipped_lineages_are_what_was_recorded(recorded):
    """By the resolver's rule from whole experiments; else from the counts that a search gives by organ."""
    found = {}
    for path in recorded.glob("experiment_*.json.gz"):
        ontology = read_recorded(path)["biosample_ontology"]
        found[ontology["term_name"]] = set(ontology["organ_slims"])
    search = read_recorded(recorded / "search_721_experiments.json.gz")
    hits = Counter(hit["biosample_ontology"]["term_name"] for hit in search["@graph"])
    (organs,) = [f["terms"] for f in search["facets"] if f["field"] == "biosample_ontology.organ_slims"]
    counted = {name: set() for name in hits}
    for organ in organs:  # an organ's count is that of the cell types that have it: only one sum of hits fits
        (members,) = [names for n in range(1, len(hits) + 1) for names in combinations(hits, n)
                      if sum(hits[name] for name in names) == organ["doc_count"]]
        for name in members:
            counted[name].add(organ["key"])
    assert set(counted) == {"K562", "HepG2", "GM12878", "MCF-7"} and all(counted[name] == found[name] for name in found)
    expected = {name: ", ".join(sorted(names)) for name, names in counted.items()}
    assert {k: v for k, v in lineages_of(shipped()).items() if v != UNKNOWN_LINEAGE} == expected


# --- what the rules choose ----------------------------------------------------------------------------------
def rebuilt_experiment(accession, facts):
    """Return an experiment's record from its rows of the table of files: nobody recorded its page.

    Files that were made on one day stand for one analysis. It has no audit, and a donor that is made up.
    """
    first = facts.iloc[0]
    files = [make_file(row.file_accession, row.output_type,
                       map(int, filter(None, row.biological_replicates.split(","))), row.date_created,
                       form=row.file_type, assembly=row.assembly, status=row.status, href=row.href, md5sum=row.md5sum,
                       file_size=int(row.file_size), preferred_default=row.preferred_default == "True")
             for row in facts.itertuples()]
    analyses = [{"@id": f"/analyses/ENCAN{number:03d}ZZZ/", "files": [f"/files/{name}/" for name in names]}
                for number, (_, names) in enumerate(facts.groupby("date_created")["file_accession"])]
    return make_experiment(accession, first.assay_title, files, first.target, first.biosample, analyses=analyses,
                           biosample_summary=first.biosample_summary)


def test_the_shipped_manifest_is_what_the_rules_choose_of_all_that_was_recorded(recorded, tmp_path):
    """The command of its README, asked of a portal with every recorded file; whole experiments where there are any."""
    text = project_path("data/manifests/README.md").read_text(encoding="utf-8")
    (block,) = [part for part in text.split("```") if part.strip().startswith("chromacc encode")]
    program, *arguments = shlex.split(block.replace("\\\n", " "))
    facts = pd.read_csv(recorded / "encode_files_from_recorded_api.tsv.gz", sep="\t", dtype=str, keep_default_na=False)
    facts = facts.drop_duplicates("file_accession")
    whole = [read_recorded(path) for path in recorded.glob("experiment_*.json.gz")]
    experiments = {name: rebuilt_experiment(name, rows) for name, rows in facts.groupby("experiment")}
    experiments |= {record["accession"]: record for record in whole}
    portal = LocalPortal(experiments.values(), terms=set(facts["biosample"]), targets=set(facts["target"]) - {""})
    with serve(portal):
        assert program == "chromacc" and arguments[-2:] == ["--out", "mine"]
        assert cli.main([*arguments[:-1], str(tmp_path), "--portal", portal.url]) == 0
    resolved = pd.read_csv(tmp_path / "tracks.tsv", sep="\t", dtype=str, keep_default_na=False)
    resolved["path_or_url"] = resolved["path_or_url"].str.replace(portal.url, "https://www.encodeproject.org")
    made_up = ["donor", "lineage"]
    pd.testing.assert_frame_equal(resolved.drop(columns=made_up), shipped().astype(str).drop(columns=made_up))
    choices = pd.read_csv(tmp_path / "choices.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert len(choices) > 10 * len(resolved), "there was much to choose from"
    text = (tmp_path / "choices.tsv").read_text(encoding="utf-8").replace(portal.url, "https://www.encodeproject.org")
    assert text == project_path("data/manifests/encode.choices.tsv").read_text(encoding="utf-8")


def test_the_readme_names_every_biosample_that_is_not_simply_its_cell_type():
    text = project_path("data/manifests/README.md").read_text(encoding="utf-8")
    table = shipped()
    others = table[table["biosample"] != table["cell_type"]]
    assert len(others) and all(f"{row.cell_type}'s {row.target}" in text for row in others.itertuples())
