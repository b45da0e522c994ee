# SPDX-License-Identifier: BSD-2-Clause
"""EdgePro's password: which channels are locked, and what they are set to. Needs numpy and onnx, not torch.

A lock belongs to the output of a Conv or Gemm, before its activation. With the password, channel ``c`` of it becomes
``scales[c] * z[c] + values[c]``; a scale of 0 sets the channel to a constant. That is linear in the layer's weights and
bias, so whoever has the password can fold it into them (:meth:`Password.apply`), and inference costs nothing more.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cloister.errors import CloisterError, FormatError

if TYPE_CHECKING:
    import onnx

MAGIC = b"CLPWD\0\0\0"
VERSION = 1
_HEAD = struct.Struct("<8sII")  # magic, version, bytes of the JSON part
_DIGEST = hashlib.sha256().digest_size
#: Most channels that a lock may name; indices are 16 bits wide.
MAX_CHANNELS = 1 << 16
#: Share of itself by which a value differs from device to device.
FINGERPRINT = 0.02
#: Key of the metadata by which a locked ONNX file names its lock.
LOCK_ID = "cloister.lock"
#: Bytes of such a name.
LOCK_ID_SIZE = 16
_LOCK_ID = re.compile(rf"[0-9a-f]{{{2 * LOCK_ID_SIZE}}}").fullmatch


class PasswordError(CloisterError):
    """A password does not fit the model that it is used with."""


@dataclass(frozen=True, eq=False)
class Lock:
    """The locked channels of one layer.

    Attributes:
        tensor: ONNX name of the Conv's or Gemm's output.
        channels: uint16 (n,), ascending, without repetition.
        scales, values: float32 (n,), finite.
    """

    tensor: str
    channels: npt.NDArray[np.uint16]
    scales: npt.NDArray[np.float32]
    values: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        """Raises FormatError where the arrays are not as described."""
        shapes = {self.channels.shape, self.scales.shape, self.values.shape}
        kinds = [str(array.dtype) for array in (self.channels, self.scales, self.values)]
        if len(shapes) != 1 or self.channels.ndim != 1 or kinds != ["uint16", "float32", "float32"]:
            raise FormatError(f"lock of {self.tensor!r}: channels, scales and values differ in length or type")
        if not self.channels.size or np.any(np.diff(self.channels.astype(np.int64)) <= 0):
            raise FormatError(f"lock of {self.tensor!r}: channels are missing, repeated or out of order")
        if not (np.isfinite(self.scales).all() and np.isfinite(self.values).all()):
            raise FormatError(f"lock of {self.tensor!r}: scales or values are not finite")


@dataclass(frozen=True, eq=False)
class Password:
    """All locks of a model.

    Attributes:
        model: the model's name; for people, nothing is decided by it.
        locks: one for each locked layer.
        lock_id: 32 hexadecimal digits that the locked ONNX file has as well (:meth:`stamp`), or "". They are random, so
            they tell nothing of the locks.
        jitter: share of itself by which a value may differ from device to device (``LockSettings.jitter``); None: the
            password does not say.
    """

    model: str
    locks: Sequence[Lock]
    lock_id: str = ""
    jitter: float | None = None

    def __post_init__(self) -> None:
        """Raises FormatError where nothing is locked, a tensor twice, ``lock_id`` is no name or ``jitter`` no share."""
        if self.jitter is not None and not 0 <= self.jitter < 1:
            raise FormatError(f"a password's jitter is {self.jitter}", "make it again with `cloister edgepro`")
        if self.lock_id and not _LOCK_ID(self.lock_id):
            raise FormatError("the name of a password's lock is malformed", "make it again with `cloister edgepro`")
        names = [lock.tensor for lock in self.locks]
        if not names or len(set(names)) != len(names):
            raise FormatError("a password locks no tensor, or one twice", "make it again with `cloister edgepro`")

    @property
    def id(self) -> bytes:
        """16 bytes that tell passwords apart: the first half of SHA-256 over the file's content."""
        return hashlib.sha256(self._content()).digest()[:16]

    @property
    def lock_digest(self) -> bytes:
        """32 bytes that tell locks apart: the same for a password and what :meth:`for_device` makes of it.

        Of values these have the signs in common, which are drawn like the channels.
        """
        parts = [(lock.tensor, lock.channels.tolist(), lock.scales.tolist(), (lock.values < 0).tolist())
                 for lock in self.locks]  # fmt: skip
        return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).digest()

    @property
    def channels(self) -> int:
        """Number of locked channels."""
        return sum(lock.channels.size for lock in self.locks)

    def _content(self, **more: object) -> bytes:
        entries = [{"tensor": lock.tensor, "channels": int(lock.channels.size)} for lock in self.locks]
        # passwords without it have the same bytes, and so the same fingerprints, as before there was one
        named = {"lock": self.lock_id} if self.lock_id else {}
        text = json.dumps({"model": self.model, **named, **more, "locks": entries}, ensure_ascii=True).encode()
        arrays = b"".join(
            lock.channels.astype("<u2").tobytes()
            + lock.scales.astype("<f4").tobytes()
            + lock.values.astype("<f4").tobytes()
            for lock in self.locks
        )
        return _HEAD.pack(MAGIC, VERSION, len(text)) + text + arrays

    def to_bytes(self) -> bytes:
        """The file's bytes; docs/formats.md describes them."""
        # not part of the id and of devices' differences, which are then as before passwords said it
        content = self._content(**({} if self.jitter is None else {"jitter": self.jitter}))
        return content + hashlib.sha256(content).digest()

    @staticmethod
    def from_bytes(data: bytes, what: str = "the password") -> Password:
        """The inverse of :meth:`to_bytes`.

        Raises:
            FormatError: truncated, damaged, foreign, or of another version.
        """
        remedy = "give the .pwd file that `cloister edgepro` or `cloister protect` wrote"
        if len(data) < _HEAD.size + _DIGEST or not data.startswith(MAGIC):
            raise FormatError(f"{what} is no password file", remedy)
        _, version, size = _HEAD.unpack_from(data)
        if version != VERSION:
            raise FormatError(f"{what} has version {version}; this program reads {VERSION}", "update cloister")
        content, digest = data[:-_DIGEST], data[-_DIGEST:]
        if hashlib.sha256(content).digest() != digest:
            raise FormatError(f"{what} is damaged: its digest does not fit", remedy)
        try:
            head = json.loads(content[_HEAD.size : _HEAD.size + size])
            entries = [(str(entry["tensor"]), int(entry["channels"])) for entry in head["locks"]]
            model, lock_id = str(head["model"]), str(head.get("lock", ""))
            jitter = float(head["jitter"]) if "jitter" in head else None
            b"".join(tensor.encode() for tensor, _ in entries)  # JSON can name what UTF-8 cannot
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise FormatError(f"{what} has no readable head: {error}", remedy) from error
        at = _HEAD.size + size
        if any(not 0 < count <= MAX_CHANNELS for _, count in entries):
            raise FormatError(f"{what} names a lock of no or too many channels", remedy)
        if len(content) != at + sum(10 * count for _, count in entries):
            raise FormatError(f"{what} is shorter or longer than its head says", remedy)
        locks = []
        for tensor, count in entries:
            channels = np.frombuffer(content, "<u2", count, at).astype(np.uint16)
            scales = np.frombuffer(content, "<f4", count, at + 2 * count).astype(np.float32)
            values = np.frombuffer(content, "<f4", count, at + 6 * count).astype(np.float32)
            locks.append(Lock(tensor, channels, scales, values))
            at += 10 * count
        return Password(model, tuple(locks), lock_id, jitter)

    def write(self, path: Path) -> None:
        """Write the file, readable by the user alone; aside first, then renamed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(path.name + ".new")
        aside.unlink(missing_ok=True)
        aside.touch(0o600)
        aside.write_bytes(self.to_bytes())
        aside.replace(path)

    @staticmethod
    def read(path: Path) -> Password:
        """Read a file that :meth:`write` wrote.

        Raises:
            FormatError: as :meth:`from_bytes`, or the file cannot be read.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise FormatError(f"{path} cannot be read: {error.strerror}", "check the path") from error
        return Password.from_bytes(data, str(path))

    def for_device(self, device: bytes, share: float = FINGERPRINT) -> Password:
        """The password of one device: each value larger or smaller by ``share`` of itself, as the device's id decides.

        Lock training has drawn such differences (``LockSettings.jitter``), so the model answers as well. A password
        that turns up elsewhere tells by :meth:`trace` whose it was. It opens the same model on every device all the
        same: this finds who leaked, it locks nobody out.

        Args:
            device: its id, as licences have it (SHA-256 of its public key).
            share: at most the jitter that the lock was trained with.

        Raises:
            PasswordError: the lock was trained with less.
        """
        if self.jitter is not None and share > self.jitter:
            raise PasswordError(
                f"the password of {self.model!r} cannot be made a device's own: its values would differ by {share:g} "
                f"of themselves, and the lock was trained with a jitter of {self.jitter:g}",
                f"lock the model with LockSettings(jitter={share:g}), or give every device the same password",
            )
        signs = self._signs(device)
        locks, at = [], 0
        for lock in self.locks:
            part = signs[at : at + lock.values.size]
            locks.append(
                Lock(lock.tensor, lock.channels, lock.scales, (lock.values * (1 + share * part)).astype(np.float32))
            )
            at += lock.values.size
        return replace(self, locks=tuple(locks))

    def trace(self, leaked: Password, devices: Sequence[bytes], share: float = FINGERPRINT) -> list[float]:
        """For each device how well the leaked password fits its own: 1 where it is it, about 0 where it is another's.

        Of n devices whose passwords were averaged each scores about 1 / n; another device's score has the deviation
        1 / sqrt(channels).

        Raises:
            PasswordError: the leaked password has other locks than this one.
        """
        ours, theirs = ([(lock.tensor, lock.channels.tolist()) for lock in one.locks] for one in (self, leaked))
        if ours != theirs:
            raise PasswordError(
                "the two passwords lock different channels", "compare with the password it was made from"
            )
        values = np.concatenate([lock.values for lock in self.locks]).astype(np.float64)
        found = np.concatenate([lock.values for lock in leaked.locks]).astype(np.float64)
        used = values != 0
        moved = np.clip((found[used] / values[used] - 1) / share, -1, 1)
        return [float(np.mean(moved * self._signs(device)[used])) for device in devices]

    def _signs(self, device: bytes) -> npt.NDArray[np.float64]:
        """+1 or -1 for each locked channel: HMAC-SHA256, keyed with this password, of the device and a counter."""
        key = hashlib.sha256(b"cloister device fingerprint" + self._content()).digest()
        blocks = -(-self.channels // 256)
        stream = b"".join(hmac.digest(key, device + index.to_bytes(4, "little"), "sha256") for index in range(blocks))
        bits = np.unpackbits(np.frombuffer(stream, np.uint8))[: self.channels]
        return bits.astype(np.float64) * 2 - 1

    def stamp(self, path: Path) -> None:
        """Write :attr:`lock_id` into a locked ONNX file, so that :meth:`check` knows it again."""
        import onnx

        from cloister.seal.files import write_aside  # that package needs this module

        if self.lock_id:
            model = onnx.load(str(path))
            onnx.helper.set_model_props(model, {**_metadata(model), LOCK_ID: self.lock_id})
            write_aside(path, model.SerializeToString())

    def check(self, model: onnx.ModelProto) -> None:
        """Check that ``model`` has not been locked with another password; one without a name of its lock is not told.

        Raises:
            PasswordError: it has.
        """
        self.check_lock(lock_of(model))

    def check_lock(self, theirs: str) -> None:
        """Check that ``theirs``, a locked model's name of its lock or "", is not another lock's than this password's.

        Raises:
            PasswordError: it is.
        """
        if theirs and self.lock_id and theirs != self.lock_id:
            raise PasswordError(
                f"the password of {self.model!r} belongs to another lock (it is of {self.lock_id[:8]}..., the model "
                f"of {theirs[:8]}...)",
                "give the password.pwd that was written beside the locked model, in the same run",
            )

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of the locked ``model`` with the password folded into its weights: it answers as the owner's did.

        This model must not be shipped; it serves tests, reference answers and the calibration of 8-bit models.

        Raises:
            PasswordError: the model has another lock; a tensor is missing, is not the output of a float Conv or Gemm
                with constant weights, or has fewer channels.
        """
        import onnx

        self.check(model)
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        producers = {name: node for node in changed.graph.node for name in node.output}
        for lock in self.locks:
            if lock.tensor not in producers:
                raise PasswordError(
                    f"the model has no tensor {lock.tensor!r}", "use the model that the password was made for"
                )
            _fold(changed.graph, producers[lock.tensor], lock)
        onnx.helper.set_model_props(changed, {k: v for k, v in _metadata(changed).items() if k != LOCK_ID})
        return changed


def lock_of(model: onnx.ModelProto | Path | str) -> str:
    """The name of the lock that a locked ONNX model, or its file, says it has (:attr:`Password.lock_id`); "": none."""
    if isinstance(model, Path | str):
        import onnx

        model = onnx.load(str(model), load_external_data=False)
    found = _metadata(model).get(LOCK_ID, "")
    return found if _LOCK_ID(found) else ""


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _fold(graph: Any, node: Any, lock: Lock) -> None:
    import onnx
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    if node.op_type not in ("Conv", "Gemm") or node.input[1] not in constants:
        raise PasswordError(
            f"tensor {lock.tensor!r} comes from {node.op_type}, not from a Conv or Gemm with constant weights",
            "use the model that the password was made for, in float32",
        )
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    weights = numpy_helper.to_array(constants[node.input[1]])
    axis = 1 if node.op_type == "Gemm" and not attributes.get("transB", 0) else 0
    count = weights.shape[axis]
    if int(lock.channels[-1]) >= count:
        raise PasswordError(
            f"tensor {lock.tensor!r} has {count} channels, the password names {int(lock.channels[-1])}",
            "use the model that the password was made for",
        )
    scales, values = np.ones(count, np.float32), np.zeros(count, np.float32)
    scales[lock.channels], values[lock.channels] = lock.scales, lock.values
    shape = [1] * weights.ndim
    shape[axis] = count
    bias = np.zeros(count, np.float32)
    beta = float(attributes.get("beta", 1.0)) if node.op_type == "Gemm" else 1.0
    if len(node.input) > 2 and node.input[2]:
        if node.input[2] not in constants:
            raise PasswordError(f"the bias of tensor {lock.tensor!r} is not constant", "fold it into the graph")
        bias = np.broadcast_to(beta * numpy_helper.to_array(constants[node.input[2]]), (count,))
    _replace(graph, node, 1, (weights * scales.reshape(shape)).astype(np.float32), f"{lock.tensor}:weight")
    _replace(graph, node, 2, (bias * scales + values).astype(np.float32), f"{lock.tensor}:bias")
    for entry in node.attribute:
        if entry.name == "beta":
            entry.f = 1.0


def _replace(graph: Any, node: Any, index: int, value: npt.NDArray[np.float32], name: str) -> None:
    """A constant of its own for that input: the old one may be shared."""
    from onnx import numpy_helper

    taken = {tensor.name for tensor in graph.initializer}
    while name in taken:
        name += "_"
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    while len(node.input) <= index:
        node.input.append("")
    old = node.input[index]
    node.input[index] = name
    if old and not any(old in other.input for other in graph.node):
        graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == old))
