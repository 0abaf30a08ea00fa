"""Reference: a genome and its blacklist by name, fetched once from a pinned address and checked.

"hg38" stands for a path wherever a genome or a blacklist is asked for; a run fetches these two alone, and takes
chromosome sizes from the genome. `fetch_reference` fetches the publisher's chrom.sizes as well, for other tools.
Files go to the cache folder (CHROMACC_CACHE, or data/cache).
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from chromacc_lib import ChromaccError
from chromacc_lib.genome import genome_sizes
from chromacc_lib.sources import cache_folder, download_all, file_md5, place_of

__all__ = ["REFERENCES", "PinnedFile", "Reference", "blacklist_path", "fetch_reference", "genome_path", "pinned_url"]


@dataclass(frozen=True)
class PinnedFile:
    """A file at a web address. md5: hex, "" = the publisher's is not known to us: the first fetch's is recorded
    in the cache, and another one is refused from then on. n_bytes: 0 = not known.
    """

    url: str
    md5: str = ""
    n_bytes: int = 0


@dataclass(frozen=True)
class Reference:
    """What `fetch_reference` found: paths of genome, blacklist and chrom.sizes, and sizes, {chromosome: bp}."""

    genome_fasta: Path
    blacklist: Path
    chrom_sizes: Path
    sizes: dict[str, int]


# The genome is UCSC's .2bit and not its hg38.fa.gz (md5 1c9dcaddfa41027f17cd8f7a82c7293b): that is plain gzip,
# which cannot be read by place; unpacked it takes 3.1 GB, the .2bit 0.8 GB and no index. It is the initial
# release, without patches, whose chromosomes never change; both md5 stand in UCSC's md5sum.txt. The blacklist
# is ENCODE's unified list for GRCh38 (ENCSR636HFF: ENCFF356LFX, 910 regions), whose md5 the portal publishes;
# the Boyle lab's hg38-blacklist.v2 (Amemiya et al. 2019, Scientific Reports 9:9354) is a link to a branch, and
# we found no checksum of it. Nor of chrom.sizes: that has to agree with the .2bit in every chromosome instead.
_UCSC = "https://hgdownload.soe.ucsc.edu/goldenPath/hg38/bigZips"
REFERENCES: dict[str, dict[str, PinnedFile]] = {
    "hg38": {
        "genome": PinnedFile(f"{_UCSC}/hg38.2bit", "dcc3ea27079aa6dc3f9deccd7275e0f8", 835_393_456),
        "sizes": PinnedFile(f"{_UCSC}/hg38.chrom.sizes"),
        "blacklist": PinnedFile("https://www.encodeproject.org/files/ENCFF356LFX/@@download/ENCFF356LFX.bed.gz",
                                "393688b4f06c9ce26165d47433dd8c37", 8_211),
    },
}


def fetch_reference(name: str) -> Reference:
    """Return all of a reference's files, fetched where they are not in the cache yet (hg38: 0.84 GB).

    Raises ChromaccError for an unknown name, a file that cannot be fetched or has another checksum than pinned
    or recorded, or chromosome sizes that differ from the genome's.
    """
    if name not in REFERENCES:
        raise ChromaccError(f"{name!r}: no such reference; known: {', '.join(REFERENCES)}. Give paths of your "
                            "own files instead")
    paths = {kind: _fetch(pinned) for kind, pinned in REFERENCES[name].items()}
    sizes = genome_sizes(paths["genome"])
    listed = _read_sizes(paths["sizes"])
    differ = sorted({chrom for chrom, _ in listed.items() ^ sizes.items()})
    if differ:
        raise ChromaccError(
            f"{paths['sizes']}: {len(differ)} chromosome(s) differ from {paths['genome']}: "
            f"{', '.join(differ[:4])}; got {listed.get(differ[0])} bp, needed {sizes.get(differ[0])}. "
            "Remove both files, and fetch again")
    return Reference(paths["genome"], paths["blacklist"], paths["sizes"], sizes)


def genome_path(value: str | Path) -> str | Path:
    """Return the path of a genome given by name ("hg38", fetched if need be); a path is returned as it is."""
    return _fetch(REFERENCES[str(value)]["genome"]) if str(value) in REFERENCES else value


def blacklist_path(value: str | Path) -> str | Path:
    """Return the path of a blacklist given by name ("hg38"); a path, or "" for none, is returned as it is."""
    return _fetch(REFERENCES[str(value)]["blacklist"]) if str(value) in REFERENCES else value


def pinned_url(path: str | Path) -> str:
    """Return the address that a file of the cache was fetched from as part of a reference; "" of any other path."""
    urls = [pinned.url for files in REFERENCES.values() for pinned in files.values()]
    return next((url for url in urls if place_of(url, _folder()) == Path(path)), "")


def _folder() -> Path:
    return cache_folder() / "files"


def _fetch(pinned: PinnedFile) -> Path:
    """Return the file's path in the cache. Raises ChromaccError where its checksum is not the known one."""
    (path,) = download_all([(pinned.url, pinned.md5, pinned.n_bytes)], _folder())
    if not pinned.md5:
        _require_recorded(pinned.url, path)
    return path


def _require_recorded(url: str, path: Path) -> None:
    """Compare a file's md5 with the one recorded at its first fetch; record it where there is none."""
    record = cache_folder() / "checksums.json"
    known = json.loads(record.read_text()) if record.is_file() else {}
    md5 = file_md5(path)
    if url not in known:
        partial = record.with_suffix(".partial")
        partial.write_text(json.dumps(known | {url: md5}, indent=1) + "\n")
        os.replace(partial, record)
    elif known[url] != md5:
        raise ChromaccError(
            f"{url}: got md5 {md5}, needed {known[url]}, recorded when it was first fetched; the file has "
            f"changed at its source, or at {path}. Remove that file to fetch it again; if the change is "
            f"wanted, remove its line from {record}, too")


def _read_sizes(path: Path) -> dict[str, int]:
    """Read chrom.sizes: name and bp, separated by a tab."""
    rows = [line.split("\t") for line in path.read_text().splitlines() if line.strip()]
    bad = [i for i, row in enumerate(rows, start=1) if len(row) != 2 or not row[1].strip().isdigit()]
    if bad:
        raise ChromaccError(f"{path}, line {bad[0]}: got {rows[bad[0] - 1]}, needed a chromosome and its size "
                            f"in bp, separated by a tab ({len(bad)} such line(s)); remove it to fetch it again")
    return {name: int(size) for name, size in rows}
