"""This process's TLS identity: a key that lives as long as the process, and contexts that pin others' certificates.

Owns the certificate, the private key and the TLS settings. Refuses to know addresses, and who is trusted: that
is `trust`. A certificate means nothing by itself; the signed beacon that carries it does.
"""

import datetime
import os
import ssl
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from intellectd.daemon.bulk.limits import CERTIFICATE_BYTES_MAX

ALPN = "intellectd-bulk/1"
# Pinned certificates must not depend on anybody's clock: the pin, not a date, says which one is good. A host without a
# battery begins in 1970, and may have no way to ask for the time.
NOT_BEFORE = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
NOT_AFTER = datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC)  # RFC 5280 4.1.2.5: "no expiration"


class Identity:
    """A fresh P-256 key and its self-signed certificate, whose common name is the peer id.

    The name keeps a peer from passing another's certificate off as its own in a beacon: see `claimed_by`.
    """

    def __init__(self, peer_id: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _self_signed(peer_id, key)
        self.certificate = certificate.public_bytes(serialization.Encoding.DER)
        # load_cert_chain wants a file, again for each new trust table: a memfd is one that no disk ever holds.
        self._pem_fd = os.memfd_create("bulk-identity", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(self._pem_fd), "wb") as pem:
            pem.write(
                key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
            )
            pem.write(certificate.public_bytes(serialization.Encoding.PEM))

    def context(self, server_side: bool, anchors: Iterable[bytes]) -> ssl.SSLContext:
        """TLS 1.3 only, both sides show a certificate, and exactly `anchors` (DER) are acceptable."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the pin says who it is; addresses change
        context.verify_mode = ssl.CERT_REQUIRED
        # A self-signed leaf is itself the anchor: partial chains allow it, strict checking (RFC 5280) would not.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.set_alpn_protocols([ALPN])
        if server_side:
            # A client that only writes would never read its tickets, and closing with them unread resets the
            # connection under data still on its way.
            context.num_tickets = 0
        context.load_cert_chain(f"/proc/self/fd/{self._pem_fd}")
        for der in anchors:
            context.load_verify_locations(cadata=der)
        return context

    def close(self) -> None:
        os.close(self._pem_fd)


def claimed_by(certificate: bytes) -> str:
    """The peer id in a certificate's name; ValueError or ssl.SSLError says why it is no usable certificate."""
    if len(certificate) > CERTIFICATE_BYTES_MAX:
        raise ValueError(f"a certificate of {len(certificate)} bytes; at most {CERTIFICATE_BYTES_MAX} are allowed")
    # Both parsers have to take it: one anchor that OpenSSL chokes on would spoil the context of all.
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificate)
    parsed = x509.load_der_x509_certificate(certificate)
    names = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1 or not isinstance(names[0].value, str):
        raise ValueError("a certificate needs one common name, the peer id")
    return names[0].value


def _self_signed(peer_id: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, peer_id)])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
