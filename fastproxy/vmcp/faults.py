"""What is said to a client whose call has no result: JSON-RPC errors, in-band. Pure."""

import msgspec

from fastproxy import errors
from fastproxy.vmcp import peer

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
RESOURCE_NOT_FOUND = -32002  # of the revisions with sessions; -32602 later


class Fault(errors.FastproxyError):
    """A JSON-RPC error of our own."""

    reason = "refused"

    def __init__(self, code: int, message: str, data: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class _Error(msgspec.Struct, frozen=True, omit_defaults=True):
    code: int
    message: str
    data: dict[str, object] | None = None


def encode(code: int, message: str, data: dict[str, object] | None = None) -> bytes:
    """The `error` member of an answer."""
    return msgspec.json.encode(_Error(code, message, data))


def explain(error: peer.BackendError | Fault) -> bytes:
    """The `error` member for what went wrong. What the backend itself has said passes as it is."""
    if isinstance(error, Fault):
        return encode(error.code, str(error), error.data)
    if isinstance(error, peer.Refused):
        return error.error
    data: dict[str, object] = {"reason": error.reason, "backend": error.backend}
    if error.may_have_run:
        data["may_have_run"] = True
    return encode(INTERNAL_ERROR, str(error), data)


def unknown_tool(name: str) -> Fault:
    return Fault(INVALID_PARAMS, f"Unknown tool: {name[:200]}")


def unknown_prompt(name: str) -> Fault:
    return Fault(INVALID_PARAMS, f"Unknown prompt: {name[:200]}")


def unknown_resource(uri: str) -> Fault:
    return Fault(RESOURCE_NOT_FOUND, "Resource not found", {"uri": uri[:4096]})


def missing_param(name: str) -> Fault:
    return Fault(INVALID_PARAMS, f"expected {name} to be a string")
