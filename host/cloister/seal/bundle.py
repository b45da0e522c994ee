# SPDX-License-Identifier: BSD-2-Clause
"""The bundle: what ships to every device. Signed manifest and sealed partitions in one file.

Layout: ``ta/include/cloister_format.h``. Partitions are sealed with one of the suites of
:mod:`cloister.seal.ciphers` under the bundle's content key; the associated data binds manifest, index and count.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag

from cloister.backbone import Backbone, align, io_bytes, pair_of, verified
from cloister.seal.ciphers import DEFAULT, SUITES, choose, cipher_of, nonce_size, suite_name
from cloister.seal.errors import BundleError
from cloister.seal.files import read_file, write_aside
from cloister.seal.keys import VendorKey, verify
from cloister.tensors import TensorInfo as TensorInfo
from cloister.wire import C, ffi, new, pack, unpack

#: What bundle files begin with.
MAGIC = C.CL_MAGIC_BUNDLE.to_bytes(4, "little")

MANIFEST_DOMAIN = b"cloister manifest v1"
LAYERS_DOMAIN = b"cloister layers v1"


class Sealable(Protocol):
    """What :func:`seal_bundle` needs of a compiled model; ``cloister.compile.CompiledModel`` has it."""

    @property
    def partitions(self) -> Sequence[bytes]:
        """Plain partitions in the order of execution."""

    @property
    def inputs(self) -> Sequence[TensorInfo]:
        """Inputs in ONNX's order."""

    @property
    def outputs(self) -> Sequence[TensorInfo]:
        """Outputs in ONNX's order."""

    @property
    def arena_size(self) -> int:
        """Bytes of activations and scratch."""

    @property
    def layers(self) -> Mapping[bytes, int]:
        """Channels of each layer that a password may name, by its id."""


def content_key_id(content_key: bytes) -> bytes:
    """The 16 bytes that name a content key in clear."""
    return hashlib.sha256(content_key).digest()[: C.CL_ID_SIZE]


def model_id(name: str, vendor: bytes) -> bytes:
    """The 16 bytes that all versions of one vendor's model share."""
    return hashlib.sha256(b"cloister model id v1" + vendor + name.encode()).digest()[: C.CL_ID_SIZE]


def _encode_name(name: str, what: str) -> bytes:
    data = name.encode()
    if not data or len(data) >= C.CL_NAME_SIZE or b"\0" in data:
        raise BundleError(
            f"{what} {name!r} must have 1 to {C.CL_NAME_SIZE - 1} bytes of UTF-8 without NUL", "choose a shorter name"
        )
    return data


def _decode_name(field: Any) -> str:
    return bytes(ffi.buffer(field)).split(b"\0", 1)[0].decode(errors="replace")


def _info(io: Any) -> TensorInfo:
    shape = tuple(io.dims[j] for j in range(min(io.rank, C.CL_MAX_RANK)))
    return TensorInfo(_decode_name(io.name), io.dtype, shape, io.offset, io.size)


def _aad(manifest_digest: bytes, index: int, count: int) -> bytes:
    return pack(
        new(
            "struct cl_partition_aad",
            magic=C.CL_MAGIC_SEALED,
            version=C.CL_FORMAT_VERSION,
            index=index,
            count=count,
            manifest_digest=list(manifest_digest),
        )
    )


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory, as it lies in the file: signed manifest, payload and, of a pair, the backbone's section."""

    manifest: bytes
    payload: bytes
    section: bytes = b""

    def __post_init__(self) -> None:
        """Check all sizes and counts.

        Raises:
            BundleError: they contradict each other.
        """
        header = self.header
        if header.magic != C.CL_MAGIC_MANIFEST:
            raise BundleError(
                "this is not a bundle: its manifest does not begin with CLMF",
                "give a file that 'cloister compile' wrote",
            )
        if header.version != C.CL_FORMAT_VERSION:
            raise BundleError(
                f"the bundle has format version {header.version}, this program knows {C.CL_FORMAT_VERSION}",
                "compile it again, or update Cloister",
            )
        expected = (
            header.header_size
            + (header.input_count + header.output_count) * ffi.sizeof("struct cl_io")
            + header.partition_count * ffi.sizeof("struct cl_partition_desc")
            + C.CL_SIGNATURE_SIZE
        )
        table = len(self.manifest) - expected
        frame = ffi.sizeof("struct cl_layers_head") + C.CL_TAG_SIZE
        whole = table == 0 or (table > frame and (table - frame) % ffi.sizeof("struct cl_layer") == 0)
        sizes = ffi.sizeof("struct cl_manifest"), ffi.sizeof("struct cl_manifest") + ffi.sizeof("struct cl_pair")
        if header.total_size != len(self.manifest) or header.header_size not in sizes or not whole:
            raise BundleError(
                f"the manifest has {len(self.manifest)} bytes where its counts say {expected}",
                "the file is damaged: copy it again",
            )
        if header.payload_size != len(self.payload):
            raise BundleError(
                f"the payload has {len(self.payload)} bytes of {header.payload_size}",
                "the file is truncated: copy it again",
            )
        if self.is_pair != bool(self.section):
            raise BundleError(
                f"the bundle of {self.name!r} lacks its backbone" if self.is_pair else "a backbone without a pair",
                "the file is truncated: copy it again",
            )
        for index, desc in enumerate(self._descs()):
            if desc.offset + desc.sealed_size > len(self.payload):
                raise BundleError(f"partition {index} ends behind the payload", "the file is damaged: copy it again")

    @property
    def header(self) -> Any:
        """``struct cl_manifest``.

        Raises:
            BundleError: the manifest is shorter than that.
        """
        try:
            return unpack("struct cl_manifest", self.manifest)
        except ValueError as error:
            raise BundleError("the bundle is truncated: its manifest is incomplete", "copy it again") from error

    def _descs(self) -> list[Any]:
        header = self.header
        start = header.header_size
        start += (header.input_count + header.output_count) * ffi.sizeof("struct cl_io")
        step = ffi.sizeof("struct cl_partition_desc")
        return [
            unpack("struct cl_partition_desc", self.manifest, start + i * step) for i in range(header.partition_count)
        ]

    def _ios(self, first: int, count: int) -> list[TensorInfo]:
        start, step = self.header.header_size, ffi.sizeof("struct cl_io")
        return [_info(unpack("struct cl_io", self.manifest, start + i * step)) for i in range(first, first + count)]

    @property
    def name(self) -> str:
        """The model's name."""
        return _decode_name(self.header.name)

    @property
    def model_id(self) -> bytes:
        """16 bytes, the same for all versions of a vendor's model."""
        return bytes(self.header.model_id)

    @property
    def version(self) -> int:
        """The model's version; devices refuse one older than they have seen."""
        return int(self.header.model_version)

    @property
    def cipher(self) -> str:
        """The suite that partitions are sealed with.

        Raises:
            CipherError: this program does not know it.
        """
        return suite_name(self.header.suite)

    @property
    def arena_size(self) -> int:
        """Bytes of activations and scratch."""
        return int(self.header.arena_size)

    @property
    def inputs(self) -> list[TensorInfo]:
        """What enters the secure world: the model's inputs in ONNX's order; of a pair the taps, as they become ready.

        A tap's shape is ONNX's; its bytes lie as the backbone made them, channels-last most often.
        """
        return self._ios(0, self.header.input_count)

    @property
    def user_inputs(self) -> list[TensorInfo]:
        """What a user gives: the model's inputs, or those of a pair's backbone.

        Raises:
            BackboneError: the backbone is not the manifest's.
        """
        return [_info(io) for io in self.backbone.inputs] if self.is_pair else self.inputs

    @property
    def is_pair(self) -> bool:
        """The model is a CPM, and the bundle brings the backbone whose taps it reads."""
        return pair_of(self.manifest) is not None

    @property
    def backbone(self) -> Backbone:
        """The backbone of a pair, held against the manifest.

        Raises:
            BackboneError: it is not the one that the manifest names, or malformed.
            BundleError: this is no pair.
        """
        if not self.is_pair:
            raise BundleError(f"{self.name!r} has no backbone", "it is no pair: compile one with --backbone")
        return verified(self.section, self.manifest, self.name)

    @property
    def first_uses(self) -> list[int]:
        """For each input the partition that first waits for it; zeros where this is no pair."""
        pair, count = pair_of(self.manifest), self.header.input_count
        return [0] * count if pair is None else [int(pair.first_use[i]) for i in range(count)]

    @property
    def outputs(self) -> list[TensorInfo]:
        """Outputs in ONNX's order."""
        return self._ios(self.header.input_count, self.header.output_count)

    @property
    def partitions(self) -> list[tuple[int, int, int]]:
        """Offset in the payload, sealed size and plain size of each partition, in bytes."""
        return [(d.offset, d.sealed_size, d.plain_size) for d in self._descs()]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the manifest without its signature."""
        return hashlib.sha256(self.manifest[: -C.CL_SIGNATURE_SIZE]).digest()

    def check_signature(self, vendor: bytes) -> None:
        """Check that ``vendor`` (public key, 32 bytes) signed the manifest.

        Raises:
            SignatureError: it did not.
        """
        size = C.CL_SIGNATURE_SIZE
        verify(vendor, self.manifest[-size:], MANIFEST_DOMAIN + self.digest, f"bundle {self.name!r}")

    def open_partition(self, index: int, content_key: bytes) -> bytes:
        """Decrypt one partition, as the TA does (for the vendor's own checks).

        Raises:
            BundleError: the tag is wrong.
            CipherError: the suite is not known here.
        """
        desc = self._descs()[index]
        start = desc.offset + ffi.sizeof("struct cl_sealed_header")
        sealed = self.payload[start : desc.offset + desc.sealed_size]
        try:
            aad = _aad(self.digest, index, self.header.partition_count)
            nonce = bytes(desc.nonce)[: nonce_size(self.cipher)]
            return cipher_of(self.cipher, content_key).decrypt(nonce, sealed, aad)
        except InvalidTag:
            raise BundleError(f"partition {index} of {self.name!r} has a wrong tag", "copy the bundle again") from None

    def layers(self, content_key: bytes) -> dict[bytes, int]:
        """Channels of each layer that a password may name, by the layer's id; empty where none may be.

        Raises:
            BundleError: the tag is wrong.
            CipherError: the suite is not known here.
        """
        header, step = self.header, ffi.sizeof("struct cl_layer")
        start = header.header_size + header.partition_count * ffi.sizeof("struct cl_partition_desc")
        start += (header.input_count + header.output_count) * ffi.sizeof("struct cl_io")
        table = self.manifest[start : -C.CL_SIGNATURE_SIZE]
        if not table:
            return {}
        nonce = table[: nonce_size(self.cipher)]
        sealed = table[ffi.sizeof("struct cl_layers_head") :]
        try:
            plain = cipher_of(self.cipher, content_key).decrypt(nonce, sealed, LAYERS_DOMAIN)
        except InvalidTag:
            raise BundleError(f"the layers of {self.name!r} have a wrong tag", "copy the bundle again") from None
        layers = [unpack("struct cl_layer", plain, at) for at in range(0, len(plain), step)]
        return {bytes(layer.id): int(layer.channels) for layer in layers}

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        header_size = ffi.sizeof("struct cl_bundle_header")
        header_size += ffi.sizeof("struct cl_bundle_backbone") if self.section else 0
        payload_offset = align(header_size + len(self.manifest))
        header = new(
            "struct cl_bundle_header",
            magic=C.CL_MAGIC_BUNDLE,
            version=C.CL_FORMAT_VERSION,
            header_size=header_size,
            manifest_offset=header_size,
            manifest_size=len(self.manifest),
            payload_offset=payload_offset,
            payload_size=len(self.payload),
        )
        end = payload_offset + len(self.payload)
        head, tail = pack(header), b""
        if self.section:
            head += pack(new("struct cl_bundle_backbone", offset=align(end), size=len(self.section)))
            tail = bytes(align(end) - end) + self.section
        return (head + self.manifest).ljust(payload_offset, b"\0") + self.payload + tail

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "the bundle") -> Bundle:
        """Parse a bundle file's bytes; ``source`` names it in errors.

        Raises:
            BundleError: the data is no bundle, truncated, or of another version.
        """
        if data[:4] != MAGIC:
            raise BundleError(f"{source} is not a Cloister bundle", "give a file that 'cloister compile' wrote")
        size = ffi.sizeof("struct cl_bundle_header")
        paired = size + ffi.sizeof("struct cl_bundle_backbone")
        try:
            header = unpack("struct cl_bundle_header", data)
            backbone = unpack("struct cl_bundle_backbone", data, size) if header.header_size == paired else None
        except ValueError as error:
            raise BundleError(f"{source} is truncated: {len(data)} bytes", "copy it again") from error
        if header.version != C.CL_FORMAT_VERSION:
            raise BundleError(
                f"{source} has format version {header.version}, this program knows {C.CL_FORMAT_VERSION}",
                "compile it again, or update Cloister",
            )
        payload_end = header.payload_offset + header.payload_size
        end = payload_end if backbone is None else backbone.offset + backbone.size
        in_order = header.manifest_offset + header.manifest_size <= header.payload_offset
        if not in_order or payload_end > (backbone.offset if backbone else end) or end != len(data):
            raise BundleError(
                f"{source} is truncated or damaged: {len(data)} bytes where its header says {end}", "copy it again"
            )
        manifest = data[header.manifest_offset : header.manifest_offset + header.manifest_size]
        section = data[backbone.offset : end] if backbone else b""
        return cls(manifest, data[header.payload_offset : payload_end], section)

    def save(self, path: Path | str) -> None:
        """Write the bundle file, aside first."""
        write_aside(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: Path | str) -> Bundle:
        """Read a bundle file.

        Raises:
            CloisterError: it cannot be read; BundleError: it is no whole bundle.
        """
        return cls.from_bytes(read_file(Path(path), "bundle"), str(path))


def _sealed_layers(layers: Mapping[bytes, int], suite: str, key: bytes) -> bytes:
    """The sealed table of layers that a password may name (struct cl_layers_head); nothing where there are none."""
    if not layers:
        return b""
    nonce = os.urandom(nonce_size(suite))
    plain = b"".join(pack(new("struct cl_layer", id=list(layer), channels=layers[layer])) for layer in sorted(layers))
    head = pack(new("struct cl_layers_head", nonce=list(nonce)))
    return head + cipher_of(suite, key).encrypt(nonce, plain, LAYERS_DOMAIN)


def seal_bundle(
    model: Sealable,
    vendor: VendorKey,
    *,
    name: str,
    version: int = 1,
    cipher: str = DEFAULT,
    content_key: bytes | None = None,
    section: bytes = b"",
    first_uses: Sequence[int] = (),
) -> tuple[Bundle, bytes]:
    """Seal a compiled model.

    Args:
        model: plain partitions and what enters and leaves.
        vendor: signs the manifest.
        name: of the model, at most 63 bytes of UTF-8; with the vendor's key it fixes the model's identity.
        version: of the model, 1 or more; a device that has run a newer one refuses an older one.
        cipher: one of :data:`cloister.seal.ciphers.SUITES`; a device must have it.
        content_key: 32 secret bytes for tests; a fresh random key otherwise, so that no nonce can meet a key twice.
        section: of a pair, the backbone (:func:`cloister.backbone.pack_backbone`); the model is its CPM.
        first_uses: of a pair, for each input of the CPM the partition that first waits for it; ascending.

    Returns:
        the bundle, and the content key that licences carry (32 bytes, secret).

    Raises:
        BundleError: a name, version or count does not fit the format.
        CipherError: there is no such cipher.
    """
    suite = choose(cipher)
    key = content_key if content_key is not None else os.urandom(C.CL_KEY_SIZE)
    count = len(model.partitions)
    if not 1 <= version < 1 << 32:
        raise BundleError(f"model version {version} is outside 1 to {(1 << 32) - 1}", "choose another version")
    if not 1 <= count <= C.CL_MAX_PARTITIONS:
        raise BundleError(f"{count} partitions; the format takes 1 to {C.CL_MAX_PARTITIONS}", "allow larger partitions")
    for infos, what in ((model.inputs, "inputs"), (model.outputs, "outputs")):
        if not 1 <= len(infos) <= C.CL_MAX_IO:
            raise BundleError(f"{len(infos)} {what}; the format takes 1 to {C.CL_MAX_IO}", "split the model")

    key_id = content_key_id(key)
    header_size = ffi.sizeof("struct cl_sealed_header")
    nonces = [os.urandom(nonce_size(suite)) for _ in range(count)]
    descs, offset = b"", 0
    for plain, nonce in zip(model.partitions, nonces, strict=True):
        sealed_size = header_size + len(plain) + C.CL_TAG_SIZE
        descs += pack(
            new(
                "struct cl_partition_desc",
                offset=offset,
                sealed_size=sealed_size,
                plain_size=len(plain),
                nonce=list(nonce),
            )
        )
        offset = align(offset + sealed_size)
    ios = b"".join(io_bytes(info) for info in [*model.inputs, *model.outputs])
    layers = model.layers
    if len(layers) > C.CL_MAX_LAYERS:
        raise BundleError(f"{len(layers)} layers; the format takes {C.CL_MAX_LAYERS}", "split the model")
    table = _sealed_layers(layers, suite, key)
    pair = _pair(section, first_uses) if section else b""
    manifest_size = ffi.sizeof("struct cl_manifest") + len(pair)
    header = new(
        "struct cl_manifest",
        magic=C.CL_MAGIC_MANIFEST,
        version=C.CL_FORMAT_VERSION,
        header_size=manifest_size,
        total_size=manifest_size + len(ios) + len(descs) + len(table) + C.CL_SIGNATURE_SIZE,
        suite=SUITES[suite],
        model_id=list(model_id(name, vendor.public)),
        content_key_id=list(key_id),
        name=_encode_name(name, "model name"),
        model_version=version,
        input_count=len(model.inputs),
        output_count=len(model.outputs),
        partition_count=count,
        arena_size=model.arena_size,
        largest_partition=max(map(len, model.partitions)),
        payload_size=offset,
    )
    unsigned = pack(header) + pair + ios + descs + table
    digest = hashlib.sha256(unsigned).digest()

    sealing = cipher_of(suite, key)
    payload = bytearray()
    for index, (plain, nonce) in enumerate(zip(model.partitions, nonces, strict=True)):
        payload += pack(
            new(
                "struct cl_sealed_header",
                magic=C.CL_MAGIC_SEALED,
                version=C.CL_FORMAT_VERSION,
                index=index,
                count=count,
                content_key_id=list(key_id),
            )
        )
        payload += sealing.encrypt(nonce, plain, _aad(digest, index, count))
        payload += bytes(align(len(payload)) - len(payload))
    return Bundle(unsigned + vendor.sign(MANIFEST_DOMAIN + digest), bytes(payload), section), key


def _pair(section: bytes, first_uses: Sequence[int]) -> bytes:
    digest = hashlib.sha256(section).digest()
    return pack(new("struct cl_pair", backbone_digest=list(digest), first_use=list(first_uses)))
