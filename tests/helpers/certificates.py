"""Certificates of our own, made anew for each run by the openssl command."""

from __future__ import annotations

import shutil
import subprocess
import unittest
from collections.abc import Sequence
from pathlib import Path

HERE = ("DNS:localhost", "IP:127.0.0.1", "IP:::1")


def make_certificate(
    folder: Path, name: str = "cert", *, hosts: Sequence[str] = HERE, days: int = 30
) -> tuple[Path, Path]:
    """Return a certificate and its key, PEM files in a folder. Raises SkipTest without openssl.

    hosts: whom it is for, as in "IP:127.0.0.1"; days: until it expires, -1 if it has.
    """
    if not shutil.which("openssl"):
        raise unittest.SkipTest("there is no openssl here to make certificates")
    certificate, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    request, names = folder / "request.pem", folder / "names.txt"
    names.write_text(f"subjectAltName={','.join(hosts)}\n")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", *curve, "-subj", "/CN=chat room", "-keyout", str(key), "-out", str(request))
    # Not `req -x509`, which makes none that has expired.
    sign = ["-req", "-in", str(request), "-signkey", str(key), "-days", str(days)]
    openssl("x509", *sign, "-extfile", str(names), "-out", str(certificate))
    return certificate, key


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def tls_options(folder: Path) -> list[str]:
    """Return the options of a server with a certificate for this machine."""
    certificate, key = make_certificate(folder)
    return ["--tls-cert", str(certificate), "--tls-key", str(key)]
