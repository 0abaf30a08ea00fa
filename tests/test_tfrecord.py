"""TFRecord: known checksums, an Example by hand, bytes back and forth, and faults that are found."""

import struct

import google_crc32c
import numpy as np
import pytest

from chromacc_lib import ChromaccError
from chromacc_lib.tfrecord import decode_example, encode_example, masked_crc32c, read_records, write_record

# Example{label: int64 [1, -1], n: float [0.5], s: bytes "AC"}, written down field by field
BY_HAND = bytes.fromhex(
    "0a 39"                                                    # features, 57 bytes
    "0a 18  0a 05 6c6162656c  12 0f 1a 0d 0a 0b 01 ffffffffffffffffff01"  # "label": int64_list, packed 1, -1
    "0a 0d  0a 01 6e          12 08 12 06 0a 04 0000003f"      # "n": float_list, packed 0.5
    "0a 0e  0a 04 74657874    12 06 0a 04 0a 02 4143")         # "text": bytes_list, "AC"


@pytest.mark.parametrize("data, crc", [  # RFC 3720, appendix B.4, and the check value of the algorithm
    (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C), (b"123456789", 0xE3069283), (b"", 0),
])
def test_crc32c_of_known_vectors(data, crc):
    assert google_crc32c.value(data) == crc
    assert masked_crc32c(data) == ((crc >> 15 | crc << 17) + 0xA282EAD8) % (1 << 32)


def test_an_example_by_hand():
    features = {"label": np.array([1, -1], np.int8), "n": np.array([[0.5]], np.float32), "text": b"AC"}
    assert encode_example(features) == BY_HAND
    back = decode_example(BY_HAND)
    assert back["label"].tolist() == [1, -1] and back["n"].tolist() == [0.5] and back["text"] == b"AC"


def test_numbers_written_one_by_one_are_read_too():
    single = bytes.fromhex("0a 19 0a 17 0a 01 78 12 12 1a 10 08 05 08 ac02 08 ffffffffffffffffff01")
    assert decode_example(single)["x"].tolist() == [5, 300, -1]
    floats = bytes.fromhex("0a 13 0a 11 0a 01 78 12 0c 12 0a 0d 0000003f 0d 000080bf")
    assert decode_example(floats)["x"].tolist() == [0.5, -1.0]


@pytest.mark.parametrize("values", [
    np.array([0, 127, 128, 16_384, 2**63 - 1, -(2**63), -1]), np.arange(-3, 300, dtype=np.int16),
    np.array([True, False, True]), np.array([np.nan, np.inf, -0.0, 1e-45], np.float32), np.zeros(0, np.int64),
])
def test_back_and_forth(values):
    (back,) = decode_example(encode_example({"x": values})).values()
    assert back.astype(values.dtype).tobytes() == values.tobytes()


def test_records_have_the_framing_of_the_format(tmp_path):
    with open(tmp_path / "r", "wb") as handle:
        write_record(handle, b"123456789")
        write_record(handle, b"")
    data = (tmp_path / "r").read_bytes()
    length, crc_length = struct.unpack("<QI", data[:12])
    (crc,) = struct.unpack("<I", data[21:25])
    assert length == 9 and data[12:21] == b"123456789" and len(data) == 25 + 16
    assert crc == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % (1 << 32)
    assert crc_length == masked_crc32c(struct.pack("<Q", 9))
    assert list(read_records(tmp_path / "r")) == [b"123456789", b""]


@pytest.mark.parametrize("at", [0, 9, 15, 23])
def test_a_flipped_bit_is_found(tmp_path, at):
    with open(tmp_path / "r", "wb") as handle:
        write_record(handle, b"123456789")
    data = bytearray((tmp_path / "r").read_bytes())
    data[at] ^= 4
    (tmp_path / "r").write_bytes(data)
    with pytest.raises(ChromaccError, match="record 1: the (length|payload) is cut, or does not fit its CRC"):
        list(read_records(tmp_path / "r"))


@pytest.mark.parametrize("size", [5, 12, 20, 24])
def test_a_cut_file_is_found(tmp_path, size):
    with open(tmp_path / "r", "wb") as handle:
        write_record(handle, b"123456789")
    (tmp_path / "r").write_bytes((tmp_path / "r").read_bytes()[:size])
    with pytest.raises(ChromaccError, match="record 1"):
        list(read_records(tmp_path / "r"))


@pytest.mark.parametrize(
    "data", [b"\x0a\xff", b"\x0a\x03\x0a\x01\x08", b"\x80" * 12, b"\x08\x01", BY_HAND[:-1]])
def test_bytes_that_are_no_example_are_refused(data):
    with pytest.raises(ChromaccError, match="no tf.train.Example"):
        assert decode_example(data) is None
