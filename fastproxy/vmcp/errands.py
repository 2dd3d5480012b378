"""A parked call's retry that reaches another replica than where the call waits: carried there, and its outcome back.

    here: resume(state) --Resumed--> the replica that the state names: parking.resume
                        <--ResumedBeside, ResumedDone--                 or Abandoned --> its client has left

The words go over the store (bus.py), so that no replica needs an address towards the others. With `memory:` there is
one process, and every call waits here. A replica that dies takes its parked calls with it: the client is told that its
call may have run.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from fastproxy import errors
from fastproxy.vmcp import bridge, bus, parking, peer, words

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0  # between two looks whether the other replica is there
SERVED_MAX = 1000  # numbers remembered: a word may come twice


class _Awaited(msgspec.Struct):
    done: asyncio.Future[words.ResumedDone]
    on_message: peer.OnMessage


class Errands:
    """One per process."""

    def __init__(
        self, parked: parking.Parking, fleet: bus.Bus, *, start_task: Callable[..., asyncio.Task[Any]]
    ) -> None:
        self._parking = parked
        self._bus = fleet
        self._start_task = start_task
        self._numbers = itertools.count(1)
        self._awaited: dict[str, _Awaited] = {}
        self._served: dict[str, asyncio.Task[None]] = {}
        fleet.on(words.Resumed, self._hear_resumed)
        fleet.on(words.Abandoned, self._hear_abandoned)
        fleet.on(words.ResumedBeside, self._hear_beside)
        fleet.on(words.ResumedDone, self._hear_done)

    async def resume(self, visit: parking.Visit, state: str, *, on_message: peer.OnMessage) -> bytes:
        """As Parking.resume, wherever the call waits."""
        place = self._parking.place_of(state)
        if place is None:
            raise parking.UnknownState
        if place == self._parking.place:
            return await self._parking.resume(visit, state, on_message=on_message)
        return await self._send(visit, state, place, on_message)

    # ---- to the replica where it waits

    async def _send(self, visit: parking.Visit, state: str, place: str, on_message: peer.OnMessage) -> bytes:
        number = f"{self._bus.replica}-{next(self._numbers)}"
        word = words.Resumed(
            self._bus.replica,
            number,
            state,
            visit.method,
            visit.params,
            visit.principal,
            bytes(visit.caller.client_info),
            bytes(visit.caller.capabilities),
            visit.caller.log_level,
        )
        if len(visit.params) > bus.MESSAGE_BYTES_MAX:
            raise peer.BackendError(place, "too large to be passed on to the replica where the call waits")
        awaited = _Awaited(asyncio.get_running_loop().create_future(), on_message)
        self._awaited[number] = awaited
        try:
            await self._reach(word, place, ran=False)
            while not awaited.done.done():
                await asyncio.wait({awaited.done}, timeout=LOOK_SECONDS)
                if not awaited.done.done():
                    await self._reach(words.Abandoned(number, over=False), place, ran=True)
        except asyncio.CancelledError:
            self._bus.tell(words.Abandoned(number, over=True), to=place)
            raise
        finally:
            del self._awaited[number]
        return _outcome(awaited.done.result())

    async def _reach(self, word: words.Any, place: str, *, ran: bool) -> None:
        try:
            if await self._bus.reach(word, place):
                return
        except errors.StoreUnavailable as error:
            if ran:
                return  # nobody knows; what it has to say may yet come
            raise peer.BackendError("", "the replica where the call waits can't be asked now") from error
        detail = "the replica where the call waited is gone"
        raise peer.BackendError("", detail, reason="backend_lost", may_have_run=True)

    def _hear_beside(self, word: words.ResumedBeside) -> None:
        awaited = self._awaited.get(word.number)
        if awaited is not None:
            awaited.on_message(word.message)

    def _hear_done(self, word: words.ResumedDone) -> None:
        awaited = self._awaited.get(word.number)
        if awaited is not None and not awaited.done.done():
            awaited.done.set_result(word)

    # ---- for another replica

    def _hear_resumed(self, word: words.Resumed) -> None:
        if word.number in self._served:
            return
        while len(self._served) >= SERVED_MAX:
            del self._served[next(iter(self._served))]
        self._served[word.number] = self._start_task(self._serve(word), name="resume a call for a replica")

    def _hear_abandoned(self, word: words.Abandoned) -> None:
        if word.over and word.number in self._served:
            self._served[word.number].cancel()

    async def _serve(self, word: words.Resumed) -> None:
        caller = bridge.Caller(msgspec.Raw(word.client_info), msgspec.Raw(word.capabilities), word.log_level)
        visit = parking.Visit(word.method, word.params, word.principal, caller)

        def tell_beside(message: bytes) -> None:
            self._bus.tell(words.ResumedBeside(word.number, message), to=word.asker)

        def done(kind: str, body: bytes = b"", *, error: peer.BackendError | None = None) -> words.ResumedDone:
            status = error.status if isinstance(error, peer.Refused) else 200
            if error is None:
                return words.ResumedDone(word.number, kind, body, status, "", "", False)
            return words.ResumedDone(word.number, kind, body, status, error.backend, error.reason, error.may_have_run)

        try:
            result = await self._parking.resume(visit, word.state, on_message=tell_beside)
            if len(result) > bus.MESSAGE_BYTES_MAX:
                detail = "its result is too large to be passed on between replicas"
                raise peer.BackendError("", detail, reason="result_too_large", may_have_run=True)
            said = done("result", result)
        except parking.UnknownState:
            said = done("unknown")
        except parking.NotDeclared as error:
            said = done("missing", msgspec.json.encode(error.required))
        except peer.Refused as error:
            said = done("error", error.error, error=error)
        except peer.BackendError as error:
            said = done("failed", str(error).encode(), error=error)
        self._bus.tell(said, to=word.asker)


def _outcome(said: words.ResumedDone) -> bytes:
    match said.kind:
        case "result":
            return said.body
        case "unknown":
            raise parking.UnknownState
        case "missing":
            raise parking.NotDeclared(msgspec.json.decode(said.body, type=dict[str, object]))
        case "error":
            raise peer.Refused(said.backend, said.body, status=said.status)
    detail = said.body.decode("utf-8", "replace").removeprefix(f"{said.backend}: ")
    raise peer.BackendError(said.backend, detail, reason=said.reason, may_have_run=said.may_have_run)
