# SPDX-License-Identifier: BSD-2-Clause
"""The section of a pair's bundle that runs in the normal world: ``struct cl_backbone`` and what follows it.

In clear, as the backbone is public; the signed manifest names its digest. Read on devices too: no numpy here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cloister.errors import CloisterError
from cloister.wire import C, ffi, new, pack, unpack

_ARENA = (1 << 32) - 1


class BackboneError(CloisterError):
    """A backbone's section is damaged, or not the one that its manifest names."""


class Input(Protocol):
    """What :func:`pack_backbone` needs of an input; ``cloister.tensors.TensorInfo`` has it."""

    @property
    def name(self) -> str:
        """ONNX's name."""

    @property
    def dtype(self) -> int:
        """A ``CL_DTYPE_`` value."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions in ONNX's order."""

    @property
    def offset(self) -> int:
        """Of its first byte in the arena."""

    @property
    def size(self) -> int:
        """In bytes."""


@dataclass(frozen=True)
class Tap:
    """Where an input of the CPM is found.

    Attributes:
        input: it is this input of the backbone; None: it lies in the backbone's arena.
        ready: partitions of the backbone that run before.
        offset: of its first byte in the arena.
        size: in bytes.
    """

    input: int | None
    ready: int
    offset: int
    size: int


@dataclass(frozen=True)
class Backbone:
    """A section, parsed and checked.

    Attributes:
        inputs: ``struct cl_io``, in ONNX's order.
        taps: one for each input of the CPM, in its order.
        partitions: offset in the section and size of each, in bytes.
        arena_size: bytes of activations and scratch.
        size: bytes of the whole section.
    """

    inputs: list[Any]
    taps: list[Tap]
    partitions: list[tuple[int, int]]
    arena_size: int
    size: int

    @property
    def input_size(self) -> int:
        """Bytes of all inputs of one inference."""
        return sum(info.size for info in self.inputs)


def io_bytes(info: Input) -> bytes:
    """``struct cl_io`` of a tensor.

    An ONNX tensor's name may be any length and only serves the reader: it is cut at a whole character.
    """
    name = info.name.encode()[: C.CL_NAME_SIZE - 1].decode(errors="ignore").encode()
    return pack(
        new(
            "struct cl_io",
            name=name,
            dtype=info.dtype,
            rank=len(info.shape),
            dims=list(info.shape),
            offset=info.offset,
            size=info.size,
        )
    )


def align(size: int) -> int:
    """``size`` rounded up to a multiple of CL_ALIGN."""
    return -(-size // int(C.CL_ALIGN)) * int(C.CL_ALIGN)


def pack_backbone(inputs: Sequence[Input], taps: Sequence[Tap], partitions: Sequence[bytes], arena_size: int) -> bytes:
    """The section of a compiled backbone."""
    head = ffi.sizeof("struct cl_backbone") + sum(
        len(items) * ffi.sizeof(f"struct {name}")
        for items, name in ((inputs, "cl_io"), (taps, "cl_tap"), (partitions, "cl_backbone_part"))
    )
    table, body = b"", bytearray(bytes(align(head) - head))
    for plain in partitions:
        table += pack(new("struct cl_backbone_part", offset=head + len(body), size=len(plain)))
        body += plain + bytes(align(len(plain)) - len(plain))
    header = new(
        "struct cl_backbone",
        magic=C.CL_MAGIC_BACKBONE,
        version=C.CL_FORMAT_VERSION,
        header_size=ffi.sizeof("struct cl_backbone"),
        total_size=head + len(body),
        input_count=len(inputs),
        tap_count=len(taps),
        partition_count=len(partitions),
        arena_size=arena_size,
    )
    entries = [
        pack(
            new(
                "struct cl_tap",
                input=_ARENA if tap.input is None else tap.input,
                ready=tap.ready,
                offset=tap.offset,
                size=tap.size,
            )
        )
        for tap in taps
    ]
    return b"".join((pack(header), *map(io_bytes, inputs), *entries, table, body))


def verified(data: bytes | bytearray | memoryview, manifest: bytes, name: str) -> Backbone:
    """The parsed section, if it is the one that a pair's manifest names.

    Args:
        data: the section.
        manifest: of the bundle; whether the vendor signed it is not looked at here.
        name: of the model, for errors.

    Raises:
        BackboneError: it is another one, or damaged.
    """
    pair = pair_of(manifest)
    if pair is None or hashlib.sha256(data).digest() != bytes(pair.backbone_digest):
        raise BackboneError(
            f"the backbone section of {name!r} is not the one that its signed manifest names",
            "it was changed or damaged: copy the bundle again",
        )
    header = unpack("struct cl_manifest", manifest)
    step, start = ffi.sizeof("struct cl_io"), int(header.header_size)
    sizes = [unpack("struct cl_io", manifest, start + i * step).size for i in range(header.input_count)]
    return parse(data, sizes, name)


def pair_of(manifest: bytes) -> Any:
    """``struct cl_pair`` of a manifest, None where it is of no pair."""
    header = unpack("struct cl_manifest", manifest)
    if header.header_size == ffi.sizeof("struct cl_manifest"):
        return None
    return unpack("struct cl_pair", manifest, ffi.sizeof("struct cl_manifest"))


def parse(data: bytes | bytearray | memoryview, taps: Sequence[int], name: str) -> Backbone:
    """Parse a section and check every number in it.

    Args:
        data: the section.
        taps: bytes of each input of the CPM.
        name: of the model, for errors.

    Raises:
        BackboneError: a number contradicts another.
    """

    def require(true: bool, what: str) -> None:
        if not true:
            raise BackboneError(f"the backbone section of {name!r} is malformed: {what}", "compile the pair again")

    try:
        header = unpack("struct cl_backbone", data)
        at = ffi.sizeof("struct cl_backbone")

        def table(struct: str, count: int) -> list[Any]:
            nonlocal at
            step = ffi.sizeof(struct)
            found = [unpack(struct, data, at + index * step) for index in range(count)]
            at += count * step
            return found

        require(header.magic == C.CL_MAGIC_BACKBONE, "it does not begin with CLBB")
        require(header.version == C.CL_FORMAT_VERSION, f"it has format version {header.version}")
        require(header.header_size == at, f"its header has {header.header_size} bytes")
        require(header.total_size == len(data), f"it has {len(data)} bytes of {header.total_size}")
        require(0 < header.input_count <= C.CL_MAX_IO, f"it has {header.input_count} inputs")
        require(header.tap_count == len(taps), f"it has {header.tap_count} taps where the CPM takes {len(taps)}")
        require(header.partition_count <= C.CL_MAX_PARTITIONS, f"it has {header.partition_count} partitions")
        inputs = table("struct cl_io", header.input_count)
        entries = table("struct cl_tap", header.tap_count)
        parts = table("struct cl_backbone_part", header.partition_count)
    except ValueError as error:
        raise BackboneError(f"the backbone section of {name!r} is truncated: {error}", "copy it again") from error
    arena = int(header.arena_size)
    for info in inputs:
        require(info.offset % 8 == 0 and info.offset + info.size <= arena, "an input lies outside its arena")
    for part in parts:
        inside = part.offset >= at and part.offset % C.CL_ALIGN == 0 and part.offset + part.size <= len(data)
        require(inside, "a partition lies outside of it")
    found, earlier = [], 0
    for index, (entry, size) in enumerate(zip(entries, taps, strict=True)):
        require(entry.size == size, f"tap {index} has {entry.size} bytes where the CPM takes {size}")
        require(earlier <= entry.ready <= len(parts), f"tap {index} is ready in no order")
        earlier = entry.ready
        if entry.input == _ARENA:
            require(entry.offset + size <= arena, f"tap {index} lies outside the arena")
        else:
            require(entry.input < len(inputs) and inputs[entry.input].size == size, f"tap {index} is no input")
        found.append(Tap(None if entry.input == _ARENA else entry.input, entry.ready, entry.offset, size))
    return Backbone(inputs, found, [(part.offset, part.size) for part in parts], arena, len(data))
