"""daemon/bulk/ring.py: the schedule, checked by walking chunks around rings of every small size."""

import itertools

import pytest

from intellectd.daemon.bulk.ring import (
    CHUNK_ELEMENTS,
    cut_chunks,
    hops_received,
    hops_sent,
    is_final,
    last_hop,
    slice_elements,
    starter,
)
from intellectd.kernels.codec import CODECS, GROUP, codec_by_name

SIZES = (256, GROUP - 256, GROUP, GROUP + 256, 5 * GROUP, 40 * GROUP + 512, 3 * CHUNK_ELEMENTS)


@pytest.mark.parametrize("members", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("elements", SIZES)
def test_slices_cover_the_vector_and_are_cut_at_groups(members: int, elements: int) -> None:
    slices = [slice_elements(elements, members, owner) for owner in range(members)]
    assert slices[0][0] == 0 and slices[-1][1] == elements
    assert all(left[1] == right[0] for left, right in itertools.pairwise(slices))
    assert all(first % GROUP == 0 or first == elements for first, _last in slices)
    groups = [-(-(last - first) // GROUP) for first, last in slices]
    assert max(groups) - min(groups) <= 1


@pytest.mark.parametrize("name", sorted(CODECS))
@pytest.mark.parametrize("elements", SIZES)
def test_chunks_cover_the_bytes_in_order(name: str, elements: int) -> None:
    codec = codec_by_name(name)
    chunks = cut_chunks(codec, elements, 3)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert chunks[0].start == 0 and chunks[-1].stop == codec.encoded_bytes(elements)
    assert all(left.stop == right.start for left, right in itertools.pairwise(chunks))
    assert all(0 < chunk.size <= 16 * codec.group_bytes for chunk in chunks)


@pytest.mark.parametrize("members", [2, 3, 4, 7])
def test_every_hop_is_sent_by_one_member_and_expected_by_its_right_neighbour(members: int) -> None:
    for owner in range(members):
        for hop in range(last_hop(members) + 1):
            senders = [me for me in range(members) if hop in hops_sent(me, owner, members)]
            receivers = [me for me in range(members) if hop in hops_received(me, owner, members)]
            assert senders == [(owner + 1 + hop) % members]
            assert receivers == [(senders[0] + 1) % members]


@pytest.mark.parametrize("members", [2, 3, 4, 7])
def test_a_chunk_gathers_every_part_once_and_its_result_reaches_all(members: int) -> None:
    for owner in range(members):
        at, parts, has_result = starter(owner, members), [starter(owner, members)], []
        for hop in range(last_hop(members) + 1):
            at = (at + 1) % members
            if is_final(hop, members):
                has_result.append(at)
            else:
                parts.append(at)
                assert (at == owner) == (hop == members - 2)  # the owner's is the last part
        assert sorted(parts) == list(range(members))
        assert sorted([*has_result, owner]) == list(range(members))


@pytest.mark.parametrize("members", [2, 3, 4, 7])
def test_a_result_never_comes_before_the_partial_sum_it_overwrites_has_left(members: int) -> None:
    for owner in range(members):
        for me in range(members):
            result = [hop for hop in hops_received(me, owner, members) if is_final(hop, members)]
            assert all(hops_sent(me, owner, members)[0] < hop for hop in result)


def test_a_ring_of_one_has_no_hops() -> None:
    assert hops_sent(0, 0, 1) == hops_received(0, 0, 1) == ()
