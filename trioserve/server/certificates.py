"""TLS for servers from certificate files, as a context that an address takes."""

from __future__ import annotations

import ssl
from pathlib import Path

from trioserve.core.errors import ConfigError


def tls_context(
    certificate: str | Path, key: str | Path | None = None, *, password: str | bytes | None = None
) -> ssl.SSLContext:
    """A context for `TcpAddress(..., tls=...)`: TLS 1.2 and 1.3, and HTTP/1.1 by ALPN.

    The files are read now. It is an `ssl.SSLContext` like any other: to ask for client certificates, say, or to choose
    another certificate by the name that is asked for, use its own methods.

    Args:
        certificate: a PEM file: the server's certificate, and behind it the intermediate ones.
        key: a PEM file with its private key; None if that is in the same file.
        password: the key's, if it is encrypted.

    Raises:
        ConfigError: a file cannot be read or is not what it should be; the message says which, and what to do.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client that may ask for new handshakes on one connection can make us compute for nothing.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    certificate, key = Path(certificate), Path(key or certificate)
    _insist_on(certificate, "CERTIFICATE-----", "certificate in PEM form")
    _insist_on(key, "PRIVATE KEY-----", "private key in PEM form")
    try:
        context.load_cert_chain(certificate, key, _no_password if password is None else password)
    except _PasswordWanted:
        raise ConfigError(
            f"the key in {key} is encrypted; give tls_context its password, or decrypt the file"
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"the key in {key} is not that of the first certificate in {certificate}") from None
        if password is not None:
            raise ConfigError(f"the key in {key} cannot be read; is the password right?") from None
        raise ConfigError(f"cannot load {certificate} with {key}: one of the two is damaged, or too weak") from None
    return context


class _PasswordWanted(Exception):
    pass


def _no_password() -> str:
    """Instead of OpenSSL's asking at the terminal."""
    raise _PasswordWanted


def _insist_on(path: Path, label: str, what: str) -> None:
    """See to it that the file can be read and has what it should: OpenSSL's errors say neither what nor in which."""
    try:
        text = path.read_text("ascii", errors="replace")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if label not in text:
        raise ConfigError(f"there is no {what} in {path}")
