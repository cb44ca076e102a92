"""Peer ids: the text form of an Ed25519 public key, as libp2p writes it.

Owns the conversion both ways. Refuses to know private keys. A peer id is base58btc of an identity multihash
of the key's protobuf: 00 24 (identity, 36 bytes) 08 01 (type Ed25519) 12 20 (data, 32 bytes) and the key.
"""

import base58

PUBLIC_KEY_BYTES = 32
PEER_ID_CHARS_MAX = 52  # 38 bytes in base58, always
_PREFIX = bytes.fromhex("002408011220")


class PeerIdError(ValueError):
    """The text is no peer id of an Ed25519 key."""


def peer_id_of_public_key(public_key: bytes) -> str:
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise PeerIdError(f"an Ed25519 public key has {PUBLIC_KEY_BYTES} bytes, got {len(public_key)}")
    text: str = base58.b58encode(_PREFIX + public_key).decode("ascii")
    return text


def public_key_of_peer_id(peer_id: str) -> bytes:
    """Raises PeerIdError on anything else; hostile text is bounded before it is decoded."""
    if len(peer_id) > PEER_ID_CHARS_MAX:
        raise PeerIdError(f"a peer id has {PEER_ID_CHARS_MAX} characters, got {len(peer_id)}")
    try:
        raw: bytes = base58.b58decode(peer_id)
    except ValueError as error:
        raise PeerIdError(f"{peer_id!r} is not base58: {error}") from error
    if len(raw) != len(_PREFIX) + PUBLIC_KEY_BYTES or not raw.startswith(_PREFIX):
        raise PeerIdError(f"{peer_id!r} is not the id of an Ed25519 key (they start with 12D3Koo)")
    return raw[len(_PREFIX) :]
