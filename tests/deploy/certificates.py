"""What cert-manager does where there is none: an authority, and certificates that it issues."""

import subprocess
from pathlib import Path
from typing import Iterator

from manifests import Object


def make_authority(folder: Path) -> None:
    """ca.crt and ca.key."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", "/CN=kvship-ca", "-out", folder / "ca.crt", "-keyout", folder / "ca.key"],
                   check=True, capture_output=True)


def make_certificate(folder: Path, role: str, names: list[str]) -> None:
    """What cert-manager writes into the Secret of a Certificate with these dnsNames: ROLE-tls.crt, ROLE-tls.key and
    ROLE-ca.crt."""
    (folder / "names").write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in names))
    subprocess.run(["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-subj", "/", "-out", folder / "request", "-keyout", folder / f"{role}-tls.key"],
                   check=True, capture_output=True)
    subprocess.run(["openssl", "x509", "-req", "-in", folder / "request", "-CA", folder / "ca.crt",
                    "-CAkey", folder / "ca.key", "-CAcreateserial", "-days", "2", "-extfile", folder / "names",
                    "-out", folder / f"{role}-tls.crt"], check=True, capture_output=True)
    (folder / f"{role}-ca.crt").write_bytes((folder / "ca.crt").read_bytes())


def wanted(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """The specifications of the Certificates among the objects, but for the authority's, each with its role."""
    for each in objects:
        if each["kind"] == "Certificate" and "dnsNames" in each["spec"]:
            yield each["metadata"]["name"].removeprefix("kvship-"), each["spec"]
