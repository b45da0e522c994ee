# SPDX-License-Identifier: BSD-2-Clause
"""The device record: what a vendor keeps of each device to compile and license for it. Public, a JSON file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cloister.seal.errors import KeyFileError
from cloister.seal.files import read_file, write_aside
from cloister.seal.licence import device_id
from cloister.wire import C

_REMEDY = "fetch it with: cloister provision -o FILE"


@dataclass(frozen=True)
class DeviceRecord:
    """A device, as it described itself.

    Attributes:
        public_key: X25519, 32 bytes; licences are sealed to it.
        ciphers: names of the cipher suites that its TA opens.
        ta: the TA's own name and version.
    """

    public_key: bytes
    ciphers: tuple[str, ...]
    ta: str = ""

    @property
    def device_id(self) -> bytes:
        """The 32 bytes that name the device in licences."""
        return device_id(self.public_key)

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        facts = {
            "device_id": self.device_id.hex(),
            "public_key": self.public_key.hex(),
            "ciphers": list(self.ciphers),
            "ta": self.ta,
        }
        return json.dumps(facts, indent=1).encode() + b"\n"

    def save(self, path: Path | str) -> None:
        """Write the file, aside first."""
        write_aside(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: Path | str) -> DeviceRecord:
        """Read a file.

        Raises:
            KeyFileError: it is no device record, or contradicts itself.
        """
        wrong = KeyFileError(f"{path} is not a device's record", _REMEDY)
        try:
            facts = json.loads(read_file(Path(path), "device record", 1 << 16))
            key = bytes.fromhex(facts["public_key"])
            named, ciphers, ta = facts["device_id"], facts["ciphers"], facts.get("ta", "")
        except (ValueError, KeyError, TypeError) as error:
            raise wrong from error
        listed = isinstance(ciphers, list) and all(isinstance(name, str) for name in ciphers)
        if len(key) != C.CL_KEY_SIZE or not listed or not isinstance(ta, str):
            raise wrong
        record = cls(key, tuple(ciphers), ta)
        if named != record.device_id.hex():
            raise KeyFileError(f"{path} contradicts itself: its device_id is not that of its public_key", _REMEDY)
        return record
