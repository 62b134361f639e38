"""A TLS context from files: what it is set to, and what is said of files that are none."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from tests.support.tls import authority, certificate, write_certificate
from trioserve import ConfigError, OpenSocket, TcpAddress, tls_context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a certificate and its key, alone and together, and with what is neither."""
    directory = tmp_path_factory.mktemp("files")
    _, key = write_certificate(directory)
    certificate().private_key_and_cert_chain_pem.write_to_path(directory / "both.pem")
    authority().issue_cert("other").private_key_pem.write_to_path(directory / "other.pem")
    encrypt = ["openssl", "pkcs8", "-topk8", "-in", key, "-out", directory / "encrypted.pem", "-passout", "pass:secret"]
    subprocess.run(encrypt, check=True)
    (directory / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (directory / "words.pem").write_text("hello")
    (directory / "binary.pem").write_bytes(bytes(range(256)))
    return directory


def test_a_context_speaks_http_1_1_over_tls_1_2_and_1_3(files):
    context = tls_context(files / "certificate.pem", files / "key.pem")

    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize("of", [str, Path])
def test_the_key_may_be_in_the_certificates_file(files, of):
    assert tls_context(of(files / "both.pem"))


@pytest.mark.parametrize("password", ["secret", b"secret"])
def test_a_key_may_be_encrypted(files, password):
    assert tls_context(files / "certificate.pem", files / "encrypted.pem", password=password)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("missing.pem",), r"cannot read .*missing\.pem: No such file"),
        (("certificate.pem", "missing.pem"), r"cannot read .*missing\.pem: No such file"),
        ((".",), "cannot read .*: Is a directory"),
        (("certificate.pem",), r"no private key in PEM form in .*certificate\.pem"),
        (("key.pem", "certificate.pem"), r"no certificate in PEM form in .*key\.pem"),
        (("words.pem", "key.pem"), r"no certificate in PEM form in .*words\.pem"),
        (("certificate.pem", "binary.pem"), r"no private key in PEM form in .*binary\.pem"),
        (("certificate.pem", "other.pem"), r"other\.pem is not that of the first certificate in .*certificate\.pem"),
        (("broken.pem", "key.pem"), r"cannot load .*broken\.pem with .*key\.pem"),
        (("certificate.pem", "encrypted.pem"), r"encrypted\.pem is encrypted; give tls_context its password"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(files, names, words):
    with pytest.raises(ConfigError, match=words):
        tls_context(*(files / name for name in names))


def test_a_wrong_password_is_said_to_be_one(files):
    with pytest.raises(ConfigError, match=r"encrypted\.pem cannot be read; is the password right"):
        tls_context(files / "certificate.pem", files / "encrypted.pem", password="wrong")


@pytest.mark.parametrize("make", [lambda tls: TcpAddress("127.0.0.1", 0, tls=tls), lambda tls: OpenSocket(3, tls=tls)])
@pytest.mark.parametrize("tls", [True, "certificate.pem", ssl.create_default_context()])
def test_an_address_takes_no_other_thing_for_a_context(make, tls):
    with pytest.raises(ConfigError, match=r"tls is .*make one with tls_context\(certificate, key\)"):
        make(tls)


def test_an_address_with_tls_is_written_as_such(files):
    context = tls_context(files / "both.pem")

    assert str(TcpAddress("::1", 8443, tls=context)) == "https://[::1]:8443"
