"""TFRecord: the framing of records and the wire format of tf.train.Example, without TensorFlow.

A record is its length (uint64), the masked CRC-32C of that, the payload, and the payload's masked CRC-32C, all
little-endian (tensorflow/core/lib/io/record_writer.h). The payload is a protocol-buffers message
(tensorflow/core/example/example.proto): Example{1: Features{1: repeated entry{1: name, 2: Feature}}}, Feature
being one of {1: BytesList, 2: FloatList, 3: Int64List}, each with its values in field 1, numbers packed.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

from chromacc_lib import ChromaccError

__all__ = ["decode_example", "encode_example", "masked_crc32c", "read_records", "write_record"]

MASK_DELTA = 0xA282EAD8
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types

Feature = bytes | np.ndarray  # bytes; float32 or any integer array, flat or not


# --- records ------------------------------------------------------------------------------------------------
def masked_crc32c(data: bytes) -> int:
    """Return TFRecord's checksum: CRC-32C (Castagnoli), rotated right by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & 0xFFFFFFFF


def write_record(handle: BinaryIO, data: bytes) -> None:
    """Append one record."""
    length = struct.pack("<Q", len(data))
    handle.write(length + struct.pack("<I", masked_crc32c(length)))
    handle.write(data + struct.pack("<I", masked_crc32c(data)))


def read_records(path: str | Path) -> Iterator[bytes]:
    """Yield each record's payload. Raises ChromaccError where the file is cut, or a checksum does not fit."""
    with open(path, "rb") as handle:
        for number in range(1, 1 << 62):
            header = handle.read(12)
            if not header:
                return
            _require(path, number, len(header) == 12 and _fits(header[:8], header[8:]), "the length")
            (length,) = struct.unpack("<Q", header[:8])
            body = handle.read(length + 4)
            _require(path, number, len(body) == length + 4 and _fits(body[:-4], body[-4:]), "the payload")
            yield body[:-4]


def _fits(data: bytes, checksum: bytes) -> bool:
    return struct.pack("<I", masked_crc32c(data)) == checksum


def _require(path: str | Path, number: int, holds: bool, what: str) -> None:
    if not holds:
        raise ChromaccError(f"{path}, record {number}: {what} is cut, or does not fit its CRC-32C; needed "
                            "whole records. Export it again")


# --- Example: writing ---------------------------------------------------------------------------------------
def encode_example(features: Mapping[str, Feature]) -> bytes:
    """Return the bytes of an Example. features: {name: bytes, float32 array, or integer or bool array}.

    Arrays are written flat, in C order; features in the mapping's order, so that equal input gives equal bytes.
    """
    entries = (_field(1, name.encode()) + _field(2, _feature(value)) for name, value in features.items())
    return _field(1, b"".join(_field(1, entry) for entry in entries))


def _feature(value: Feature) -> bytes:
    if isinstance(value, bytes):
        return _field(1, _field(1, value))
    if value.dtype.kind == "f":
        return _field(2, _field(1, np.ascontiguousarray(value, dtype="<f4").tobytes()))
    return _field(3, _field(1, _packed_varints(value.ravel())))


def _field(number: int, data: bytes) -> bytes:
    """Return a length-delimited field."""
    return _varint(number << 3 | BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    """Return 7 bits a byte, the lowest first, the top bit set but in the last; below zero: as uint64."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _packed_varints(values: np.ndarray) -> bytes:
    """Return varints side by side; where all are from 0 to 127, each is its own byte."""
    if values.size and (values.dtype == bool or (values.min() >= 0 and values.max() <= 0x7F)):
        return values.astype(np.uint8).tobytes()
    return b"".join(_varint(int(value)) for value in values)


# --- Example: reading ---------------------------------------------------------------------------------------
def decode_example(data: bytes) -> dict[str, Feature]:
    """Return {name: bytes, float32 array or int64 array} of an Example, arrays flat.

    Reads packed numbers and single ones, whoever wrote them; of a BytesList the first value. Raises
    ChromaccError for bytes that are no Example.
    """
    try:
        entries = [entry for features in _values(data, 1) for entry in _values(features, 1)]
        return {_values(entry, 1)[0].decode(): _decode_feature(_values(entry, 2)[0]) for entry in entries}
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ChromaccError(f"a record of {len(data)} bytes is no tf.train.Example ({error}); read a file of "
                            "Examples") from error


def _decode_feature(data: bytes) -> Feature:
    (kind, _, content), = _fields(data)
    if kind == 1:
        return _values(content, 1)[0]
    parts = [(wire, value) for number, wire, value in _fields(content) if number == 1]
    if kind == 2:
        return np.frombuffer(b"".join(value for _, value in parts), dtype="<f4")
    numbers = [n for wire, value in parts for n in (_varints(value) if wire == BYTES else [value])]
    return np.array(numbers, dtype=np.uint64).astype(np.int64)


def _values(data: bytes, wanted: int) -> list[bytes]:
    return [value for number, _, value in _fields(data) if number == wanted]


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes | int]]:
    """Yield (number, wire type, value) of a message's fields; a varint's value is an int."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        wire = key & 7
        if wire == VARINT:
            value, at = _read_varint(data, at)
        else:
            size, at = _read_varint(data, at) if wire == BYTES else ({FIXED64: 8, FIXED32: 4}.get(wire, -1), at)
            if size < 0 or at + size > len(data):
                raise ValueError(f"field {key >> 3} of wire type {wire} runs past byte {len(data)}")
            value, at = data[at:at + size], at + size
        yield key >> 3, wire, value


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError(f"a number of more than 10 bytes before byte {at}")


def _varints(data: bytes) -> list[int]:
    if data and max(data) < 0x80:
        return list(data)
    numbers, at = [], 0
    while at < len(data):
        value, at = _read_varint(data, at)
        numbers.append(value)
    return numbers
