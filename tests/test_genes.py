"""Genes: the shipped transcription factors, names of one's own, and ENCODE's gene quantifications."""

import gzip

import pytest
from conftest import write_lines

from chromacc_lib.curation import MAX_FEATURES
from chromacc_lib.genes import TF_TABLE, bare_id, read_gene_names
from chromacc_lib.manifest import check_manifest, read_expression, read_manifest
from chromacc_lib.problems import FileProblem

RSEM = "gene_id\ttranscript_id(s)\tlength\teffective_length\texpected_count\tTPM\tFPKM"
ROWS = (  # as ENCODE writes them: tRNAs by number, versions, spike-ins
    "10904\t10904\t93.00\t0.00\t0.00\t0.00\t0.00",
    "ENSG00000000003.14\tENST00000373020.8,ENST00000494424.1\t2206.0\t2107.0\t1.00\t0.05\t0.04",
    "ENSG00000102145.15\tENST00000376670.8\t1500.0\t1400.0\t700.00\t12.50\t9.00",
    "ENSG00000102974.16\tENST00000264010.9\t3800.0\t3700.0\t500.00\t7.00\t5.00",
    "ENSG00000185960.14\tENST00000381578.6\t1900.0\t1800.0\t3.00\t1.25\t1.00",
    "ENSG00000185960.14_PAR_Y\tENST00000381578.6_PAR_Y\t1900.0\t1800.0\t1.00\t0.50\t0.40",
    "gSpikein_ERCC-00002\tgSpikein_ERCC-00002\t1061.0\t961.0\t90.00\t30.00\t20.00",
)


def rsem(tmp_path, *rows: str, header: str = RSEM, name: str = "genes.tsv"):
    return write_lines(tmp_path / name, header, *rows)


# --- names --------------------------------------------------------------------------------------------------
def test_the_shipped_table_has_the_tfs_that_encode_assays_and_fits_a_dataset():
    names = read_gene_names()
    by_symbol = {symbol: gene for gene, symbol in names.items()}
    assert len(by_symbol) == len(names) and 1_600 < len(names) <= MAX_FEATURES
    assert all(gene.startswith("ENSG") and len(gene) == 15 for gene in names)
    asked = ("CTCF GATA1 GATA2 TAL1 SPI1 RUNX1 CEBPA CEBPB HNF4A FOXA1 FOXA2 JUN JUND FOS MYC MAX TEAD4 NEUROD1 "
             "MEF2C REST YY1 SP1 NRF1 EP300")
    assert set(asked.split()) <= set(by_symbol)
    assert (by_symbol["CTCF"], by_symbol["GATA1"]) == ("ENSG00000102974", "ENSG00000102145")
    assert "Lambert" in TF_TABLE.read_text().split("gene_id")[0]


def test_versions_and_the_copy_on_y_do_not_count():
    for written in ("ENSG00000185960.14_PAR_Y", "ENSG00000185960_PAR_Y", " ENSG00000185960.1 "):
        assert bare_id(written) == "ENSG00000185960"


GTF = ('#!genome-build GRCh38',
       'chr16\tH\tgene\t1\t9\t.\t+\t.\tgene_id "ENSG00000102974.15"; gene_name "CTCF"; level 2;',
       'chr16\tH\texon\t1\t9\t.\t+\t.\tgene_id "ENSG00000999999.1"; gene_name "GATA1";',
       'chr1\tH\tgene\t1\t9\t.\t+\t.\tgene_id "ENSG00000000003.1"; gene_name "TSPAN6";',
       'chr1\tH\tgene\t1\t9\t.\t+\t.\tgene_id "ENSG00000000001.1";')
GENCODE_GFF3 = ("##gff-version 3",
                "chr8\tH\tgene\t1\t9\t.\t+\t.\tID=ENSMUSG00000005698.15;gene_id=ENSMUSG00000005698.15;"
                "gene_type=protein_coding;gene_name=Ctcf;level=2")
ENSEMBL_GFF3 = ("chr8\te\tgene\t1\t9\t.\t+\t.\tID=gene:ENSMUSG00000005698;Name=Ctcf;"
                "gene_id=ENSMUSG00000005698;version=15",)


@pytest.mark.parametrize("name, lines, expected", [
    ("a.gtf", GTF, {"ENSG00000102974": "CTCF"}), ("a.gff3", GENCODE_GFF3, {"ENSMUSG00000005698": "Ctcf"}),
    ("a.GFF3", ENSEMBL_GFF3, {"ENSMUSG00000005698": "Ctcf"}),
    ("a.tsv", ("gene_name\tgene_id\tx", "Ctcf\tENSMUSG00000005698.15\t1", "# more", "Actb\tENSMUSG00000029580"),
     {"ENSMUSG00000005698": "Ctcf", "ENSMUSG00000029580": "Actb"}),
])
def test_names_of_ones_own_plain_and_gzipped(tmp_path, name, lines, expected):
    path = write_lines(tmp_path / name, *lines)
    assert read_gene_names(path) == expected
    zipped = tmp_path / f"{name}.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert read_gene_names(zipped) == expected


@pytest.mark.parametrize("name, lines, message", [
    ("a.gtf", GTF[3:], "without a known transcription factor"),
    ("a.tsv", ("id\tname", "a\tb"), "columns gene_id and"),
    ("a.tsv", ("gene_id\tgene_name",), "without rows"), ("a.tsv", ("gene_id\tgene_name", "ENSG1\t"), "line 2"),
    ("a.tsv", ("gene_id\tgene_name", "ENSG1.1\tA", "ENSG1.2\tB"), "line 3.*one name for each id"),
])
def test_bad_names(tmp_path, name, lines, message):
    with pytest.raises(FileProblem, match=message):
        read_gene_names(write_lines(tmp_path / name, *lines))


def test_cut_binary_and_missing_files(tmp_path):
    path = tmp_path / "a.gtf.gz"
    path.write_bytes(gzip.compress("\n".join(GTF * 50).encode())[:-20])
    with pytest.raises(FileProblem, match="truncated or corrupt gzip"):
        read_gene_names(path)
    (tmp_path / "b.tsv").write_bytes(b"\x80\x81")
    with pytest.raises(FileProblem, match="not a text file"):
        read_gene_names(tmp_path / "b.tsv")
    with pytest.raises(FileProblem, match="missing file"):
        read_gene_names(tmp_path / "gone.tsv")


# --- gene quantifications -----------------------------------------------------------------------------------
def test_a_gene_quantification_of_encode(tmp_path):
    path = rsem(tmp_path, *ROWS)
    expected = {"GATA1": 12.5, "CTCF": 7.0, "SHOX": 1.75}  # SHOX: both copies
    assert read_expression(path).to_dict() == expected
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert read_expression(path).to_dict() == expected
    shuffled = rsem(tmp_path, *ROWS[::-1], name="shuffled.tsv")
    assert read_expression(shuffled).sort_index().equals(read_expression(path).sort_index())
    assert read_expression(path, {"ENSG00000000003": "TSPAN6"}).to_dict() == {"TSPAN6": 0.05}


@pytest.mark.parametrize("rows, header, message", [
    (ROWS, RSEM.replace("\tTPM", "\tCPM"), "gene_id and TPM as in ENCODE"), ((), RSEM, "no rows"),
    (ROWS[:2] + ROWS[-1:], RSEM, "without a known Ensembl id; got 3 ids, the first 10904, ENSG00000000003.14"),
    ((ROWS[2].replace("12.50", "-1"), ), RSEM, "line 2: 1 bad row.*finite TPM of at least 0"),
    ((ROWS[2].replace("12.50", "NA"), ROWS[3]), RSEM, "line 2: 1 bad row"),
    ((ROWS[3], ROWS[2], ROWS[2]), RSEM, "line 4: 1 bad row.*each gene once"),
    ((ROWS[2], ROWS[3][:30]), RSEM, "line 3: 1 bad row"),
    ((ROWS[2], ROWS[3] + "\t1"), RSEM, "line 3: 1 bad row"),
])
def test_bad_gene_quantifications(tmp_path, rows, header, message):
    with pytest.raises(FileProblem, match=message):
        read_expression(rsem(tmp_path, *rows, header=header))


def test_check_manifest_says_how_many_genes_are_kept_and_names_what_is_bad(project, tmp_path):
    write_lines(project.folder / "A" / "expression.tsv", RSEM, *ROWS)
    manifest = read_manifest(project.manifest)
    (note,) = check_manifest(manifest, project.genome_fasta)
    assert not note.fatal and "A/expression.tsv" in note.file and "kept 4 of 7 rows, because" in note.got
    mouse = write_lines(tmp_path / "mouse.tsv", "gene_id\tgene_name", "ENSMUSG00000005698\tCtcf")
    (bad,) = check_manifest(manifest, project.genome_fasta, gene_names=mouse)
    assert bad.fatal and "without a known Ensembl id" in bad.what and "ENSMUSG00000005698" in bad.needed
    (gone,) = check_manifest(manifest, project.genome_fasta, gene_names=tmp_path / "gone.tsv")
    assert gone.fatal and "missing file" in gone.what
