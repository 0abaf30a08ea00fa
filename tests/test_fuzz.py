"""Fuzzing: parsers are given anything, and windows, intervals, splits and manifests whatever they may be given.

A parser takes a file as it is, or refuses it by one ChromaccError or a list of problems; any other exception is a crash.
Here each property has a small budget, the same at each run; `make fuzz` draws other examples, and many more. What
crashed stands as an @example.
"""

import gzip
import json
import math
import string
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from Bio import bgzf
from conftest import PARAMETERS, write_bigwig, write_fasta, write_manifest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from chromacc_lib import ChromaccError, windows
from chromacc_lib.bigwig import open_bigwig
from chromacc_lib.genes import read_gene_names
from chromacc_lib.genome import genome_sizes, open_genome
from chromacc_lib.intake import take_in
from chromacc_lib.intervals import resampling
from chromacc_lib.manifest import COLUMNS, KINDS, OPTIONAL_COLUMNS, read_expression, read_intervals, read_manifest
from chromacc_lib.parameters import _CHECKS, Parameter, check_settings, parse_overrides, read_profile
from chromacc_lib.problems import FileProblem
from chromacc_lib.signals import read_signal
from chromacc_lib.sweep import read_sweep

SIZES = {"chr1": 1_000, "chr2": 400}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder for the file of each example, which replaces that of the last."""
    return tmp_path_factory.mktemp("fuzz")


def written(place: Path, name: str, data: bytes) -> Path:
    """Write a file anew; another inode, so that nothing is known of it."""
    path = place / name
    for old in place.glob(f"{name}*"):
        old.unlink()
    path.write_bytes(data)
    return path


def is_told(problems: list) -> bool:
    """Tell whether every problem can be printed, and names its file."""
    return all(str(problem) and problem.file and (problem.remedy or not problem.needed) for problem in problems)


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """A file that was cut, or of which some bytes were changed, left out or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(("set", "set", "cut", "out", "in", "number")))
        if kind == "set" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at:]
        elif kind == "out":
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == "in":
            data[at:at] = draw(st.binary(min_size=1, max_size=12))
        elif kind == "number" and len(data) >= 8:
            at = min(at, len(data) - 8)
            data[at : at + 8] = struct.pack("<Q", draw(st.sampled_from((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))))
    return bytes(data)


def text_files(fields: list[str]) -> st.SearchStrategy[bytes]:
    """Files of lines made of likely and of unlikely fields, in any encoding that a program leaves behind."""
    field = st.one_of(st.sampled_from(fields), st.sampled_from(fields), st.integers(-(10**20), 10**20).map(str),
                      st.floats().map(str), st.text(max_size=4))  # fmt: skip
    line = st.one_of(st.lists(field, max_size=13).map("\t".join), st.lists(field, max_size=13).map(" ".join), st.text(max_size=20))
    ends = st.sampled_from(("\n", "\r\n", "\r"))
    whole = st.builds(lambda lines, end, last: (end.join(lines) + last).encode("utf-8", "surrogatepass"),
                      st.lists(line, max_size=6), ends, st.sampled_from(("", "\n")))  # fmt: skip
    encode = st.sampled_from((lambda data: data, lambda data: b"\xef\xbb\xbf" + data, gzip.compress,
                              lambda data: data.decode("utf-8", "replace").encode("utf-16")))  # fmt: skip
    return st.one_of(st.builds(lambda data, how: how(data), whole, encode), st.binary(max_size=60))


# --- BED, expression, gene names -----------------------------------------------------------------------------
BED_FIELDS = ["chr1", "chr2", "1", "chrUn", "0", "10", "20", "300", "400", "1000", "-5", "1e2", "nan", "inf", ".", "",
              "٣", "0x10", "1_0", "track", "browser", "#", "+"]  # fmt: skip


@example(data=b"chr1\t1\t9223372036854775808", name="p.bed")
@example(data=b"chr1\tchr1\tchr1", name="p.bed")
@given(data=text_files(BED_FIELDS), name=st.sampled_from(("p.bed", "p.broadPeak", "p.narrowPeak.gz")))
def test_a_bed_file_is_read_or_refused(place, data, name):
    path = written(place, name, data)
    try:
        table, problems = read_intervals(path, SIZES)
    except FileProblem as error:
        assert is_told([error.problem])
        return
    assert is_told(problems)
    known = table[table["chrom"].isin(list(SIZES))]
    assert (table["start"] >= 0).all() and (table["start"] < table["end"]).all()
    assert (known["end"].astype(float) <= known["chrom"].map(SIZES).astype(float)).all() and np.isfinite(table["strength"].astype(float)).all()
    assert ((table["start"] <= table["summit"]) & (table["summit"] < table["end"])).all()
    assert table["line"].is_monotonic_increasing and table["line"].is_unique
    if any(problem.fatal for problem in problems):
        return
    sorted_ = windows.read_peaks(path, SIZES)
    assert len(sorted_) == len(known)


NUMBERS = st.integers(0, 1_000)
PEAKS = st.lists(st.tuples(st.sampled_from(("chr1", "chr2")), NUMBERS, st.integers(1, 300), st.floats(0, 100)), min_size=1, max_size=20)


def peak_rows(drawn) -> list[tuple[str, int, int, float, int]]:
    """Turn (chromosome, start, length, strength) into rows that lie on the genome, with a summit."""
    rows = [(chrom, start, min(start + length, SIZES[chrom]), value) for chrom, start, length, value in drawn if start < SIZES[chrom]]
    return [(chrom, start, end, value, (start + end) // 2) for chrom, start, end, value in rows]


def peak_table(drawn) -> pd.DataFrame:
    """The same as a table of `read_peaks`."""
    return pd.DataFrame(peak_rows(drawn), columns=["chrom", "start", "end", "strength", "summit"])


@given(drawn=PEAKS, comments=st.lists(st.sampled_from(("# x", "track name=a", "", "browser position chr1")), max_size=3),
       end=st.sampled_from(("\n", "\r\n")), zipped=st.booleans())  # fmt: skip
def test_sound_intervals_come_back_as_they_were_written(place, drawn, comments, end, zipped):
    rows = peak_rows(drawn)
    assume(rows)
    lines = [*comments, *(f"{c}\t{s}\t{e}\tn\t0\t.\t{v!r}\t-1\t-1\t{m - s}" for c, s, e, v, m in rows)]
    data = (end.join(lines) + end).encode()
    table, problems = read_intervals(written(place, "sound.bed", gzip.compress(data) if zipped else data), SIZES)
    assert [problem for problem in problems if problem.fatal] == []
    assert list(zip(*(table[name] for name in ("chrom", "start", "end", "strength", "summit")))) == rows


@given(data=text_files(["gene", "tpm", "gene_id", "TPM", "CTCF", "ENSG00000102974.15", "1.5", "0", "-1", "nan", "GATA1"]))
def test_an_expression_table_is_read_or_refused(place, data):
    try:
        tpm = read_expression(written(place, "e.tsv", data))
    except FileProblem as error:
        assert is_told([error.problem])
        return
    assert tpm.index.is_unique and len(tpm) and np.isfinite(tpm).all() and (tpm >= 0).all()


@given(data=text_files(["gene_id", "gene_name", "gene", "CTCF", "ENSG1.2", "chr1", "transcript", 'gene_id "ENSG1"; gene_name "CTCF";']),
       name=st.sampled_from(("g.tsv", "g.gtf", "g.gff3.gz")))  # fmt: skip
def test_gene_names_are_read_or_refused(place, data, name):
    try:
        names = read_gene_names(written(place, name, data))
    except FileProblem as error:
        assert is_told([error.problem])
        return
    assert names and all(gene and symbol for gene, symbol in names.items())


# --- the manifest ---------------------------------------------------------------------------------------------
MANIFEST_FIELDS = [*COLUMNS, *OPTIONAL_COLUMNS, *KINDS, "A", "B", "H3K27ac", "a.bw", "a.bed", "../a.bed", "/dev/null", ".", "~", "~nobody/x",
                   "hg38", "file:///etc/passwd", "http://[", "gopher://x/y", "\x00", "a" * 300, "d" * 32]  # fmt: skip


@pytest.fixture(scope="module")
def files(place):
    """A folder with a genome, a bigWig and a peak file, which manifests of any kind may name."""
    folder = place / "project"
    write_fasta(folder / "g.fa", {chrom: "ACGT" * (size // 4) for chrom, size in SIZES.items()})
    write_bigwig(folder / "a.bw", SIZES, {chrom: [(0, 100, 1.5)] for chrom in SIZES})
    (folder / "a.bed").write_text("chr1\t10\t20\nchr2\t10\t20\n")
    return folder


@given(data=text_files(MANIFEST_FIELDS))
def test_a_manifest_is_read_or_refused(files, data):
    try:
        table = read_manifest(written(files, "m.tsv", data))
    except ChromaccError as error:
        assert "m.tsv" in str(error)
        return
    assert {*COLUMNS, *OPTIONAL_COLUMNS} <= set(table.columns) and len(table) and table.index.is_monotonic_increasing


CELLS = st.one_of(st.sampled_from(("", "A", "B", "C c")), st.text(max_size=3))
ENTRIES = st.one_of(st.sampled_from(("a.bw", "a.bed", "./a.bed", "g.fa", "nowhere", "", ".", "~nobody/x", "\x00")), st.text(max_size=5),
                    st.builds("{}://{}".format, st.sampled_from(("file", "ftp", "gopher", "C")), st.text(max_size=4)))  # fmt: skip
ROWS = st.lists(st.fixed_dictionaries({
    "cell_type": CELLS, "target": st.one_of(st.sampled_from(("accessibility", "CTCF", "")), st.text(max_size=3)),
    "kind": st.sampled_from((*KINDS, "", "atac")), "path_or_url": ENTRIES, "md5": st.sampled_from(("", "0" * 32, "x")),
    "assembly": st.sampled_from(("tiny1", "", "hg19")), "donor": CELLS, "lineage": st.sampled_from(("", "blood", "blood;skin", ";"))}),
    min_size=1, max_size=6)  # fmt: skip
CONTROL = str.maketrans("", "", "\t\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")  # what would end a field or a line


@example(rows=[{"cell_type": "A", "target": "accessibility", "kind": "accessibility_peaks", "path_or_url": "file://[", "md5": "",
                "assembly": "tiny1", "donor": "", "lineage": ""}])  # fmt: skip
@given(rows=ROWS)
def test_every_problem_of_a_manifest_is_listed_whatever_is_in_it(files, rows):
    rows = [{name: text.translate(CONTROL) for name, text in row.items()} for row in rows]
    text = "\t".join(rows[0]) + "\n" + "".join("\t".join(row.values()) + "\n" for row in rows)
    path = written(files, "m.tsv", text.encode("utf-8", "surrogatepass"))
    try:
        taken = take_in(path, files / "g.fa", PARAMETERS, blacklist=files / "a.bed", say=lambda line: None)
    except ChromaccError as error:
        assert str(error)
        return
    assert is_told(taken.problems)
    fatal = [problem.fatal for problem in taken.problems]
    assert fatal == sorted(fatal, reverse=True)


WORDS = st.text(string.ascii_letters + string.digits + " äß.-_|<>&;\"'", min_size=1, max_size=8).map(str.strip).filter(
    lambda text: text.strip(".") and not text.startswith(("track", "browser")))


@given(rows=st.lists(st.fixed_dictionaries({"cell_type": WORDS, "target": WORDS, "kind": st.sampled_from(KINDS), "path_or_url": WORDS,
                                            "donor": WORDS, "lineage": WORDS}), min_size=1, max_size=5))  # fmt: skip
def test_a_manifest_comes_back_as_it_was_written(place, rows):
    assume(not any('"' in text for row in rows for text in row.values()))  # which pandas doubles, writing
    table = read_manifest(write_manifest(place / "written.tsv", rows))
    for name in ("cell_type", "target", "kind", "donor", "lineage"):
        assert table[name].tolist() == [row[name] for row in rows]
    assert [Path(path).name for path in table["path_or_url"]] == [Path(row["path_or_url"]).name for row in rows]


# --- profiles, --set, sweeps ----------------------------------------------------------------------------------
DEFAULTS = {"int": 1, "float": 0.5, "str": "text", "bool": True, "list": [], "dict": {}}
DECLARED = {f"{kind}_parameter": Parameter(f"{kind}_parameter", kind, value, "") for kind, value in DEFAULTS.items()}
YAML = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.dates()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3), max_leaves=6)
YAML_TEXTS = st.one_of(
    st.text(max_size=60), YAML.map(lambda value: json.dumps(value, default=str)),
    st.lists(st.sampled_from([*DECLARED, ":", ": ", "- ", "\n", " ", "&a ", "*a", "<<: ", "!!python/name:os.system ", "!!binary ", "2001-99-99",
                              "{", "}", "[", "]", "? ", "|\n", "%", "---\n", "1e400", ".nan", "0o9", "1:60:60", "'", '"']), max_size=12).map("".join))  # fmt: skip


def is_typed(values: dict) -> bool:
    """Tell whether each value has the type that is declared."""
    return all(_CHECKS[DECLARED[name].type_name](value) for name, value in values.items())


@example(data=b"0000-00-00")
@example(data=b"? [a]\n: 1")
@example(data=b"a: !!int ''")
@example(data=b"a: !!timestamp x")
@example(data=b"[" * 3000)
@given(data=st.one_of(YAML_TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=40)))
def test_a_profile_is_read_or_refused(place, data):
    path = written(place, "p.yaml", data)
    try:
        name, settings = read_profile(str(path), place)
        values = check_settings(settings, DECLARED)
    except ChromaccError as error:
        assert str(error)
        return
    assert name == "p" and is_typed(values)


@example(texts=["int_parameter=2001-99-99"])
@example(texts=["dict_parameter={[a]: 1}"])
@given(texts=st.lists(st.builds("{}={}".format, st.sampled_from([*DECLARED, "int_paramter", "", "x"]), YAML_TEXTS) | st.text(max_size=10), max_size=3))
def test_what_is_set_on_the_command_line_is_taken_or_refused(texts):
    try:
        values = check_settings(parse_overrides(texts), DECLARED)
    except ChromaccError as error:
        assert str(error)
        return
    assert is_typed(values) and len(values) == len(texts)


@given(values=st.fixed_dictionaries({}, optional={
    "int_parameter": st.integers(), "float_parameter": st.floats(allow_nan=False, allow_infinity=False), "bool_parameter": st.booleans(),
    "str_parameter": st.text(max_size=8), "list_parameter": st.lists(st.integers() | st.text(max_size=3), max_size=3)}))  # fmt: skip
def test_a_profile_comes_back_as_it_was_written(place, values):
    path = written(place, "p.yaml", yaml.safe_dump(values).encode())
    assert check_settings(read_profile(str(path), place)[1], DECLARED) == values


SWEEP_KEYS = st.sampled_from(("seeds", "base", "windows", "settings", "grid", "draw", "draw_seed", "stop_on_collapse", "epochs", "learning_rate", "x"))


@example(content={"settings": []}, text="", plain=False)
@example(content={"settings": None}, text="", plain=False)
@given(content=st.dictionaries(SWEEP_KEYS, YAML | st.dictionaries(SWEEP_KEYS, YAML, max_size=2), max_size=4), text=YAML_TEXTS, plain=st.booleans())
def test_a_sweep_is_read_or_refused(place, content, text, plain):
    path = written(place, "s.yaml", (text if plain else json.dumps(content, default=str)).encode("utf-8", "surrogatepass"))
    try:
        sweep = read_sweep(path)
    except ChromaccError as error:
        assert str(error)
        return
    assert sweep.settings and all(isinstance(seed, int) for seed in sweep.seeds)


# --- genome and bigWig ------------------------------------------------------------------------------------------
TEXTS = {"chr1": "ACGTNacgtnRYK" * 20, "chr2": "TTTGGG" * 11}
PLACES = pd.DataFrame({"chrom": ["chr1", "chr1", "chr2"], "start": [0, 100, 20], "end": [30, 130, 50]})


def whole_genome(form: str, folder: Path) -> bytes:
    """The bytes of a small genome in one of three forms."""
    from test_genome import write_two_bit

    fasta = write_fasta(folder / "whole.fa", TEXTS)
    if form == "g.fa.gz":
        with bgzf.open(str(folder / "whole.fa.gz"), "wb") as handle:
            handle.write(fasta.read_bytes())
        return (folder / "whole.fa.gz").read_bytes()
    plain = {name: "".join(base if base in "ACGTNacgtn" else "N" for base in text) for name, text in TEXTS.items()}
    return write_two_bit(folder / "whole.2bit", plain).read_bytes() if form == "g.2bit" else fasta.read_bytes()


@pytest.mark.parametrize("form", ["g.fa", "g.fa.gz", "g.2bit"])
@given(data=st.data())
def test_a_damaged_genome_is_read_or_refused(place, form, data):
    path = written(place, form, data.draw(damaged(whole_genome(form, place))))
    try:
        sizes = genome_sizes(path)
        there = PLACES[PLACES["chrom"].isin(list(sizes)) & (PLACES["end"] <= PLACES["chrom"].map(sizes).fillna(0))]
        with open_genome(path) as genome:
            codes = windows.sequence_codes(genome, there)
    except ChromaccError as error:
        assert form in str(error)
        return
    assert codes.max(initial=0) <= 4 and all(size >= 0 for size in sizes.values())


@pytest.fixture(scope="module")
def bigwig_bytes(tmp_path_factory):
    """A bigWig of several blocks, and its bytes."""
    rows = {chrom: [(5 * i, 5 * i + 4, float(i % 9 + 1)) for i in range(size // 5)] for chrom, size in SIZES.items()}
    return write_bigwig(tmp_path_factory.mktemp("bigwig") / "whole.bw", SIZES, rows).read_bytes()


@given(data=st.data())
def test_a_damaged_bigwig_is_read_or_refused(place, bigwig_bytes, data):
    path = written(place, "d.bw", data.draw(damaged(bigwig_bytes) | st.binary(max_size=100)))
    try:
        with open_bigwig(path) as bigwig:
            bigwig.require_whole()
            bigwig.chroms_with_data()
            bigwig.require_sound(1 << 20)
            there = PLACES[PLACES["end"] <= PLACES["chrom"].map(bigwig.chroms).fillna(0)]
        values, covered = read_signal(path, there, 3)
    except ChromaccError as error:
        assert "d.bw" in str(error)
        return
    assert values.shape == (len(there), 3, 3) and ((covered >= 0) & (covered <= 1)).all()


# --- windows ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    """SIZES of random bases with a stretch of N."""
    rng = np.random.default_rng(1)
    texts = {chrom: "".join(rng.choice(list("ACGT"), size)) for chrom, size in SIZES.items()}
    texts["chr1"] = texts["chr1"][:500] + "N" * 50 + texts["chr1"][550:]
    return write_fasta(tmp_path_factory.mktemp("windows") / "g.fa", texts)


def touching(one, table: pd.DataFrame, least: int = 1) -> list[int]:
    """How many bp of each row of a table a window shares, where it is enough, by hand."""
    shared = [(min(one.end, row.end) - max(one.start, row.start), row.end - row.start) for row in table.itertuples() if row.chrom == one.chrom]
    return [bp for bp, length in shared if bp >= min(least, length) and bp > 0]


@example(first=[("chr2", 0, 214, 0.0)], second=[("chr2", 296, 1, 0.0)], black=[], window_bp=70, placement="summits", seed=0)
@example(first=[("chr1", 0, 1, 0.0)], second=[("chr1", 0, 1, 0.0)], black=[], window_bp=1, placement="summits", seed=0)
@given(first=PEAKS, second=PEAKS, black=st.lists(st.tuples(st.sampled_from(("chr1", "chr2")), NUMBERS, st.integers(1, 60), st.just(0.0)), max_size=3),
       window_bp=st.integers(1, 120), placement=st.sampled_from(windows.PLACEMENTS), seed=st.integers(0, 9))  # fmt: skip
def test_windows_lie_inside_apart_and_off_the_blacklist(genome, first, second, black, window_bp, placement, seed):
    peaks = {"A": peak_table(first), "B": peak_table(second)}
    blacklist = peak_table(black) if black else None
    choose = windows.peak_windows if placement == "summits" else windows.tiled_windows
    try:
        made = choose(peaks, genome, blacklist, window_bp)
    except ChromaccError as error:
        assert "no window is left" in str(error) or "no tile is left" in str(error)
        return
    table = made.windows
    assert all(count.kept <= count.of for count in made.counts)
    split = {"chr1": "train", "chr2": "test"}
    chosen = windows.background_windows(table.assign(split=table["chrom"].map(split)), peaks, genome, blacklist, 1.0, seed,
                                        max_gc_difference=0.3, placement=placement).windows  # fmt: skip
    both = pd.concat([table, chosen])
    for chrom, rows in both.sort_values("start").groupby("chrom"):
        assert (rows["end"] - rows["start"] == window_bp).all() and rows["start"].min() >= 0 and rows["end"].max() <= SIZES[chrom]
        assert (rows["start"].to_numpy()[1:] >= rows["end"].to_numpy()[:-1]).all(), "two windows overlap"
    everything = pd.concat(peaks.values())
    assert not any(touching(one, everything) for one in chosen.itertuples()), "background on a peak"
    if blacklist is not None:
        assert not any(touching(one, blacklist) for one in both.itertuples())
    again = choose({name: rows.sample(frac=1, random_state=seed) for name, rows in peaks.items()}, genome, blacklist, window_bp).windows
    pd.testing.assert_frame_equal(table, again)


@given(drawn=PEAKS, peaks=PEAKS, least=st.integers(1, 200))
def test_labels_are_what_counting_bases_gives(drawn, peaks, least):
    table, peaks = peak_table(drawn), peak_table(peaks)
    assert windows.label_windows(table, peaks, least).tolist() == [int(bool(touching(one, peaks, least))) for one in table.itertuples()]


# --- splits ---------------------------------------------------------------------------------------------------------
NAMES = st.sampled_from([f"cell {letter}" for letter in "ABCDEFGHIJ"])
DONORS = st.sampled_from(("", "d1", "d2", "d3", "d1;d4", "d4, d5", " ", ";"))


@given(pairs=st.lists(st.tuples(NAMES, DONORS), min_size=1, max_size=14), seed=st.integers(0, 5), test=st.lists(NAMES, max_size=2, unique=True),
       validation=st.one_of(st.just(["none"]), st.lists(NAMES, max_size=2, unique=True)))  # fmt: skip
def test_cell_types_are_split_whole_and_donors_stay_together(pairs, seed, test, validation):
    names = list(dict.fromkeys(name for name, _ in pairs))
    lineage = {name: ("blood", "skin", "unknown")[i % 3] for i, name in enumerate(names)}
    cells = pd.DataFrame({"cell_type": [name for name, _ in pairs], "donor": [donor for _, donor in pairs],
                          "lineage": [lineage[name] for name, _ in pairs]})  # fmt: skip
    try:
        split = windows.split_cell_types(cells, seed, test, validation)
    except ChromaccError as error:
        assert str(error)
        return
    assert set(split) == set(names) and set(split.values()) <= set(windows.SPLITS)
    assert {"train", "test"} <= set(split.values()) or (test and set(test) == set(names))
    assert all(split[name] == "test" for name in test)
    assert all(split[name] == "validation" for name in validation if name != "none")
    assert ("validation" in split.values()) == (validation != ["none"])
    owners: dict[str, set[str]] = {}
    for name, donor in pairs:
        for one in donor.replace(",", ";").split(";"):
            owners.setdefault(one.strip(), set()).add(split[name])
    assert all(len(where) == 1 for donor, where in owners.items() if donor)
    assert windows.split_cell_types(cells, seed, test, validation) == split


@given(counts=st.dictionaries(st.sampled_from([f"chr{i}" for i in range(1, 9)]), st.integers(1, 10**6), max_size=8), seed=st.integers(0, 5),
       test=st.lists(st.sampled_from(["chr1", "chr2", "chr99"]), max_size=2, unique=True))  # fmt: skip
def test_chromosomes_are_split_whole(counts, seed, test):
    try:
        split = windows.split_chromosomes(counts, seed, test)
    except ChromaccError as error:
        assert str(error)
        return
    assert set(split) == set(counts) and set(split.values()) == set(windows.SPLITS)
    assert all(split[name] == "test" for name in test)


@given(cells=st.lists(st.integers(0, 4), min_size=1, max_size=30), data=st.data(), n=st.integers(1, 5), seed=st.integers(0, 3))
def test_every_draw_of_clusters_weighs_as_many_as_there_are(cells, data, n, seed):
    blocks = data.draw(st.lists(st.integers(0, 3), min_size=len(cells), max_size=len(cells)))
    plan = resampling(np.array(cells), np.array(blocks), n, seed=seed)
    assert (plan.weights(0) == 1).all()
    for r in range(n + 1):
        weights = plan.weights(r)
        assert weights.shape == (len(cells),) and (weights >= 0).all() and all(math.isfinite(weight) for weight in weights)
