"""BigWig files read by their data blocks: the index names the blocks under the windows, each is inflated once.

Format: Kent et al. 2010, Bioinformatics 26:2204, supplement. Only base-level data are read, never zoom
levels. All coordinates are 0-based half-open, in bp. Blocks are inflated by libdeflate and reduced to bins by
one compiled pass, without Python's lock, so that threads read files side by side.
"""

import ctypes
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import deflate._deflate
import numba
import numpy as np

from chromacc_lib import ChromaccError
from chromacc_lib.problems import FileProblem, Problem
from chromacc_lib.sources import ByteSource, open_source

__all__ = ["NO_ALIASES", "BigWig", "inflater", "merge_ranges", "open_bigwig", "read_bins", "require_written"]

BIGWIG_MAGIC, BIGBED_MAGIC, CHROM_TREE_MAGIC, RTREE_MAGIC = 0x888FFC26, 0x8789F2EB, 0x78CA8C91, 0x2468ACE0
GZIP_MAGIC = b"\x1f\x8b"
BLOCK_HEADER_BYTES = 24
SOUND, CORRUPT, NOT_FINITE = range(3)  # what reading a block comes to
WINDOWS_AT_ONCE = 4096  # whose sums stay in the cache; a block at the seam is inflated twice
NO_ALIASES: Mapping[str, str] = MappingProxyType({})
READ_BYTES = 4 << 20   # compressed bytes held at once: bounds memory, and touches the disk in long strides

_LEAF = np.dtype([("start_chrom", "<u4"), ("start", "<u4"), ("end_chrom", "<u4"), ("end", "<u4"),
                  ("offset", "<u8"), ("size", "<u8")])
_INNER = np.dtype(_LEAF.descr[:5])


def _truncated(source: ByteSource) -> FileProblem:
    return FileProblem(Problem(source.name, 0, "truncated or corrupt bigWig",
                               f"{source.size} bytes, and an index that does not fit them",
                               "every block that the index names", "Fetch the file again, and compare its md5."))


# --- header and index ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class BigWig:
    """An open bigWig: header and chromosomes read, data untouched.

    chroms: {name: length in bp}, in the file's own numbering. covered: bases with data; minimum, total: of
    the signal over them. buffer_bytes: the largest block, inflated; 0 = blocks are stored as they are. renamed: {name in
    the file: name in `chroms`} of those that go by another one.
    """

    source: ByteSource
    chroms: dict[str, int]
    covered: int
    minimum: float
    total: float
    buffer_bytes: int
    index_offset: int
    zoom_indexes: tuple[int, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)

    def __enter__(self) -> "BigWig":
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()

    def chrom_id(self, chrom: str) -> int:
        """Return the file's number of a chromosome. Raises ChromaccError where it has none of that name."""
        if chrom not in self.chroms:
            raise ChromaccError(f"{self.source.name}: no chromosome {chrom}; it has "
                                f"{', '.join(list(self.chroms)[:5])}")
        return list(self.chroms).index(chrom)

    def blocks(self, chrom: str | None = None, starts: np.ndarray | None = None,
               ends: np.ndarray | None = None) -> np.ndarray:
        """Return the index entries of the data blocks under some intervals of a chromosome; all by default.

        starts, ends: int64, shape=(n,), bp, sorted. Returns a structured array in the file's order:
        start_chrom, start, end_chrom, end (bp), offset, size (bytes). Reads only the nodes on the way.
        """
        if chrom is None:
            return _rtree_leaves(self.source, self.index_offset)
        number = self.chrom_id(chrom)
        if starts is None or ends is None:
            starts, ends = np.array([0]), np.array([self.chroms[chrom]])
        return _rtree_leaves(self.source, self.index_offset,
                             lambda entries: _touches(entries, number, starts, ends))

    def require_whole(self) -> None:
        """Follow every index to its last block. Raises FileProblem if any lies past the file's end."""
        for offset in (self.index_offset, *self.zoom_indexes):
            _rtree_leaves(self.source, offset)

    def require_sound(self, most_bytes: int) -> None:
        """Inflate blocks from all over the file, and compare each with what the index says of it.

        most_bytes: of the blocks as they lie in the file; one of no more is looked at whole. Raises FileProblem that
        names the first bad block.
        """
        blocks, names = self.blocks(), list(self.chroms)
        every = max(1, -(-int(blocks["size"].sum()) // most_bytes))
        with _Reducer(self) as reducer:
            for block in blocks[::every]:
                offset, size = int(block["offset"]), int(block["size"])
                raw = np.frombuffer(self.source.read(offset, size), dtype=np.uint8)
                (words,) = reducer.inflated(raw, np.array([0]), np.array([size]))
                if words is None or len(words) < 6 or words[:3].tolist() != [
                        block["start_chrom"], block["start"], block["end"]]:
                    raise reducer.problem(names[block["start_chrom"]], offset, CORRUPT)

    def chroms_with_data(self) -> tuple[str, ...]:
        """Return the chromosomes on which the file has at least one interval."""
        present = np.zeros(len(self.chroms), dtype=bool)
        _rtree_leaves(self.source, self.index_offset, lambda entries: _not_obvious(self.source, entries, present))
        return tuple(name for name, there in zip(self.chroms, present) if there)


def open_bigwig(entry: str | Path, aliases: Mapping[str, str] = NO_ALIASES) -> BigWig:
    """Open a bigWig by path or URL; read header, summary and chromosomes. Close it, or use `with`.

    aliases: of chromosomes, see `genome.genome_aliases`; they are then called as the genome calls them. Raises
    ChromaccError that says what is wrong.
    """
    source = open_source(entry)
    try:
        return _with_aliases(_read_header(source), aliases)
    except BaseException:
        source.close()
        raise


def _with_aliases(bigwig: BigWig, aliases: Mapping[str, str]) -> BigWig:
    """Return it with the chromosomes that have an alias under that name. Raises FileProblem where two get the same."""
    renamed = {name: aliases[name] for name in bigwig.chroms if name in aliases}
    if not renamed:
        return bigwig
    chroms = {renamed.get(name, name): length for name, length in bigwig.chroms.items()}
    if len(chroms) < len(bigwig.chroms):
        raise FileProblem(Problem(bigwig.source.name, 0, "one chromosome under two names", ", ".join(bigwig.chroms),
                                  "each chromosome once", "Leave out rename_chromosomes, or write the file anew."))
    return replace(bigwig, chroms=chroms, renamed=renamed)


def require_written(path: Path) -> None:
    """Raise ChromaccError unless a bigWig that was just written is whole: pyBigWig closes one in silence on a full disk."""
    try:
        with open_bigwig(path) as bigwig:
            bigwig.require_whole()
            bigwig.require_sound(bigwig.source.size)
            if bigwig.source.read(bigwig.source.size - 4, 4) != struct.pack("<I", BIGWIG_MAGIC):  # what is written last
                raise _truncated(bigwig.source)
    except FileProblem as error:
        raise ChromaccError(f"{path}: the bigWig that was written is not whole ({error.problem.what}); most often the "
                            "disk is full, or a quota is reached: free some, and start again") from error


def _read_header(source: ByteSource) -> BigWig:
    _require_bigwig(source)
    fields = struct.unpack("<IHHQQQHHQQIQ", _take(source, 0, 64))
    version, n_zooms, tree, index, summary, buffer_bytes = (fields[i] for i in (1, 2, 3, 5, 9, 10))
    if summary == 0:
        raise FileProblem(Problem(source.name, 0, "bigWig without a total summary",
                                  f"format version {version}", "version 2 or later",
                                  "Write it again with bedGraphToBigWig."))
    zooms = [struct.unpack("<IIQQ", _take(source, 64 + 24 * i, 24))[3] for i in range(n_zooms)]
    # the maximum is left alone: libBigWig does not update it where values only fall
    covered, minimum, _, total, _ = struct.unpack("<Qdddd", _take(source, summary, 40))
    return BigWig(source, _read_chroms(source, tree), covered, minimum, total, buffer_bytes, index,
                  tuple(offset for offset in zooms if offset))


def _require_bigwig(source: ByteSource) -> None:
    magic = _take(source, 0, 4)
    if magic == struct.pack("<I", BIGWIG_MAGIC):
        return
    if magic in (struct.pack("<I", BIGBED_MAGIC), struct.pack(">I", BIGBED_MAGIC)):
        got, remedy = "a bigBed", "Give the signal (bigWig) of this experiment, not its peaks."
    elif magic == struct.pack(">I", BIGWIG_MAGIC):
        got, remedy = "a big-endian bigWig", "Write it again with bedGraphToBigWig on a usual machine."
    elif magic.startswith(GZIP_MAGIC):
        got, remedy = "a gzip file", "gunzip it."
    elif all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in magic):
        got, remedy = f"text that starts with {magic.decode()!r}", "Convert it with bedGraphToBigWig."
    else:
        got, remedy = f"bytes {magic.hex()}", "Fetch the file again."
    raise FileProblem(Problem(source.name, 0, "not a bigWig", got, "a bigWig file", remedy))


def _take(source: ByteSource, offset: int, size: int) -> bytes:
    if offset + size > source.size:
        raise _truncated(source)
    return source.read(offset, size)


def _read_chroms(source: ByteSource, offset: int) -> dict[str, int]:
    """Walk the B+ tree of chromosomes; return {name: length in bp} by their numbers."""
    magic, per_node, key_size, _, count, _ = struct.unpack("<IIIIQQ", _take(source, offset, 32))
    if magic != CHROM_TREE_MAGIC:
        raise _truncated(source)
    found: dict[int, tuple[str, int]] = {}
    nodes, visited = [offset + 32], set()
    while nodes:
        node = nodes.pop()
        if node in visited:
            raise _truncated(source)
        visited.add(node)
        is_leaf, _, n = struct.unpack("<BBH", _take(source, node, 4))
        data = _take(source, node + 4, n * (key_size + 8))
        for i in range(n):
            key, value = struct.unpack_from(f"<{key_size}s8s", data, i * (key_size + 8))
            if is_leaf:
                number, length = struct.unpack("<II", value)
                found[number] = (key.rstrip(b"\0").decode("utf-8", "replace"), length)
            else:
                nodes.append(struct.unpack("<Q", value)[0])
    if len(found) != count or sorted(found) != list(range(len(found))):
        raise _truncated(source)
    return dict(found[number] for number in range(len(found)))


def _rtree_leaves(source: ByteSource, offset: int,
                  wanted: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
    """Walk an R-tree index level by level; return its leaf entries in the file's order.

    wanted: index entries -> bool mask of those to follow (inner) or return (leaf); all by default. Raises
    ChromaccError if a followed node or returned block lies past the file's end.
    """
    magic, per_node = struct.unpack("<II", _take(source, offset, 8))
    if magic != RTREE_MAGIC:
        raise _truncated(source)
    nodes, leaves, visited = np.array([offset + 48]), [], 0
    while len(nodes):
        visited += len(nodes)
        if visited > source.size // 4 or int(nodes.max()) + 4 > source.size:  # a loop, or a node past the end
            raise _truncated(source)
        span = 4 + per_node * _LEAF.itemsize
        source.prefetch([(int(node), min(span, source.size - int(node))) for node in nodes])
        below = []
        for node in nodes.tolist():
            entries, is_leaf = _read_node(source, node, span)
            entries = entries if wanted is None else entries[wanted(entries)]
            if is_leaf:
                leaves.append(entries)
            else:
                below.append(entries["offset"].astype(np.int64))
        nodes = np.concatenate(below) if below else np.empty(0, dtype=np.int64)
    found = np.concatenate(leaves) if leaves else np.empty(0, dtype=_LEAF)
    if len(found) and int((found["offset"] + found["size"]).max()) > source.size:
        raise _truncated(source)
    return found[np.argsort(found["offset"], kind="stable")]


def _read_node(source: ByteSource, node: int, span: int) -> tuple[np.ndarray, bool]:
    data = source.read(node, min(span, source.size - node))
    is_leaf, _, count = struct.unpack_from("<BBH", data)
    dtype = _LEAF if is_leaf else _INNER
    if 4 + count * dtype.itemsize > len(data) or not (is_leaf or count):  # zeros look like an inner node of nothing
        raise _truncated(source)
    return np.frombuffer(data, dtype=dtype, count=count, offset=4), bool(is_leaf)


def _touches(entries: np.ndarray, chrom: int, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return a bool mask: the entry shares a base with one of the sorted intervals of a chromosome."""
    first, last = entries["start_chrom"], entries["end_chrom"]
    low = np.where(first < chrom, 0, entries["start"].astype(np.int64))
    high = np.where(last > chrom, np.iinfo(np.int64).max, entries["end"].astype(np.int64))
    reach = np.maximum.accumulate(ends)  # the first interval that may end after `low` ...
    candidate = np.searchsorted(reach, low, side="right")
    begins = np.append(starts, np.iinfo(np.int64).max)[candidate]  # ... must begin before `high`
    return (first <= chrom) & (chrom <= last) & (begins < high)


def _not_obvious(source: ByteSource, entries: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mark the chromosomes at both ends of each entry as present; return which entries may hide others."""
    if len(entries) and int(max(entries["start_chrom"].max(), entries["end_chrom"].max())) >= len(present):
        raise _truncated(source)  # a chromosome that the file does not list
    present[entries["start_chrom"]] = True
    present[entries["end_chrom"]] = True
    return entries["end_chrom"] - entries["start_chrom"].astype(np.int64) > 1


# --- ranges -------------------------------------------------------------------------------------------------
def merge_ranges(offsets: np.ndarray, sizes: np.ndarray, gap: int, longest: int) -> list[tuple[int, int]]:
    """Join byte ranges, sorted by offset, into reads: across gaps up to `gap`, of `longest` bytes at most.

    Returns (first, last + 1) row numbers of each read. One range longer than `longest` is read by itself.
    """
    ends = offsets + sizes
    groups, first = [], 0
    for i in range(1, len(offsets) + 1):
        if i == len(offsets) or offsets[i] - ends[i - 1] > gap or ends[i] - offsets[first] > longest:
            groups.append((first, i))
            first = i
    return groups


# --- inflating ----------------------------------------------------------------------------------------------
class _Libdeflate(NamedTuple):
    """libdeflate's functions as the `deflate` package's extension exports them; callable from compiled code."""

    alloc: Callable[[], int]
    free: Callable[[int], None]
    inflate: Callable[..., int]


@lru_cache(1)
def _libdeflate() -> _Libdeflate | None:
    """Return libdeflate's functions, or None where this platform's build of `deflate` hides them."""
    library = ctypes.CDLL(deflate._deflate.__file__)
    try:
        alloc, free = library.libdeflate_alloc_decompressor, library.libdeflate_free_decompressor
        inflate = library.libdeflate_zlib_decompress
    except AttributeError:
        return None
    alloc.argtypes, alloc.restype = [], ctypes.c_void_p
    free.argtypes, free.restype = [ctypes.c_void_p], None
    pointer, number = ctypes.c_void_p, ctypes.c_size_t
    inflate.argtypes, inflate.restype = [pointer, pointer, number, pointer, number, pointer], ctypes.c_int
    return _Libdeflate(alloc, free, inflate)


def inflater() -> str:
    """Return which inflater reads the blocks: libdeflate, or zlib where libdeflate cannot be called."""
    return "zlib" if _libdeflate() is None else "libdeflate"


# What a bin holds of one track, float64, in the last axis of an array of shape (W, B, 5). Sums are taken about a
# reference, the bin's first value, so that a variance far from zero keeps its digits (Chan, Golub & LeVeque 1983, The
# American Statistician 37:242). Side by side, so that an update touches one cache line.
REFERENCE, SUM, SQUARE, TOP, COVERED = range(5)


@numba.njit(nogil=True, cache=True)
def _write_statistics(sums, widths, rows, values, covered):
    """Write mean, population variance and max to values[rows] (n, B, 3), and the covered share to covered[rows].

    sums: (n, B, 5); widths: of the bins, bp; rows: int64, (n,); values, covered: float32. Bases
    without data count as zero. Returns False where a bin had more than all its bases.
    """
    whole = True
    for i in range(len(rows)):
        row = rows[i]
        for k in range(len(widths)):
            width = np.float64(widths[k])
            reference, top = sums[i, k, REFERENCE], sums[i, k, TOP]
            absent = width - sums[i, k, COVERED]
            whole &= absent >= 0
            shift = (sums[i, k, SUM] - reference * absent) / width  # of the mean from the reference
            spread = (sums[i, k, SQUARE] + reference * reference * absent) / width - shift * shift
            values[row, k, 0] = reference + shift
            values[row, k, 1] = max(spread, 0.0)
            values[row, k, 2] = max(top, 0.0) if absent > 0 else top
            covered[row, k] = sums[i, k, COVERED] / width
    return whole


def read_bins(bigwig: BigWig, chrom: str, starts: np.ndarray, edges: np.ndarray, rows: np.ndarray,
              values: np.ndarray, covered: np.ndarray) -> None:
    """Write what a bigWig holds under the windows of one chromosome to values[rows] and covered[rows].

    starts: int64, shape=(n,), bp, sorted; edges: int64, shape=(B + 1,), bp from a window's start; values: float32,
    (W, B, 3), mean, population variance and max, where bases without data count as zero; covered: float32, (W, B),
    the share of bases with data. Raises FileProblem that names the file and the block where data are corrupt.
    """
    number, length, widths = bigwig.chrom_id(chrom), int(edges[-1]), np.diff(edges)
    blocks = bigwig.blocks(chrom, starts, starts + length)
    bigwig.source.prefetch(list(zip(blocks["offset"].tolist(), blocks["size"].tolist())))
    with _Reducer(bigwig) as reducer:
        for first in range(0, len(starts), WINDOWS_AT_ONCE):
            here = starts[first:first + WINDOWS_AT_ONCE]
            touched = blocks[_touches(blocks, number, here, here + length)]
            sums = np.zeros((len(here), len(widths), 5))
            reducer.add(chrom, number, touched, here, edges, sums)
            if not _write_statistics(sums, widths, rows[first:first + WINDOWS_AT_ONCE], values, covered):
                raise reducer.problem(chrom, int(touched["offset"][0]), CORRUPT)  # they overlap: none is bad by itself


class _Reducer:
    """Holds the inflater and its buffer while the blocks of a file are read."""

    def __init__(self, bigwig: BigWig) -> None:
        self.source, self.plain = bigwig.source, bigwig.buffer_bytes == 0
        self.buffer = np.empty(max(bigwig.buffer_bytes, 64) // 4 + 1, dtype=np.uint32)
        self.functions = None if self.plain else _libdeflate()
        self.state = self.functions.alloc() if self.functions else None

    def __enter__(self) -> "_Reducer":
        return self

    def __exit__(self, *_: object) -> None:
        if self.functions:
            self.functions.free(self.state)

    def add(self, chrom: str, number: int, blocks: np.ndarray, starts: np.ndarray, edges: np.ndarray,
            sums: np.ndarray) -> None:
        """Read and inflate the blocks, and add them to the windows' sums."""
        offsets, sizes = blocks["offset"].astype(np.int64), blocks["size"].astype(np.int64)
        for first, last in merge_ranges(offsets, sizes, self.source.gap, READ_BYTES):
            begin = int(offsets[first])
            raw = self.source.read(begin, int(offsets[last - 1] + sizes[last - 1]) - begin)
            bad = self._add(np.frombuffer(raw, dtype=np.uint8), offsets[first:last] - begin, sizes[first:last],
                            number, starts, edges, sums)
            if bad is not None:
                raise self.problem(chrom, int(offsets[first + bad[0]]), bad[1])

    def problem(self, chrom: str, offset: int, code: int) -> FileProblem:
        """Return what to raise of a bad block."""
        if code == NOT_FINITE:
            return FileProblem(Problem(
                self.source.name, 0, f"values of {chrom} that are no finite numbers", f"NaN or infinite at byte {offset}",
                "finite values; where nothing was measured, no interval", "Write the file again without them."))
        return FileProblem(Problem(
            self.source.name, 0, f"corrupt data of {chrom}", f"a bad block at byte {offset}",
            "blocks that inflate to intervals in order", "Fetch the file again, and compare its md5."))

    def _add(self, raw: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, chrom: int, starts: np.ndarray,
             edges: np.ndarray, sums: np.ndarray) -> tuple[int, int] | None:
        """Return the first bad block's row and what is wrong with it, or None."""
        if self.functions:
            row, code = _add_deflated(self.functions.inflate, self.state, raw, offsets, sizes, self.buffer, chrom,
                                      starts, edges, sums)
            return None if code == SOUND else (row, code)
        for row, block in enumerate(self.inflated(raw, offsets, sizes)):
            code = CORRUPT if block is None else _add_block(block, block.view(np.float32), 4 * len(block), chrom,
                                                            starts, edges, sums)
            if code != SOUND:
                return row, code
        return None

    def inflated(self, raw: np.ndarray, offsets: np.ndarray, sizes: np.ndarray
                  ) -> Iterator[np.ndarray | None]:
        """Yield each block as uint32 words, through Python's zlib; None where it is corrupt."""
        for offset, size in zip(offsets.tolist(), sizes.tolist()):
            data = raw[offset:offset + size].tobytes()
            try:
                data = data if self.plain else zlib.decompress(data)
            except zlib.error:
                yield None
            else:
                yield np.frombuffer(data[:len(data) // 4 * 4], dtype=np.uint32)


@numba.njit(nogil=True, cache=True)
def _add_deflated(inflate, state, raw, offsets, sizes, words, chrom, starts, edges, sums):
    """Inflate each block into `words` and add it at once, while it is in the cache; see `_add_block`."""
    values = words.view(np.float32)
    used = np.zeros(1, dtype=np.uint64)
    for i in range(len(offsets)):
        status = inflate(state, raw.ctypes.data + offsets[i], sizes[i], words.ctypes.data, 4 * len(words),
                         used.ctypes.data)
        if status != 0:
            return i, CORRUPT
        code = _add_block(words, values, np.int64(used[0]), chrom, starts, edges, sums)
        if code != SOUND:
            return i, code
    return len(offsets), SOUND


@numba.njit(nogil=True, cache=True)
def _add_block(words, values, size, chrom, starts, edges, sums):
    """Add one inflated block to the bins of the windows that it touches; return SOUND, CORRUPT or NOT_FINITE.

    words, values: the block as uint32 and as float32; size: bytes. A block holds (start, end, value), or
    (start, value) of one span, or values alone at a fixed step; its 24-byte header says which.
    """
    if size < BLOCK_HEADER_BYTES:
        return CORRUPT
    block_start, step, span = np.int64(words[1]), np.int64(words[3]), np.int64(words[4])
    kind, count = words[5] & 0xFF, np.int64(words[5] >> 16)
    if kind < 1 or kind > 3 or size < 24 + count * 4 * (4 - np.int64(kind)):
        return CORRUPT
    if count == 0:
        return SOUND  # pyBigWig writes such a block behind one that became exactly full
    if words[0] != chrom:
        return SOUND  # a neighbour's block, which the index reaches for when it spans chromosomes
    length = edges[-1]
    first_start, _ = _item(words, 0, kind, block_start, step, span)
    _, block_end = _item(words, count - 1, kind, block_start, step, span)
    window = np.searchsorted(starts, first_start - length, side="right")
    item = 0
    while window < len(starts) and starts[window] < block_end:
        low = starts[window]
        item = _first_after(words, item, count, low, kind, block_start, step, span)
        here = sums[window]
        i, last = item, np.int64(-1)
        for k in range(len(edges) - 1):
            left, right = low + edges[k], low + edges[k + 1]
            reference, total, square, top, covered = here[k, 0], here[k, 1], here[k, 2], here[k, 3], here[k, 4]
            while i < count:
                begin, end = _item(words, i, kind, block_start, step, span)
                if begin >= right:
                    break
                if end <= begin or begin < last:
                    return CORRUPT  # empty, reversed, or overlapping intervals
                value = np.float64(values[6 + i * (4 - kind) + 3 - kind])
                if not np.isfinite(value):
                    return NOT_FINITE
                bases = np.float64(min(end, right) - max(begin, left))
                if covered == 0:
                    reference = top = value
                distance = value - reference
                total += distance * bases
                square += distance * distance * bases
                top = max(top, value)
                covered += bases
                if end > right:  # goes on in the next bin
                    break
                last = end
                i += 1
            here[k, 0], here[k, 1], here[k, 2], here[k, 3], here[k, 4] = reference, total, square, top, covered
            if i == count:
                break
        window += 1
    return SOUND


@numba.njit(nogil=True, cache=True, inline="always")
def _item(words, i, kind, block_start, step, span):
    """Return start and end (bp) of a block's i-th interval."""
    if kind == 1:
        return np.int64(words[6 + 3 * i]), np.int64(words[6 + 3 * i + 1])
    if kind == 2:
        begin = np.int64(words[6 + 2 * i])
    else:
        begin = block_start + i * step
    return begin, begin + span


@numba.njit(nogil=True, cache=True)
def _first_after(words, i, count, low, kind, block_start, step, span):
    """Return the first interval from the i-th on that ends after `low`, by halving without a branch to foresee."""
    left = count - i
    while left > 0:
        half = (left + 1) // 2
        i += half * (_item(words, i + half - 1, kind, block_start, step, span)[1] <= low)
        left -= half
    return i
