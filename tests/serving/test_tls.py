"""HTTPS with a certificate of one's own."""

import shutil
import ssl
import subprocess

import httpx
import pytest
from support.served import served

from flyweight.errors import UsageError
from flyweight.serving.options import ServeOptions


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-keyout", "key.pem", "-out", "certificate.pem", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


def test_https(certificate):
    options = ServeOptions(port=0, tls_certificate=certificate / "certificate.pem", tls_key=certificate / "key.pem")
    trust = ssl.create_default_context(cafile=str(certificate / "certificate.pem"))
    with served(options=options) as server:
        assert server.url.startswith("https://")
        assert httpx.get(f"{server.url}/health", verify=trust).status_code == 200


def test_clients_without_a_certificate_are_refused(certificate):
    options = ServeOptions(
        port=0,
        tls_certificate=certificate / "certificate.pem",
        tls_key=certificate / "key.pem",
        tls_client_ca=certificate / "certificate.pem",
    )
    trust = ssl.create_default_context(cafile=str(certificate / "certificate.pem"))
    with served(options=options) as server:
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.url}/health", verify=trust)
        trust.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
        assert httpx.get(f"{server.url}/health", verify=trust).status_code == 200


def test_options_that_contradict(certificate):
    with pytest.raises(UsageError, match="need tls_certificate"):
        ServeOptions(tls_key=certificate / "key.pem")
    with pytest.raises(UsageError, match="does not exist"):
        ServeOptions(tls_certificate=certificate / "other.pem")
