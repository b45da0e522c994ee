# SPDX-License-Identifier: BSD-2-Clause
"""Machine definitions: the TOML files that say which emulated board to start, and how."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloister.device.errors import MachineDefinitionError


@dataclass(frozen=True)
class Profile:
    """One way to run a machine: its number of CPUs and the QEMU options that choose how time passes."""

    name: str
    smp: int
    options: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """A machine definition, checked.

    Attributes:
        binary: QEMU's program, a name on PATH or a path.
        memory_mib: memory of the guest in MiB, the secure world's included.
        u_boot_environment, u_boot_size: U-Boot's variables, and the bytes of its environment.
        secure_ready, normal_ready: patterns that show in a world's log that it is up.
        normal_failed: pattern that shows in the normal world's log that its start failed.
        timeout_s: how long a boot may take, in seconds of the host.
    """

    path: Path
    binary: str
    type: str
    cpu: str
    memory_mib: int
    append: str
    u_boot_environment: Mapping[str, str]
    u_boot_size: int
    secure_ready: re.Pattern[str]
    normal_ready: re.Pattern[str]
    normal_failed: re.Pattern[str]
    timeout_s: float
    profiles: Mapping[str, Profile]

    def profile(self, name: str) -> Profile:
        """Return the profile of that name; MachineDefinitionError names those that there are."""
        if name not in self.profiles:
            raise MachineDefinitionError(
                f"{self.path} has no profile {name!r}; it has {', '.join(sorted(self.profiles))}"
            )
        return self.profiles[name]


class _Table:
    """A TOML table whose fields are taken one by one, so that what is left over is unknown."""

    def __init__(self, path: Path, name: str, data: object) -> None:
        if not isinstance(data, dict):
            raise MachineDefinitionError(f"{path}: the table [{name}] is missing")
        self._path, self._name, self._data = path, name, dict(data)

    def take(self, field: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        value = self._data.pop(field, default)
        if not isinstance(value, kind) or isinstance(value, bool):
            what = "is missing" if value is None else f"has a wrong type: {value!r}"
            raise MachineDefinitionError(f"{self._path}: [{self._name}] {field} {what}")
        return value

    def positive(self, field: str) -> int:
        value = self.take(field, int)
        if value <= 0:
            raise MachineDefinitionError(f"{self._path}: [{self._name}] {field} must be above 0, is {value}")
        return int(value)

    def pattern(self, field: str) -> re.Pattern[str]:
        text = self.take(field, str)
        try:
            return re.compile(text)
        except re.error as error:
            raise MachineDefinitionError(
                f"{self._path}: [{self._name}] {field} is no regular expression: {error}"
            ) from error

    def done(self) -> None:
        if self._data:
            raise MachineDefinitionError(f"{self._path}: unknown in [{self._name}]: {', '.join(sorted(self._data))}")


def load_machine(path: Path) -> Machine:
    """Read and check a machine definition. Raises MachineDefinitionError which names file and field."""
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise MachineDefinitionError(f"cannot read the machine definition {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MachineDefinitionError(f"{path} is not valid TOML: {error}") from error
    unknown = set(data) - {"machine", "u_boot", "ready", "profile"}
    if unknown:
        raise MachineDefinitionError(f"{path}: unknown tables: {', '.join(sorted(unknown))}")
    machine = _Table(path, "machine", data.get("machine"))
    u_boot = _Table(path, "u_boot", data.get("u_boot"))
    ready = _Table(path, "ready", data.get("ready"))
    profiles: dict[str, Profile] = {}
    for name, content in _Table(path, "profile", data.get("profile"))._data.items():
        table = _Table(path, f"profile.{name}", content)
        options = table.take("options", list, [])
        if not all(isinstance(option, str) for option in options):
            raise MachineDefinitionError(f"{path}: [profile.{name}] options must be a list of strings")
        profiles[name] = Profile(name, table.positive("smp"), tuple(options))
        table.done()
    environment = u_boot.take("environment", dict)
    if not all(isinstance(value, str) for value in environment.values()):
        raise MachineDefinitionError(f"{path}: [u_boot.environment] values must be strings")
    timeout = ready.take("timeout_s", (int, float))
    result = Machine(
        path=path,
        binary=machine.take("binary", str),
        type=machine.take("type", str),
        cpu=machine.take("cpu", str),
        memory_mib=machine.positive("memory_mib"),
        append=machine.take("append", str, ""),
        u_boot_environment=environment,
        u_boot_size=u_boot.positive("size"),
        secure_ready=ready.pattern("secure"),
        normal_ready=ready.pattern("normal"),
        normal_failed=ready.pattern("failed"),
        timeout_s=float(timeout),
        profiles=profiles,
    )
    machine.done()
    u_boot.done()
    ready.done()
    return result
