"""Key files: made once, private, and never overwritten, whatever is found in their place."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from intellectd.daemon.atomic import FileExists
from intellectd.daemon.identity import Identity, IdentityError, IdentityPermission, OwnerKey, verify
from intellectd.daemon.peer_id import PeerIdError, peer_id_of_public_key, public_key_of_peer_id


def test_the_first_start_makes_a_private_key_and_the_next_finds_it(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    made = Identity.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    found = Identity.load_or_create(path)
    assert (found.peer_id, found.seed) == (made.peer_id, made.seed)


def test_the_peer_id_is_the_one_that_libp2p_gives_this_key() -> None:
    """SPEC I1."""
    seed = bytes(range(32))
    theirs = ID.from_pubkey(create_new_key_pair(seed).public_key).to_string()
    identity = Identity.from_seed(seed)
    assert identity.peer_id == theirs
    assert identity.seed == seed
    assert public_key_of_peer_id(identity.peer_id) == identity.public_key


def test_signatures_verify_against_the_peer_id_and_nothing_else() -> None:
    signer, other = Identity.generate(), Identity.generate()
    signature = signer.sign(b"message")
    assert len(signature) == 64
    assert verify(signer.peer_id, b"message", signature)
    assert not verify(signer.peer_id, b"massage", signature)
    assert not verify(other.peer_id, b"message", signature)
    assert not verify(signer.peer_id, b"message", signature[:-1])


@given(st.text(max_size=60), st.binary(max_size=70))
def test_verifying_is_total(peer_id: str, signature: bytes) -> None:
    assert verify(peer_id, b"message", signature) is False


@given(st.text(max_size=60))
def test_a_text_is_a_peer_id_or_a_peer_id_error(text: str) -> None:
    try:
        key = public_key_of_peer_id(text)
    except PeerIdError:
        return
    assert peer_id_of_public_key(key) == text


def _rsa() -> bytes:
    return generate_private_key(65537, 1024).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "identity key"),
        (b"garbage", "identity key"),
        (b"-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n-----END PRIVATE KEY-----\n", "identity key"),
        (_rsa(), "RSAPrivateKey"),
        (b"x" * 5000, "more than 4096 bytes"),
    ],
)
def test_a_damaged_key_file_is_named_and_left_untouched(body: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(body)
    path.chmod(0o600)
    with pytest.raises(IdentityError, match=why) as caught:
        Identity.load_or_create(path)
    assert str(path) in caught.value.message
    assert "backup" in caught.value.hint
    assert caught.value.exit_code == 78
    assert path.read_bytes() == body
    assert os.listdir(tmp_path) == ["identity.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    Identity.create(path)
    path.chmod(mode)
    with pytest.raises(IdentityPermission, match=f"{mode:04o}") as caught:
        Identity.load(path)
    assert caught.value.hint == f"if nobody has, run `chmod 600 {path}`"
    assert caught.value.exit_code == 77


def test_a_folder_or_a_dangling_link_is_no_invitation_to_make_a_key(tmp_path: Path) -> None:
    (tmp_path / "folder.key").mkdir()
    (tmp_path / "link.key").symlink_to(tmp_path / "nowhere")
    for name in ("folder.key", "link.key"):
        with pytest.raises(IdentityError, match=name):
            Identity.load_or_create(tmp_path / name)
    assert not (tmp_path / "nowhere").exists()


def test_an_owner_key_is_of_the_same_form_and_says_what_its_loss_means(tmp_path: Path) -> None:
    """SPEC I2."""
    path = tmp_path / "owner.key"
    owner = OwnerKey.create(path)
    assert verify(owner.peer_id, b"manifest", OwnerKey.load(path).sign(b"manifest"))
    with pytest.raises(FileExists):
        OwnerKey.create(path)
    path.write_bytes(b"damaged")
    with pytest.raises(IdentityError, match="owner key") as caught:
        OwnerKey.load(path)
    assert "nobody can recover this run" in caught.value.hint


def test_a_key_never_shows_its_secret() -> None:
    identity = Identity.generate()
    assert identity.seed.hex() not in repr(identity)
    assert repr(identity) == f"Identity({identity.peer_id})"
