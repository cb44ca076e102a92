"""The run id: what is copied by hand must not lead elsewhere when a character is wrong. SPEC I*."""

import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intellectd.protocol import run_id
from intellectd.protocol.run_id import BadRunId

GOOD = run_id.from_manifest_hash(bytes(range(32)))


def test_there_and_back() -> None:
    """SPEC I3."""
    assert len(GOOD) == 39 and GOOD.startswith("rn1")
    assert run_id.parse(GOOD) == bytes(range(20))
    assert run_id.parse(f"  {GOOD.upper()}\n") == bytes(range(20))


def test_the_public_name_does_not_tell_the_secret_one() -> None:
    """SPEC I4: the key is a hash; equal ids have equal keys."""
    assert run_id.run_key(GOOD) == run_id.run_key(GOOD.upper()) and len(run_id.run_key(GOOD)) == 32
    assert run_id.parse(GOOD) not in run_id.run_key(GOOD)


def test_the_public_name_does_not_tell_what_admits() -> None:
    """SPEC I6: by hand, so that another implementation can agree."""
    assert run_id.run_secret(GOOD) == hashlib.sha256(b"intellectd/1/run-secret\0" + bytes(range(20))).digest()
    assert run_id.run_secret(GOOD) == run_id.run_secret(f" {GOOD.upper()}") != run_id.run_key(GOOD)


def test_every_single_typo_is_noticed() -> None:
    """SPEC I3: each place, each other character."""
    for at in range(len(GOOD)):
        for other in string.ascii_lowercase + string.digits:
            if other != GOOD[at]:
                with pytest.raises(BadRunId):
                    run_id.parse(GOOD[:at] + other + GOOD[at + 1 :])


def test_neighbours_swapped_are_noticed() -> None:
    for at in range(3, len(GOOD) - 1):
        swapped = GOOD[:at] + GOOD[at + 1] + GOOD[at] + GOOD[at + 2 :]
        if swapped != GOOD:
            with pytest.raises(BadRunId):
                run_id.parse(swapped)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "one starts with 'rn1'"),
        ("hello", "one starts with 'rn1'"),
        (GOOD[:-1], "has 39 characters, this one 38"),
        (GOOD + "a", "has 39 characters, this one 40"),
        (GOOD[:10] + "é" + GOOD[11:], "mistyped"),
        (GOOD[:-1] + "0", "mistyped"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(BadRunId) as refused:
        run_id.parse(text)
    assert says in str(refused.value)


@given(st.text(max_size=60))
def test_any_text_is_an_id_or_refused(text: str) -> None:
    with pytest.raises(BadRunId):
        run_id.parse(text)


@given(st.binary(min_size=32, max_size=32))
def test_every_hash_has_an_id(digest: bytes) -> None:
    assert run_id.parse(run_id.from_manifest_hash(digest)) == digest[:20]
