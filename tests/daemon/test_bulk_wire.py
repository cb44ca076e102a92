"""daemon/bulk/wire.py: what is written is read back, and any other bytes give WireError. SPEC D2."""

import contextlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intellectd.daemon.bulk import wire
from intellectd.daemon.bulk.errors import WireError
from intellectd.daemon.bulk.limits import OBJECT_NAME_BYTES_MAX, REQUEST_BYTES_MAX, WIRES_LISTED_MAX
from intellectd.daemon.bulk.sealed import WIRE_ID_BYTES
from intellectd.daemon.bulk.wire import ChannelRequest, GetRequest, Header, Kind

RANGES = st.integers(0, wire.LENGTH_MAX)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=100)
WIRES = st.lists(st.binary(min_size=WIRE_ID_BYTES, max_size=WIRE_ID_BYTES), max_size=WIRES_LISTED_MAX).map(tuple)
VALID = st.one_of(st.builds(ChannelRequest, WIRES, st.booleans()), st.builds(GetRequest, NAMES, RANGES, RANGES))


def framed(body: object) -> bytes:
    raw: bytes = msgpack.packb(body)
    return raw


@given(VALID)
def test_requests_come_back(request: ChannelRequest | GetRequest) -> None:
    raw = wire.encode_request(request)
    prefix, body = raw[: wire.REQUEST_PREFIX.size], raw[wire.REQUEST_PREFIX.size :]
    assert wire.request_length(prefix) == len(body)
    assert wire.decode_request(body) == request


@given(st.binary(max_size=REQUEST_BYTES_MAX))
def test_any_bytes_are_a_request_or_a_wire_error(raw: bytes) -> None:
    with contextlib.suppress(WireError):
        wire.decode_request(raw)


SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary() | NAMES


@given(st.dictionaries(st.sampled_from(["v", "op", "wires", "sealed", "object", "offset", "length", "x"]), SCALARS))
def test_any_map_is_a_request_or_a_wire_error(body: dict[str, object]) -> None:
    for named in ({}, {"v": 1, "op": "get"}, {"v": 1, "op": "channel"}):
        try:
            request = wire.decode_request(framed(body | named))
        except WireError:
            continue
        assert isinstance(request, ChannelRequest | GetRequest) and body | named == body | {
            "v": 1,
            "op": (body | named)["op"],
        }


@pytest.mark.parametrize(
    "body",
    [
        {"v": 1, "op": "channel", "wires": [b"short"], "sealed": True},
        {"v": 1, "op": "channel", "wires": b"not a list", "sealed": True},
        {"v": 1, "op": "channel", "wires": [], "sealed": 1},
        {"v": 1, "op": "channel", "wires": [bytes(WIRE_ID_BYTES)] * (WIRES_LISTED_MAX + 1), "sealed": True},
        {"v": 1, "op": "put", "object": "x", "offset": 0, "length": 1},
        {"v": 1, "op": "get", "object": "x", "offset": -1, "length": 1},
        {"v": 1, "op": "get", "object": "x", "offset": 0, "length": -1},
        {"v": 1, "op": "get", "object": "x", "offset": 0, "length": 2**63},
        {"v": 1, "op": "get", "object": "x", "offset": 0.0, "length": 1},
        {"v": 1, "op": "get", "object": "", "offset": 0, "length": 1},
        {"v": 1, "op": "get", "object": "x" * (OBJECT_NAME_BYTES_MAX + 1), "offset": 0, "length": 1},
        {"op": "channel", "wires": [], "sealed": True},
        {"v": 1, "op": "channel", "wires": []},
        {"v": 1, "op": "channel", "wires": [], "sealed": 1},
        {"v": 1, "op": "channel", "wires": {}, "sealed": True},
        {"v": 1, "op": "channel", "wires": [b"seven b"], "sealed": True},
        {"v": 1, "op": "channel", "wires": ["eight by"], "sealed": True},
        {"v": 1, "op": "channel", "wires": [b"w" * 8] * (WIRES_LISTED_MAX + 1), "sealed": True},
        [1, 2, 3],
    ],
)
def test_requests_of_the_wrong_form_are_refused(body: object) -> None:
    with pytest.raises(WireError):
        wire.decode_request(framed(body))


def test_another_version_is_named() -> None:
    with pytest.raises(WireError, match="version 2; this host speaks 1"):
        wire.decode_request(framed({"v": 2, "op": "channel", "wires": [], "sealed": True}))


def test_a_request_as_long_as_memory_is_refused_by_its_length() -> None:
    with pytest.raises(WireError, match="at most 1024"):
        wire.request_length(b"\xff\xff")
    with pytest.raises(WireError):
        wire.request_length(b"\0\0")


def test_an_object_name_that_does_not_fit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="1 to 512 bytes"):
        wire.encode_request(GetRequest("x" * 513, 0, 1))


@given(st.builds(Header, st.sampled_from(Kind), st.integers(0, 255), RANGES))
def test_headers_come_back(header: Header) -> None:
    assert wire.decode_header(wire.encode_header(header)) == header


@given(st.binary(min_size=wire.HEADER_BYTES, max_size=wire.HEADER_BYTES))
def test_any_header_is_known_or_a_wire_error(raw: bytes) -> None:
    try:
        wire.decode_header(raw)
    except WireError:
        assert raw[0] not in list(Kind)
