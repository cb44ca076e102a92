"""The Merkle tree: its shape against one built recursively here, any leaf checked alone, goldens."""

import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from intellectd.kernels.digest import (
    LEAF_BYTES,
    STATE_DOMAIN,
    UPDATE_DOMAIN,
    DigestError,
    leaf_hash,
    leaf_hashes,
    merkle_path,
    merkle_root,
    root_from_path,
    state_digest,
    state_leaves,
    state_root,
    update_root,
)
from tests.kernels.vectors import raw_bytes, tame


def leaves_of(count: int) -> list[bytes]:
    return [blake3(bytes([i])).digest() for i in range(count)]


def recursive_top(leaves: list[bytes]) -> bytes:
    """Split at the largest power of two below the length: promoting odd nodes gives this tree."""
    if len(leaves) == 1:
        return leaves[0]
    cut = 1 << (len(leaves) - 1).bit_length() - 1
    return blake3(b"\x01" + recursive_top(leaves[:cut]) + recursive_top(leaves[cut:])).digest()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 13, 64, 65])
def test_root_is_that_of_the_recursive_tree(count: int) -> None:
    """SPEC K8."""
    leaves = leaves_of(count)
    assert merkle_root(leaves, b"d") == blake3(b"d" + count.to_bytes(8, "little") + recursive_top(leaves)).digest()


@given(st.integers(1, 70), st.data())
def test_any_leaf_alone_leads_to_the_root(count: int, data: st.DataObject) -> None:
    leaves = leaves_of(count)
    index = data.draw(st.integers(0, count - 1))
    path, root = merkle_path(leaves, index), merkle_root(leaves, b"d")
    assert root_from_path(leaves[index], index, count, path, b"d") == root
    assert root_from_path(blake3(b"forged").digest(), index, count, path, b"d") != root
    if count > 1:
        other = data.draw(st.integers(0, count - 1).filter(lambda other: other != index))
        wrong = [leaves[index], other, count, path, b"d"]
        try:
            assert root_from_path(*wrong) != root  # type: ignore[arg-type]
        except DigestError:
            assert len(merkle_path(leaves, other)) != len(path)
        with pytest.raises(DigestError, match="too short"):
            root_from_path(leaves[index], index, count, path[:-1], b"d")
    with pytest.raises(DigestError, match="too long"):
        root_from_path(leaves[index], index, count, [*path, leaves[0]], b"d")


def test_any_piece_of_a_state_is_checked_alone() -> None:
    theta, momentum = raw_bytes(1, 2 * LEAF_BYTES + 1024), raw_bytes(2, 2 * LEAF_BYTES + 1024)
    leaves = state_leaves(theta, momentum)
    assert len(leaves) == 6
    assert state_root(leaves) == state_digest(theta, momentum)
    for at, leaf in zip((0, LEAF_BYTES, 2 * LEAF_BYTES), leaves[3:], strict=True):
        piece = momentum[at : at + LEAF_BYTES]
        assert leaf_hash(piece) == leaf
        piece[-1] ^= 1
        assert leaf_hash(piece) != leaf


def test_what_is_bound() -> None:
    leaves = leaves_of(4)
    roots = [
        merkle_root(leaves, STATE_DOMAIN),
        merkle_root(leaves, UPDATE_DOMAIN),
        merkle_root(leaves[::-1], STATE_DOMAIN),
        merkle_root(leaves[:3], STATE_DOMAIN),
        merkle_root([recursive_top(leaves[:2]), recursive_top(leaves[2:])], STATE_DOMAIN),  # nodes as leaves
    ]
    assert len(roots) == len(dict.fromkeys(roots))
    x, y = tame(1, 256), tame(2, 256)
    assert state_digest(x, y) != state_digest(y, x)


def test_golden_digests() -> None:
    """These bits are the protocol: a change here makes every record and snapshot unprovable."""
    theta, momentum = raw_bytes(1, LEAF_BYTES + 512), raw_bytes(2, LEAF_BYTES + 512)
    assert state_digest(theta, momentum).hex() == "f6784f75b5acb53a22de5500432f04f40f59f4b6896cd63d17035160fc2c85ae"
    assert update_root(theta).hex() == "428aa67269866650d1a94d8aff29fa55f2fcce3e410499804e9e513d2f931bca"
    assert leaf_hash(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def test_threads_change_no_hash() -> None:
    data = raw_bytes(3, 4096) * (33 * LEAF_BYTES // 4096)
    assert leaf_hashes(data, threads=2) == leaf_hashes(data)
    assert update_root(data, threads=2) == update_root(data)


def test_tensors_and_buffers_are_the_same_bytes() -> None:
    x = tame(1, 512)
    raw = x.numpy().tobytes()
    assert leaf_hashes(x) == leaf_hashes(raw) == leaf_hashes(memoryview(raw)) == leaf_hashes(bytearray(raw))
    assert leaf_hashes(torch.empty(0)) == []


@pytest.mark.parametrize(
    ("attempt", "complaint"),
    [
        (lambda: merkle_root([], b"d"), "1 to 8388608 leaves, not 0"),
        (lambda: update_root(b""), "leaves, not 0"),
        (lambda: merkle_root([b"short"], b"d"), "32 bytes, not 5"),
        (lambda: merkle_root(leaves_of(2), b""), "a domain is not empty"),
        (lambda: merkle_root(leaves_of(2), b"\x01x"), "does not begin like a node"),
        (lambda: state_leaves(b"a", b"ab"), "differ in length"),
        (lambda: merkle_path(leaves_of(2), 2), "no leaf 2 among 2"),
        (lambda: root_from_path(bytes(32), -1, 2, [bytes(32)], b"d"), "no leaf -1"),
        (lambda: root_from_path(bytes(32), 0, 2**64, [], b"d"), "leaves, not 18446744073709551616"),
        (lambda: root_from_path(bytes(32), 0, 2, [b""], b"d"), "32 bytes, not 0"),
    ],
)
def test_refused(attempt: object, complaint: str) -> None:
    assert callable(attempt)
    with pytest.raises(DigestError, match=complaint):
        attempt()
