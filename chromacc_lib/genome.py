"""The genome: a plain FASTA, a bgzipped FASTA or a .2bit file behind one interface, read where windows lie.

All coordinates are 0-based half-open, in bp; bases are upper-case text, or codes 0..3 = ACGT, 4 = N or any
other letter. Memory is bounded by the windows asked for, never by a chromosome.
"""

import hashlib
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import py2bit
import pyfaidx

from chromacc_lib import project_path
from chromacc_lib.problems import FileProblem, Problem
from chromacc_lib.sources import cache_folder, require_file

__all__ = ["CODES", "N_CODE", "Chromosome", "Genome", "genome_aliases", "genome_sizes", "open_genome"]

N_CODE = 4
CODES = np.full(256, N_CODE, dtype=np.uint8)  # by letter; IUPAC letters other than ACGT are N
for _code, _letters in enumerate(("Aa", "Cc", "Gg", "Tt")):
    CODES[[ord(letter) for letter in _letters]] = _code
FOREIGN = 255  # code of what is no letter of a sequence
LETTER_CODES = np.full(256, FOREIGN, dtype=np.uint8)
for _letter in b"ACGTUNRYSWKMBDHVXacgtunryswkmbdhvx-*.":  # IUPAC, and how gaps and stops are written
    LETTER_CODES[_letter] = CODES[_letter]

STRETCH_BP = 1 << 20     # windows near each other are read together, up to so much text at once
GAP_BP = 4 << 10         # ... where no more than this lies between them
IS_LOWER = np.isin(np.arange(256), np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", dtype=np.uint8))
TWO_BIT_MAGIC = 0x1A412743


@dataclass(frozen=True)
class Chromosome:
    """One chromosome of an open genome: `len` in bp, and slices as upper-case text."""

    genome: "Genome"
    name: str

    def __len__(self) -> int:
        return self.genome.sizes[self.name]

    def __getitem__(self, place: slice) -> str:
        start, end, step = place.indices(self.genome.sizes[self.name])
        return self.genome.text(self.name, start, end)[::step] if end > start else ""


class Genome:
    """An open genome. sizes: {chromosome: bp}, in the file's order. What differs by format is `text`."""

    path: Path
    sizes: dict[str, int]

    def keys(self) -> list[str]:
        """Return the chromosomes' names, in the file's order."""
        return list(self.sizes)

    def __contains__(self, name: object) -> bool:
        return name in self.sizes

    def __getitem__(self, name: str) -> Chromosome:
        return Chromosome(self, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def text(self, chrom: str, start: int, end: int) -> str:
        """Return the bases of start..end, upper-case; the place lies within the chromosome, not empty."""
        raise NotImplementedError

    def codes(self, chrom: str, starts: np.ndarray, length: int) -> np.ndarray:
        """Return the codes of windows, uint8, shape=(W, length). starts: int64, shape=(W,), sorted."""
        codes = np.empty((len(starts), length), dtype=np.uint8)
        for rows, first, last in _stretches(starts, length):
            bases = np.frombuffer(self.text(chrom, first, last).encode("ascii", "replace"), dtype=np.uint8)
            views = np.lib.stride_tricks.sliding_window_view(LETTER_CODES[bases], length)  # (last - first - L + 1, L)
            codes[rows] = views[starts[rows] - first]
        return self._require_letters(chrom, starts, codes)

    def _require_letters(self, chrom: str, starts: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return the codes, shape=(W, L). Raises FileProblem where something is no letter of a sequence."""
        if codes.size and codes.max() == FOREIGN:
            rows, columns = np.nonzero(codes == FOREIGN)
            at = int(starts[rows[0]] + columns[0])
            raise FileProblem(Problem(
                str(self.path), 0, f"no letter of a sequence in {len(np.unique(rows))} window(s) of {chrom}",
                f"{self.text(chrom, at, at + 1)!r} at {chrom}:{at} (0-based) in the first", "letters of IUPAC's code",
                "The file is damaged, or is no FASTA of DNA: fetch it again, and compare its md5."))
        return codes

    def masked_share(self, chrom: str, starts: np.ndarray, length: int) -> np.ndarray:
        """Return the soft-masked share of windows' bases, float64, shape=(W,). starts: as in `codes`."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what is held open."""
        raise NotImplementedError


def _stretches(starts: np.ndarray, length: int) -> Iterator[tuple[slice, int, int]]:
    """Yield (rows, start, end): windows that are read together. starts: sorted."""
    far = np.diff(starts) > length + GAP_BP
    group = np.concatenate([[0], np.cumsum(far)])
    begins = starts[np.searchsorted(group, group)]  # where each window's group begins
    part = (starts - begins) // STRETCH_BP
    cuts = np.flatnonzero((np.diff(group) > 0) | (np.diff(part) > 0)) + 1
    bounds = [0, *cuts.tolist(), len(starts)]
    for first, last in zip(bounds[:-1], bounds[1:]):
        yield slice(first, last), int(starts[first]), int(starts[last - 1]) + length


# --- FASTA --------------------------------------------------------------------------------------------------
class _BgzippedFasta(Genome):
    """A bgzipped FASTA: pyfaidx finds and inflates the blocks. Also the base of the plain FASTA."""

    def __init__(self, path: Path, fasta: pyfaidx.Fasta) -> None:
        self.path, self.fasta = path, fasta
        self.sizes = {name: len(fasta[name]) for name in fasta.keys()}
        self._require_whole()

    def _require_whole(self) -> None:
        """Raise FileProblem where the last base of the index is not there."""
        chrom, size = list(self.sizes.items())[-1]
        if size and len(self._letters(chrom, size - 1, size)) != 1:
            raise self._misfit(f"no base {chrom}:{size - 1} (0-based)", "the last one of the index")

    def _misfit(self, got: str, needed: str) -> FileProblem:
        return FileProblem(Problem(
            str(self.path), 0, "FASTA does not fit its index (.fai)", got, needed,
            f"Remove {self.fasta.faidx.indexname}, which is then built again; if the FASTA was cut, fetch it again."))

    def _letters(self, chrom: str, start: int, end: int) -> str:
        """Return the file's own letters. Raises FileProblem where they cannot be read."""
        try:
            return self.fasta[chrom][start:end]
        except (OSError, RuntimeError, ValueError, EOFError, struct.error, zlib.error, pyfaidx.FetchError) as error:
            raise FileProblem(Problem(
                str(self.path), 0, f"corrupt FASTA at {chrom}:{start}-{end}", str(error) or type(error).__name__,
                "a sequence that can be read", "Fetch the file again, and compare its md5.")) from error

    def text(self, chrom: str, start: int, end: int) -> str:
        """Return bases as upper-case text."""
        return self._letters(chrom, start, end).upper()

    def masked_share(self, chrom: str, starts: np.ndarray, length: int) -> np.ndarray:
        """Return the share of lower-case letters, float64, shape=(W,)."""
        share = np.empty(len(starts))
        for rows, first, last in _stretches(starts, length):
            letters = np.frombuffer(self._letters(chrom, first, last).encode("ascii", "replace"), dtype=np.uint8)
            before = np.concatenate([[0], np.cumsum(IS_LOWER[letters])])  # lower-case letters before a place
            at = starts[rows] - first
            share[rows] = (before[at + length] - before[at]) / length
        return share

    def close(self) -> None:
        """Close the file."""
        self.fasta.close()


class _PlainFasta(_BgzippedFasta):
    """A plain FASTA: its index says where a base stands, and windows are cut out of a memory map."""

    def __init__(self, path: Path, fasta: pyfaidx.Fasta) -> None:
        super().__init__(path, fasta)
        with open(path, "rb") as handle:
            self.map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)

    def _require_whole(self) -> None:
        """Raise FileProblem unless the file ends where the index says: neither of them was cut."""
        index = list(self.fasta.faidx.index.values())[-1]
        line, line_bytes, last = max(index.lenc, 1), max(index.lenb, 1), index.rlen - 1
        end = index.offset + (last // line * line_bytes + last % line + 1 if index.rlen else 0)
        n_bytes = os.path.getsize(self.path)
        with open(self.path, "rb") as handle:
            handle.seek(end)
            if end > n_bytes or handle.read(GAP_BP).strip():
                raise self._misfit(f"{n_bytes:,} bytes", f"a sequence that ends at byte {end:,}")

    def codes(self, chrom: str, starts: np.ndarray, length: int) -> np.ndarray:
        """Return codes, uint8, shape=(W, length). Raises FileProblem where the index does not fit the file."""
        index = self.fasta.faidx.index[chrom]
        line, line_bytes = max(index.lenc, 1), max(index.lenb, 1)
        last = starts + length - 1
        begins = index.offset + starts // line * line_bytes + starts % line
        ends = index.offset + last // line * line_bytes + last % line + 1
        text = b"".join([self.map[begin:end] for begin, end in zip(begins.tolist(), ends.tolist())])
        codes = text.translate(LETTER_CODES.tobytes(), b"\r\n")
        if len(codes) != len(starts) * length:
            raise self._misfit(f"{len(codes):,} bases under {len(starts)} windows of {chrom}",
                               f"{len(starts) * length:,}")
        codes = np.frombuffer(codes, dtype=np.uint8).reshape(len(starts), length)
        return self._require_letters(chrom, starts, codes)

    def close(self) -> None:
        """Close file and map."""
        self.map.close()
        super().close()


def _open_fasta(path: Path) -> Genome:
    places = _index_places(path)
    index = [Path(places.get("indexname", f"{path}.fai")), Path(places.get("gzi_indexname", f"{path}.gzi"))]
    there = [one.exists() for one in index]
    try:
        fasta = pyfaidx.Fasta(str(path), as_raw=True, **places)
    except (pyfaidx.FastaIndexingError, pyfaidx.UnsupportedCompressionFormat, OSError, ValueError, RuntimeError,
            EOFError, struct.error, zlib.error) as error:
        for one, was_there in zip(index, there):
            if not was_there:
                one.unlink(missing_ok=True)  # an index that was not written to its end
        cause = error.__context__ if isinstance(error, OSError) and error.__context__ else error
        raise FileProblem(Problem(
            str(path), 0, "FASTA cannot be indexed", str(cause).partition("Please")[0] or type(cause).__name__,
            "a whole plain or bgzipped FASTA: lines of one length, no blank ones between them, each name once",
            "If it is gzipped: gunzip it, or recompress it with bgzip. If it may be damaged: fetch it again. If its "
            "index (.fai) is: remove that, and it is built again.")) from error
    if not len(fasta.keys()):
        raise FileProblem(Problem(str(path), 0, "no sequence", "no line that starts with >", "a FASTA file",
                                  "Give the genome's FASTA."))
    _date_index(index, path)
    return (_BgzippedFasta if _is_bgzipped(path) else _PlainFasta)(path, fasta)


def _is_bgzipped(path: Path) -> bool:
    return path.suffix.lower() in (".gz", ".bgz")


def _index_places(path: Path) -> dict[str, str]:
    """Return where pyfaidx finds or builds the index: beside the FASTA, or in the cache where nothing can be written
    there and none lies there; named by size and time, so that another FASTA of that path gets another one.
    """
    stat = path.stat()
    beside = [Path(f"{path}{end}") for end in ((".fai", ".gzi") if _is_bgzipped(path) else (".fai",))]
    there = all(index.is_file() and index.stat().st_mtime_ns >= stat.st_mtime_ns for index in beside)
    if there or os.access(path.parent, os.W_OK):
        return {}
    key = hashlib.sha256(f"{path} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:32]
    folder = cache_folder() / "indexes"
    folder.mkdir(parents=True, exist_ok=True)
    places = {"indexname": str(folder / f"{key}.fai"), "gzi_indexname": str(folder / f"{key}.gzi")}
    return dict(list(places.items())[:len(beside)])


def _date_index(index: list[Path], path: Path) -> None:
    """Give an index that was just built the FASTA's time where that lies in the future: else each opening would build it
    again.
    """
    time_ns = path.stat().st_mtime_ns
    for one in index:
        if one.exists() and one.stat().st_mtime_ns < time_ns:
            os.utime(one, ns=(time_ns, time_ns))


# --- .2bit --------------------------------------------------------------------------------------------------
class _TwoBit(Genome):
    """A .2bit file, read by py2bit; runs of N come back as N, soft-masked bases as upper case."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sizes, self.masks = _require_whole_two_bit(path)
        self.handle = py2bit.open(str(path))

    def text(self, chrom: str, start: int, end: int) -> str:
        """Return bases as upper-case text."""
        return self.handle.sequence(chrom, start, end)

    def masked_share(self, chrom: str, starts: np.ndarray, length: int) -> np.ndarray:
        """Return the share of bases in soft-masked blocks, float64, shape=(W,)."""
        with open(self.path, "rb") as handle:
            handle.seek(self.masks[chrom])
            (count,) = _numbers(handle, 1)
            begins, sizes = np.fromfile(handle, dtype="<u4", count=2 * count).astype(np.int64).reshape(2, count)
        order = np.argsort(begins, kind="stable")
        begins, sizes = begins[order], sizes[order]
        before = np.concatenate([[0], np.cumsum(sizes)])

        def masked_left_of(places: np.ndarray) -> np.ndarray:
            """Return how many masked bases lie left of each place."""
            block = np.searchsorted(begins, places)  # blocks that begin left of each place
            cut = np.maximum((begins + sizes)[np.maximum(block - 1, 0)] - places, 0) if count else 0
            return before[block] - np.where(block > 0, cut, 0)

        return (masked_left_of(starts + length) - masked_left_of(starts)) / length

    def close(self) -> None:
        """Close the file."""
        self.handle.close()


def _is_two_bit(path: Path) -> bool:
    with open(path, "rb") as handle:
        return handle.read(4) in (struct.pack("<I", TWO_BIT_MAGIC), struct.pack(">I", TWO_BIT_MAGIC))


def _require_whole_two_bit(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return {chromosome: bp} and {chromosome: byte where its soft-masked blocks are listed}, after following
    the index to each sequence's last byte: py2bit maps the file and trusts it, so a cut one would end the
    process. Raises FileProblem.

    Format: UCSC's .2bit, https://genome.ucsc.edu/FAQ/FAQformat.html#format7.
    """
    n_bytes = os.path.getsize(path)
    try:
        with open(path, "rb") as handle:
            magic, version, count, _ = _numbers(handle, 4)
            if magic != TWO_BIT_MAGIC or version != 0:
                raise FileProblem(Problem(str(path), 0, "a .2bit file that cannot be read",
                                          f"signature {magic:#x}, version {version}",
                                          f"signature {TWO_BIT_MAGIC:#x} (little-endian), version 0",
                                          "Write it again with faToTwoBit, on a machine of this byte order."))
            offsets = {_name(handle): _numbers(handle, 1)[0] for _ in range(count)}
            sizes, masks, ends = {}, {}, []
            for name, offset in offsets.items():
                handle.seek(offset)
                (sizes[name],) = _numbers(handle, 1)
                for _ in range(2):  # runs of N, then soft-masked runs: a count, starts and lengths
                    masks[name] = handle.tell()
                    (blocks,) = _numbers(handle, 1)
                    handle.seek(8 * blocks, os.SEEK_CUR)
                ends.append(handle.tell() + 4 + (sizes[name] + 3) // 4)
    except struct.error as error:
        raise _cut(path, n_bytes, "a whole index") from error
    if not sizes or max(ends) > n_bytes:
        raise _cut(path, n_bytes, f"{max(ends, default=1):,} bytes with at least one sequence")
    return sizes, masks


def _numbers(handle: BinaryIO, n: int) -> tuple[int, ...]:
    return struct.unpack(f"<{n}I", handle.read(4 * n))


def _name(handle: BinaryIO) -> str:
    (length,) = struct.unpack("<B", handle.read(1))
    return handle.read(length).decode("ascii", "replace")


def _cut(path: Path, n_bytes: int, needed: str) -> FileProblem:
    return FileProblem(Problem(str(path), 0, "truncated or corrupt .2bit file", f"{n_bytes:,} bytes", needed,
                               "Fetch the file again, and compare its md5."))


# --- any of them --------------------------------------------------------------------------------------------
def open_genome(path: str | Path) -> Genome:
    """Open a plain or bgzipped FASTA, or a .2bit file; slices are upper-case text, 0-based half-open.

    A FASTA's index (.fai) is built where there is none: beside it, or in the cache folder where it cannot be written
    beside it. Raises FileProblem when the file is missing, empty, cut, gzipped but not bgzipped, or cannot be indexed.
    """
    path = project_path(path)
    require_file(path)
    return _TwoBit(path) if _is_two_bit(path) else _open_fasta(path)


def genome_sizes(path: str | Path) -> dict[str, int]:
    """Return {chromosome: length in bp} of a genome, in the file's order. Raises as `open_genome`."""
    with open_genome(path) as genome:
        return dict(genome.sizes)


def genome_aliases(sizes: Mapping[str, int], wanted: bool = True) -> dict[str, str]:
    """Return {what other files may call a chromosome: the genome's name}: 1 and chr1, MT, M and chrM; {} unless wanted.

    sizes: {chromosome: bp}. A name that the genome has itself is never another one's.
    """
    aliases = {}
    for name in sizes if wanted else ():
        bare = name.removeprefix("chr")
        others = ("M", "MT", "chrM", "chrMT") if bare in ("M", "MT") else (bare, f"chr{bare}")
        aliases |= {other: name for other in others if other not in sizes}
    return aliases
