"""Ed25519 keys on disk: the daemon's identity, and an owner's key of a run.

Owns the key files (PKCS8 PEM, mode 0600, made once, never overwritten) and signing with them. Refuses to
know what is signed, and to guess: a key file that is damaged or open to others stops the daemon.
"""

import stat
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from intellectd.daemon.atomic import write_new
from intellectd.daemon.errors import EXIT_CONFIG, EXIT_PERMISSION, OperatorError
from intellectd.daemon.peer_id import PeerIdError, peer_id_of_public_key, public_key_of_peer_id

KEY_FILE_BYTES_MAX = 4096  # an Ed25519 key in PKCS8 PEM has 119 bytes
SIGNATURE_BYTES = 64
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class IdentityError(OperatorError):
    """A key file that cannot be used. It was left untouched."""

    exit_code = EXIT_CONFIG


class IdentityPermission(IdentityError):
    """A key file that this user cannot read, or that others can."""

    exit_code = EXIT_PERMISSION


class Key:
    """A private key in memory: signs, and names itself by its peer id."""

    what = "key"
    remedy = "restore it from a backup"

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public_key: bytes = public
        self.peer_id: str = peer_id_of_public_key(public)

    @classmethod
    def generate(cls) -> Self:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def create(cls, path: Path) -> Self:
        """A new key in a new file. Raises FileExists rather than overwrite."""
        key = cls.generate()
        write_new(path, key._pem(), mode=0o600)
        return key

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(_parse(_read(path, cls), path, cls))

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        # lexists: a dangling link is somebody's mistake to be shown, not an invitation to make a new key.
        if path.exists() or path.is_symlink():
            return cls.load(path)
        return cls.create(path)

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes, for libraries that want the key themselves."""
        return self._private.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)

    def _pem(self) -> bytes:
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.peer_id})"


class Identity(Key):
    """Who this daemon is to its peers."""

    what = "identity key"
    remedy = "restore it from a backup, or move it away to start as a new peer"


class OwnerKey(Key):
    """Who may sign a run's manifest and its recovery. Apart from any daemon, so that it can be kept offline."""

    what = "owner key"
    remedy = "restore it from a backup; without it nobody can recover this run"


def verify(peer_id: str, message: bytes, signature: bytes) -> bool:
    """Whether the peer signed the message. Total on hostile input."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key_of_peer_id(peer_id)).verify(signature, message)
    except (InvalidSignature, PeerIdError, ValueError, TypeError):
        return False
    return True


def _read(path: Path, kind: type[Key]) -> bytes:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise IdentityError(f"{kind.what} {path} is not a file", kind.remedy)
        if mode & _OTHERS:
            raise IdentityPermission(
                f"{kind.what} {path} has mode {stat.S_IMODE(mode):04o}: others on this machine may read it",
                f"if nobody has, run `chmod 600 {path}`",
            )
        with path.open("rb") as file:
            return file.read(KEY_FILE_BYTES_MAX + 1)
    except PermissionError as error:
        raise IdentityPermission(
            f"{kind.what} {path} cannot be read: {error.strerror}",
            f"run the daemon as the file's owner, or `chown` {path} to its user",
        ) from error
    except OSError as error:
        raise IdentityError(f"{kind.what} {path} cannot be read: {error.strerror}", kind.remedy) from error


def _parse(pem: bytes, path: Path, kind: type[Key]) -> Ed25519PrivateKey:
    why = f": it has more than {KEY_FILE_BYTES_MAX} bytes" if len(pem) > KEY_FILE_BYTES_MAX else ""
    try:
        private = None if why else load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None  # the parser's own text speaks of its insides and links to its handbook
    if isinstance(private, Ed25519PrivateKey):
        return private
    if private is not None:
        why = f": it holds a {type(private).__name__}"
    raise IdentityError(f"{kind.what} {path} is no Ed25519 private key (PKCS8 PEM){why}", kind.remedy)
