"""The mutating webhook: pods that ask for a sidecar get it at the API server's door.

It answers AdmissionReviews of pods over TLS with a JSON patch of the whole spec and metadata, and never stands in the
way: a pod whose annotations make no sense is let in as it is, with a warning that says what would be right. The
webhook's configuration should say `failurePolicy: Ignore`, so that pods start while the operator does not.
"""

import asyncio
import base64
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from fastproxy import errors
from fastproxy.config import address, units
from fastproxy.operator import inject
from fastproxy.operator.manifest import Manifest

logger = logging.getLogger(__name__)

PATH = b"/inject"
HEAD_BYTES_MAX = 16 << 10
BODY_BYTES_MAX = 8 << 20  # the API server's own bound of an object is 3 MiB
SECONDS_MAX = 10.0  # what the API server waits


def review(body: bytes, *, image: str) -> bytes:
    """The answer to an AdmissionReview. Raises `msgspec.MsgspecError` or `KeyError` where it is none."""
    asked = msgspec.json.decode(body)
    request = asked["request"]
    response: dict[str, Any] = {"uid": request["uid"], "allowed": True}
    pod = request["object"]
    metadata = pod.get("metadata") or {}
    place = {"namespace": request.get("namespace") or "default"}
    named: Manifest = {**pod, "kind": "Pod", "metadata": {**metadata, **place}}
    try:
        injected = inject.inject(named, image=image)
    except units.WrongValue as wrong:
        response["warnings"] = [f"no sidecar: {wrong}"]
        injected = named
    if injected is not named:
        patch = [
            {"op": "add", "path": "/metadata/annotations", "value": injected["metadata"]["annotations"]},
            {"op": "replace", "path": "/spec", "value": injected["spec"]},
        ]
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(msgspec.json.encode(patch)).decode()}
    answer = {"apiVersion": asked.get("apiVersion"), "kind": "AdmissionReview", "response": response}
    return msgspec.json.encode(answer)


@contextlib.asynccontextmanager
async def serving(where: address.Address, cert: str | None, key: str | None, *, image: str) -> AsyncIterator[None]:
    """While in this block. The certificate is read for each new connection's context, so that a renewed one counts."""
    if cert is None or key is None:
        raise errors.StartError("--webhook needs --tls-cert and --tls-key: an API server calls over https only")
    context = _load(cert, key)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(SECONDS_MAX):
                while await _serve_one(reader, writer, image=image):
                    pass
        writer.close()

    try:
        server = await asyncio.start_server(answer, where.host, where.port, ssl=context, limit=HEAD_BYTES_MAX)
    except OSError as error:
        raise errors.StartError(f"cannot listen on {where}: {error.strerror or error}") from error
    port = server.sockets[0].getsockname()[1]
    print(f"fastproxy: webhook on https://{address.bracket(where.host)}:{port}/inject", flush=True)
    renewal = asyncio.create_task(_renew(context, cert, key), name="certificate")
    try:
        yield
    finally:
        renewal.cancel()
        server.close()


def _load(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise errors.StartError(f"--tls-cert and --tls-key cannot be used: {error}") from error
    return context


async def _renew(context: ssl.SSLContext, cert: str, key: str) -> None:
    """Mounted Secrets change under us; the context takes the new chain for the connections that come."""
    while True:
        await asyncio.sleep(60)
        try:
            context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            logger.warning("certificate reason=%s: the one before goes on", error)


async def _serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, image: str) -> bool:
    """One request of a connection; whether there may be another."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    length = fields.get(b"content-length", b"")
    if first.split(b"?")[0].split(b" ")[:2] != [b"POST", PATH]:
        return _write(writer, 404, b"not found: POST /inject is here\n")
    if not length.isdigit() or int(length) > BODY_BYTES_MAX:
        return _write(writer, 413, b"expected a Content-Length of at most 8 MiB\n")
    body = await reader.readexactly(int(length))
    try:
        answer = review(body, image=image)
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError) as error:
        return _write(writer, 400, f"expected an AdmissionReview of a pod: {error}\n".encode())
    _write(writer, 200, answer, keep=True)
    await writer.drain()
    return True


def _write(writer: asyncio.StreamWriter, status: int, body: bytes, *, keep: bool = False) -> bool:
    reason = {200: "OK", 400: "Bad Request", 404: "Not Found", 413: "Content Too Large"}[status]
    type_ = "application/json" if status == 200 else "text/plain"
    connection = "" if keep else "Connection: close\r\n"
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: {type_}\r\nContent-Length: {len(body)}\r\n{connection}\r\n"
    writer.write(head.encode() + body)
    return False
