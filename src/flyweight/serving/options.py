"""Every option of the server. Flags, ``--config`` and environment variables derive from these fields."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flyweight.errors import UsageError
from flyweight.reporting.units import parse_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """How a server listens, whom it lets in, and how it ends.

    Raises:
        UsageError: when a value is outside its range.
    """

    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 for all of this machine."""

    port: int = 8000
    """The port to listen on; 0 takes a free one."""

    api_key: tuple[str, ...] = ()
    """A key that clients must send as ``Authorization: Bearer KEY`` (or x-api-key), or NAME=KEY, or
    NAME=sha256:DIGEST; may be given several times. Without one everybody who reaches the port is served."""

    api_key_file: Path | None = None
    """A file with one such key on each line; blank lines and lines that begin with # do not count."""

    admin_key: tuple[str, ...] = ()
    """A key, in the same forms, with which models may be loaded, unloaded and swapped at run time
    (/v1/admin/models). It opens everything else too. Without one those paths do not exist."""

    model_root: Path | None = None
    """The folder below which models may be loaded at run time; without it none may."""

    models_memory: str | None = None
    """Most memory that all models may take together, such as 8GB; a model that would take more is refused before it is
    loaded. By default what is free at the start."""

    allowed_host: tuple[str, ...] = ()
    """A name that clients may call the server by (the Host header); may be given several times. By default addresses,
    localhost and this machine's name without API keys, and any name with them."""

    lenient: bool = False
    """Answer requests with unknown parameters, and list these under ``warnings``, instead of refusing them."""

    embeddings: Literal["auto", "mean", "last", "off"] = "auto"
    """How /v1/embeddings pools the hidden states of a text: over all tokens, or the last one's; auto: as the files of
    an embedding model say, and refused for others."""

    drain_seconds: float = 30.0
    """Seconds that open answers get to end after SIGTERM."""

    log_format: Literal["line", "json"] = "line"
    """How the log is written."""

    request_log: bool = True
    """Write a line for each answer and each request that is refused or fails, without what it said."""

    otlp_endpoint: str | None = None
    """Where spans of requests are sent, such as http://collector:4318/v1/traces; needs the otel extra."""

    hide_cached_tokens: bool = False
    """Do not tell clients how many of a prompt's tokens were found in the cache."""

    tls_certificate: Path | None = None
    """A PEM file with the server's certificate chain; with it the server speaks HTTPS."""

    tls_key: Path | None = None
    """A PEM file with the certificate's private key, where that is not in the same file."""

    tls_key_password: str | None = None
    """The password of the private key."""

    tls_client_ca: Path | None = None
    """A PEM file with the authorities whose clients are let in; others are refused."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port={self.port} is out of range; choose 1 to 65535, or 0 for a free one")
        if not 0 <= self.drain_seconds <= 86400:
            raise UsageError(f"drain_seconds={self.drain_seconds} is out of range; choose 0 to 86400")
        if self.embeddings not in ("auto", "mean", "last", "off"):
            raise UsageError(f"embeddings={self.embeddings!r} is unknown; choose auto, mean, last or off")
        if self.log_format not in ("line", "json"):
            raise UsageError(f"log_format={self.log_format!r} is unknown; choose line or json")
        if self.model_root is not None and not self.model_root.is_dir():
            raise UsageError(f"model_root={str(self.model_root)!r} is no folder")
        if self.models_memory is not None:
            parse_bytes(self.models_memory)
        if self.tls_certificate is None and not (
            self.tls_key is None and self.tls_client_ca is None and self.tls_key_password is None
        ):
            raise UsageError("options of TLS need tls_certificate, the server's own certificate")
        for path in (self.api_key_file, self.tls_certificate, self.tls_key, self.tls_client_ca):
            if path is not None and not path.is_file():
                raise UsageError(f"the file {path} does not exist")
