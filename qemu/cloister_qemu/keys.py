# SPDX-License-Identifier: BSD-2-Clause
"""The SSH keys of one instance: its own host key, and the only client key it lets in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)


@dataclass(frozen=True)
class InstanceKeys:
    """Paths of the private keys (OpenSSH format, 0600)."""

    host: Path
    client: Path

    def host_public(self) -> str:
        """The host key as in known_hosts: `ssh-ed25519 BASE64`."""
        return public_line(self.host)

    def client_public(self) -> str:
        """The client key as in authorized_keys: `ssh-ed25519 BASE64`."""
        return public_line(self.client)


def public_line(private: Path) -> str:
    """The public half of an OpenSSH private key, as OpenSSH writes it."""
    key = load_ssh_private_key(private.read_bytes(), password=None)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")


def ensure_keys(directory: Path) -> InstanceKeys:
    """Make the two Ed25519 keys of an instance where they are missing; the directory is 0700."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = InstanceKeys(directory / "ssh_host_ed25519_key", directory / "client_ed25519_key")
    for path in (keys.host, keys.client):
        if not path.exists():
            data = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
            write_private(path, data)
    return keys


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, aside and then renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)
