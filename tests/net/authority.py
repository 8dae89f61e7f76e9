"""Certificates made for a test, and nginx that speaks TLS with them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.net.real_servers import RealServer, nginx


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority below ``place`` that made a certificate for a server and one for a client."""

    place: Path

    @classmethod
    def found(cls, place: Path) -> Authority:
        """Make one, with openssl."""
        place.mkdir()
        new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        run = {"check": True, "capture_output": True, "cwd": place}
        root = [*new, "-x509", "-subj", "/CN=root", "-keyout", "root.key", "-out", "root.pem"]
        subprocess.run([*root, "-days", "2"], **run)  # type: ignore[call-overload]
        (place / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        for name in ("server", "client"):
            ask = ["-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr"]
            subprocess.run([*new, *ask], **run)  # type: ignore[call-overload]
            sign = f"openssl x509 -req -in {name}.csr -CA root.pem -CAkey root.key -days 2"
            sign += f" -CAcreateserial -extfile names -out {name}.pem"
            subprocess.run(sign.split(), **run)  # type: ignore[call-overload]
        return cls(place)

    @property
    def root(self) -> Path:
        """The certificate of the authority."""
        return self.place / "root.pem"

    @property
    def client(self) -> tuple[Path, Path]:
        """Certificate and key of the client."""
        return self.place / "client.pem", self.place / "client.key"

    @contextmanager
    def serving(
        self,
        directory: Path,
        *,
        demand: str = "off",
        protocols: str = "TLSv1.2 TLSv1.3",
        more: str = "",
    ) -> Iterator[RealServer]:
        """Serve a directory by TLS and HTTP/2.

        ``demand`` is nginx's ssl_verify_client; the log's paths begin with the protocol,
        and the common name of the client's certificate.
        """
        lines = [
            f"ssl_certificate {self.place}/server.pem;",
            f"ssl_certificate_key {self.place}/server.key;",
            f"ssl_client_certificate {self.root};",
            f"ssl_verify_client {demand};",
            f"ssl_protocols {protocols};",
            more,
        ]
        with nginx(directory, tls=" ".join(lines)) as server:
            yield server
