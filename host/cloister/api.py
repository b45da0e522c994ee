# SPDX-License-Identifier: BSD-2-Clause
"""The Python API, of the same shape as the command line: ``compile``, ``licence``, ``connect``.

``prune``, ``edgepro``, ``attack`` and ``protect``, which need torch, are described in :mod:`cloister.protect.api`.

>>> import cloister                                                          # doctest: +SKIP
>>> bundle = cloister.compile("model.onnx", name="model")                    # doctest: +SKIP
>>> with cloister.connect("qemu") as device:                                 # doctest: +SKIP
...     licence = cloister.licence(bundle, device.public_key())
...     print(device.load(bundle, licence).run(images).labels)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloister.errors import CloisterError
from cloister.password import Password, PasswordError, lock_of
from cloister.protect.api import attack, edgepro, protect, prune
from cloister.seal import Bundle, Licence, VendorKey, issue_licence, seal_bundle
from cloister.seal.ciphers import AUTO, choose
from cloister.seal.keys import (
    load_content_key,
    load_lock,
    load_lock_name,
    save_content_key,
    save_lock,
    save_lock_name,
)
from cloister.seal.licence import device_id
from cloister.seal.record import DeviceRecord

if TYPE_CHECKING:
    import onnx

    from cloister.quantization import Agreement
    from cloister.tensors import Array

__all__ = ["attack", "compile", "edgepro", "licence", "protect", "prune", "quantize"]


def compile(  # noqa: A001 - the name that a user guesses
    model: str | Path | onnx.ModelProto,
    *,
    backbone: str | Path | onnx.ModelProto | None = None,
    name: str | None = None,
    version: int = 1,
    dims: Mapping[str, int] | None = None,
    max_partition: int | None = None,
    secure_memory: int | None = None,
    weights: str = "float32",
    winograd: bool = True,
    password: Password | Path | str | None = None,
    cipher: str = AUTO,
    devices: Iterable[DeviceRecord] = (),
    keys: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Bundle:
    """Compile an ONNX model into a sealed bundle.

    Args:
        model: path of an ONNX file, or a model in memory.
        backbone: makes a pair: the model is a CPM, whose inputs bear the names of outputs (taps) of this one. The
            backbone runs in the normal world of the device; the bundle brings it in clear, bound to the manifest.
        name: the model's name on devices (default: the file's name without its ending).
        version: the model's version, 1 or more; raise it with every release.
        dims: values of free dimensions by name (a free batch dimension is 1 by default).
        max_partition: most bytes of a plain partition (default: chosen for ``secure_memory``).
        secure_memory: bytes of the smallest secure memory in which the model must run; more of the same bundle stays
            resident where there is more. Default: 4 MiB where that costs little, else 8 MiB or whatever is enough.
        weights: "int8" stores the weights of float operators in a quarter of the bytes, rounded.
        winograd: 3x3 convolutions may be computed by Winograd's F(4x4, 3x3) where that takes fewer instructions; False:
            all directly, whose rounding differs slightly.
        password: what the model is locked with, or its file: refused where the model cannot be locked so. It does not
            enter the bundle; a digest of its lock is noted beside the content key, for :func:`licence`, and with or
            without a password the name that a locked model has of its lock.
        cipher: "aegis-128l" (devices with AES instructions), "chacha20-poly1305" or "aes-256-gcm" (every device), or
            "auto": the fastest that all of ``devices`` have; without any "chacha20-poly1305".
        devices: records of devices on which it shall run (``device.record()``, ``DeviceRecord.load(path)``).
        keys: directory of the vendor's keys (default: the user's). The content key is kept there for licences.
        progress: called with step, done and total while it compiles.

    Raises:
        CipherError: a device lacks the cipher, or it does not exist.
        UnsupportedModelError: names every node, operator and attribute that is not supported.
        MemoryBudgetError: the model cannot run in ``secure_memory``; names the smallest that it can.
        PairError: CPM and backbone do not fit each other.
        PasswordError: the password is another lock's or names what cannot be locked, or the normal world would see a
            locked tensor.
        KeyFileError: there is no vendor key.
    """
    from cloister.compile import compile_onnx
    from cloister.compile.pair import compile_pair

    known = [record.ciphers for record in devices]
    suite = choose(cipher, known)
    vendor = VendorKey.load(keys)
    if name is None:
        name = Path(model).stem if isinstance(model, str | Path) else (model.graph.name or "model")
    if secure_memory is None and max_partition is None:
        secure_memory = 0
    opened = _password(password)
    choices: dict[str, Any] = {
        "dims": dims or {},
        "max_partition": max_partition,
        "secure_memory": secure_memory,
        "weights": weights,
        "winograd": winograd,
        "password": opened,
        # Nobody chose what is taken where nothing is known of the devices.
        "cipher": suite if known or cipher != AUTO else None,
        "progress": progress,
    }
    if backbone is None:
        compiled = compile_onnx(model, **choices)
        bundle, content_key = seal_bundle(compiled, vendor, name=name, version=version, cipher=suite)
    else:
        pair = compile_pair(model, backbone, **choices)
        bundle, content_key = seal_bundle(
            pair.cpm,
            vendor,
            name=name,
            version=version,
            cipher=suite,
            section=pair.section,
            first_uses=pair.first_use,
        )
    key_id = bytes(bundle.header.content_key_id)
    save_content_key(key_id, content_key, keys)
    if opened is not None:
        save_lock(key_id, opened.lock_digest, keys)
    # also where no password was given: licence then refuses another lock's all the same
    if lock := lock_of(model) or (opened.lock_id if opened else ""):
        save_lock_name(key_id, lock, keys)
    return bundle


def quantize(
    model: str | Path | onnx.ModelProto,
    samples: str | Path | Array | Mapping[str, Array],
    output: str | Path,
    *,
    per_channel: bool = False,
    method: str = "minmax",
    password: Password | Path | str | None = None,
) -> Agreement:
    """Make an 8-bit model (standard QDQ ONNX) from an fp32 model with onnxruntime's static quantiser.

    Args:
        model: path of an ONNX file, or a model in memory.
        samples: typical inputs with a leading axis of samples: a file (.npy, .npz), an array, or arrays by input name.
        output: ONNX file to write.
        per_channel: a scale for each output channel of the weights.
        method: "minmax", "percentile" or "entropy".
        password: what the model is locked with, or its file: ranges are measured with it, and the result is locked too.

    Returns:
        How far the quantised model agrees with the fp32 one on the samples; of a locked model both with the password.

    Raises:
        QuantizationError: the samples do not fit, onnxruntime is missing (extra ``quantize``), or it fails; the model
            is locked, and no password is given.
        PasswordError: the password is not this model's, or its scales need ``per_channel``.
    """
    from cloister.locked_quantised import quantize_locked
    from cloister.quantization import load_samples, quantize_model

    values = load_samples(Path(samples)) if isinstance(samples, str | Path) else samples
    opened = _password(password)
    if opened is not None:
        return quantize_locked(model, opened, values, output, per_channel=per_channel, method=method)
    return quantize_model(model, values, output, per_channel=per_channel, method=method)


def licence(
    bundle: Bundle,
    device_key: bytes,
    *,
    output: str = "label",
    top_k: int = 0,
    queries: int = 0,
    rate_per_minute: int = 0,
    min_version: int | None = None,
    max_version: int | None = None,
    password: Password | Path | str | None = None,
    personal: bool = False,
    keys: Path | None = None,
) -> Licence:
    """Let one device run one bundle; arguments as :func:`cloister.seal.issue_licence` describes them.

    Args:
        bundle: compiled with the same keys.
        device_key: the device's public key, 32 bytes.
        password: what a locked model needs to answer as its owner's did, or its file.
        personal: give the device a password of its own, which :meth:`cloister.password.Password.trace` knows again.
        keys: directory of the vendor's keys (default: the user's).

    Raises:
        CloisterError: ``personal`` without a password.
        PasswordError: it is not the one that the bundle was compiled with, of another lock than the bundle's model
            says it has, or of another model.
    """
    opened, key_id = _password(password), bytes(bundle.header.content_key_id)
    if personal and opened is None:
        raise CloisterError("there is no password to make the device's own from", "give one, or leave personal out")
    if personal and opened is not None:
        opened = opened.for_device(device_id(device_key))
    made = issue_licence(
        bundle,
        load_content_key(key_id, keys),
        device_key,
        VendorKey.load(keys),
        output=output,
        top_k=top_k,
        queries=queries,
        rate_per_minute=rate_per_minute,
        min_version=min_version,
        max_version=max_version,
        password=opened,
    )
    # Behind what is said of a password whose layers the bundle has not at all.
    noted = load_lock(key_id, keys)
    if opened is not None and noted not in (None, opened.lock_digest):
        raise PasswordError(
            f"the password of {opened.model!r} is not the one that bundle {bundle.name!r} was compiled with: it locks "
            "other channels, or to other values",
            "give the .pwd file of this very lock; or, if the model was locked anew, compile that one",
        )
    if opened is not None:
        opened.check_lock(load_lock_name(key_id, keys))
    return made


def _password(given: Password | Path | str | None) -> Password | None:
    return Password.read(Path(given)) if isinstance(given, str | Path) else given
