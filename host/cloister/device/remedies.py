# SPDX-License-Identifier: BSD-2-Clause
"""What a user can do where the Cloister TA refuses something."""

from __future__ import annotations

from cloister.teec.codes import Code
from cloister.teec.errors import TeecError
from cloister.wire import C

_LICENCE = (
    "issue a licence for this bundle and this device's record (cloister provision -o device.json; cloister licence)"
)

#: By the TA's return code; those that need to know more get their remedy where that is known.
REMEDIES: dict[int, str] = {
    Code.SIGNATURE_INVALID: "bundle and licence must be signed with the vendor's key that the device's TA was built "
    "with; `cloister keys show` shows yours. Compile and license again with that key, or build the TA with yours "
    "(build/setup; python -m cloister_build all) and start the device again",
    Code.MAC_INVALID: "the bundle or the licence is damaged, or they do not belong together; compile and license again",
    Code.OUT_OF_MEMORY: "close other sessions, or compile the model for less (--secure-memory)",
    C.CL_ERROR_WRONG_KEY: f"bundle and licence do not belong together: {_LICENCE}",
    C.CL_ERROR_WRONG_DEVICE: _LICENCE,
    C.CL_ERROR_WRONG_MODEL: _LICENCE,
    C.CL_ERROR_WRONG_PARTITION: "the bundle is damaged; compile it again",
    C.CL_ERROR_VERSION: "bundle, licence and TA have different versions: build the TA anew, compile and license again",
    C.CL_ERROR_ROLLBACK: "the device has seen a newer version of the model, or this one is not licensed: take a newer",
    C.CL_ERROR_QUERY_LIMIT: "the licence's queries are used up; ask the vendor for another one",
    C.CL_ERROR_RATE_LIMIT: "wait a minute; the licence allows no more queries in one",
    C.CL_ERROR_OUTPUT_LIMIT: "ask for less (--output label), or issue a licence that allows more",
    C.CL_ERROR_NO_VENDOR: "make a key (cloister keys new), and build the TA with it (python -m cloister_build all)",
    C.CL_ERROR_NO_LICENCE: _LICENCE,
    C.CL_ERROR_PASSWORD: "the licence carries the password of another model; issue it anew with this model's",
}


def with_remedy(error: TeecError) -> TeecError:
    """The same error, with a remedy if it has none and one is known."""
    error.remedy = error.remedy or REMEDIES.get(error.code, "")
    return error
