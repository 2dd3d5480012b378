"""The shared store: sessions in Redis or Valkey, single, behind Sentinel, or a Cluster (interface §4).

    operation --> circuit (away? fail at once) --> a slot and the deadline --> redis-py --> fault, if any --> circuit
    tracking  --> echo of our own write? drop it : changed(key)

Keys are `{prefix}{store key}`; `{prefix}!claim:{store key}`, `…!affinity:{key}`, `…!news` and `…!probe` are never
sessions, for a store key has no `!`. What must happen at once happens inside the server, in one command or one script
(redis_scripts.py). Nothing here logs, and no error names, a session.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import redis.asyncio
import redis.exceptions

from fastproxy import errors
from fastproxy.session import circuit, record, redis_client, redis_scan, redis_scripts, redis_watch, store

Result = TypeVar("Result")
Record = TypeVar("Record", bound=store.Kept)

_CONNECTIONS_MAX = 32  # per process; more operations at once queue for them
_PROBE_SECONDS_MAX = 0.5  # a peer that drops packets is asked again soon, so that its return is soon seen
_NEWS_MILLISECONDS = 60_000  # after the last of the fleet
_PIPELINE_COMMANDS_MAX = 512  # longer ones would keep the server, and others' deadlines, waiting


class RedisRecords(Generic[Record]):
    """A RecordStore on a server that all replicas of the proxy share; it carries their words to each other, too."""

    def __init__(
        self,
        address: redis_client.Address,
        *,
        form: store.Form[Record],
        key_prefix: str,
        ttl_seconds: float,
        operation_seconds_max: float = 1.0,
        observe: store.Observer = store.observe_nothing,
    ) -> None:
        self.errors_total = 0
        self.bad_records_total = 0
        self._address = address
        self._form = form
        self._prefix = key_prefix
        self._ttl_seconds = ttl_seconds
        self._ttl = ("EX", int(ttl_seconds)) if ttl_seconds == int(ttl_seconds) else ("PX", _milliseconds(ttl_seconds))
        self._seconds_max = operation_seconds_max
        self._observe = observe
        self._connected = redis_client.connect(
            address,
            operation_seconds_max=operation_seconds_max,
            connections_max=_CONNECTIONS_MAX + 4,  # the probe needs no slot
        )
        self._client = self._connected.client
        self._slots = asyncio.Semaphore(_CONNECTIONS_MAX)
        self._circuit = circuit.Circuit(self._probe)
        self._refused_at = float("-inf")
        self._probes_briefly = True
        self._echoes = redis_watch.Echoes()
        self._watch: redis_watch.Watch | None = None
        self._ear: redis_watch.Ear | None = None

    @property
    def available(self) -> bool:
        return self._circuit.fault is None

    @property
    def seconds_since_return(self) -> float:
        return min(self._circuit.seconds_since_return, time.monotonic() - self._refused_at)

    @property
    def fault(self) -> errors.StoreError | None:
        return self._circuit.fault

    async def open(self) -> None:
        try:
            async with asyncio.timeout(self._seconds_max):
                await self._check_rights()
        except redis_client.FAULTS as error:
            fault = redis_client.fault(error)
            if isinstance(fault, errors.StoreUnavailable):
                self._circuit.trip(fault)
                self._start_watching()
            raise fault from error
        self._circuit.serve()
        self._start_watching()

    async def close(self) -> None:
        if self._watch is not None:
            await self._watch.stop()
        await self._circuit.stop()
        await self._connected.close()

    async def ping(self) -> None:
        await self._serve("ping", self._write_probe)

    def watch(self, changed: Callable[[str], None], broken: Callable[[], None]) -> None:
        self._watch = redis_watch.Watch(
            address=self._address,
            connected=self._connected,
            echoes=self._echoes,
            prefix=self._prefix,
            changed=changed,
            broken=broken,
            breaker=self._circuit,
        )

    def listen(self, name: str, heard: Callable[[bytes], None]) -> None:
        self._ear = redis_watch.Ear((self._channel(None), self._channel(name)), heard)

    async def tell(self, message: bytes, *, to: str | None = None) -> bool:
        listeners = await self._serve("tell", lambda: self._command("PUBLISH", self._channel(to), message))
        # Who listens at another node of a cluster is not counted.
        return bool(listeners) or self._address.kind != "redis"

    def _channel(self, name: str | None) -> str:
        return f"{self._prefix}!bus" if name is None else f"{self._prefix}!bus:{name}"

    async def create(self, session: Record) -> bool:
        key = record.store_key(session.session_id)
        value = self._form.encode(session)

        async def create() -> int:
            return 1 if await self._command("SET", self._prefix + key, value, "NX", *self._ttl) else 0

        return await self._write("create", key, create) > 0

    async def load(self, session_id: str) -> Record | None:
        key = record.store_key(session_id)
        value = await self._serve("load", lambda: self._get(key))
        return None if value is None else self._decode(value, key)

    async def find(self, session_id: str) -> store.Found[Record] | None:
        key = record.store_key(session_id)
        value, milliseconds_left = await self._serve("load", lambda: self._get_with_time(key))
        session = None if value is None else self._decode(value, key)
        # Below zero: a record without expiry is not as we have written it; the renewal that is due at once mends that.
        return None if session is None else store.Found(session, max(0, milliseconds_left) / 1000)

    async def update(self, session: Record, *, expected_generation: int) -> bool:
        key = record.store_key(session.session_id)
        arguments = (self._form.encode(session), expected_generation, *self._ttl, self._form.version)

        async def update() -> int:
            try:
                return int(await self._run(redis_scripts.UPDATE, self._prefix + key, *arguments))
            except redis.exceptions.ResponseError as error:
                if not _is_wrong_type(error):
                    raise
                return -1

        outcome = await self._write("update", key, update)
        if outcome == -1:
            self.bad_records_total += 1
        if outcome == -2:
            raise errors.RecordTooNew(f"session record is of a later version than {self._form.version}")
        return outcome == 1

    async def delete(self, session_id: str) -> bool:
        key = record.store_key(session_id)

        async def delete() -> int:
            return int(await self._command("DEL", self._prefix + key))

        return await self._write("delete", key, delete) > 0

    async def touch(self, session_ids: Sequence[str]) -> list[str]:
        missing: list[str] = []
        for start in range(0, len(session_ids), _PIPELINE_COMMANDS_MAX):
            missing += await self._touch_some(session_ids[start : start + _PIPELINE_COMMANDS_MAX])
        return missing

    async def page(self, cursor: str | None, limit: int) -> tuple[list[Record], str | None]:
        place = None if cursor is None else redis_scan.Cursor.parse(cursor)
        return await self._serve("page", lambda: self._page(place, min(limit, redis_scan.PAGE_RECORDS_MAX)))

    async def claim(self, session_id: str, owner: str, seconds: float) -> bool:
        key = f"{self._prefix}!claim:{record.store_key(session_id)}"
        return bool(
            await self._serve("claim", lambda: self._run(redis_scripts.CLAIM, key, owner, _milliseconds(seconds)))
        )

    async def release(self, session_id: str, owner: str) -> None:
        key = f"{self._prefix}!claim:{record.store_key(session_id)}"
        await self._serve("release", lambda: self._run(redis_scripts.RELEASE, key, owner))

    async def remember(self, key: str, value: str, seconds: float) -> None:
        name = f"{self._prefix}!affinity:{key}"
        await self._serve("remember", lambda: self._command("SET", name, value, "PX", _milliseconds(seconds)))

    async def recall(self, key: str) -> str | None:
        value = await self._serve("recall", lambda: self._get(f"!affinity:{key}"))
        return None if value is None else value.decode("utf-8", "replace")

    async def share_news(self, member: str, news: str, gone: Sequence[str]) -> dict[str, str]:
        key = f"{self._prefix}!news"
        lines = await self._serve(
            "share_news", lambda: self._run(redis_scripts.SHARE_NEWS, key, member, news, _NEWS_MILLISECONDS, *gone)
        )
        return dict(line.split(" ", 1) for line in lines.decode("utf-8", "replace").splitlines())

    async def _serve(self, operation: str, work: Callable[[], Awaitable[Result]]) -> Result:
        """The way of every operation: circuit, slot, deadline, metrics. Only what waits for the server counts as its
        slowness: the deadline begins with the slot, and who queued for it looks at the circuit again."""
        started = time.perf_counter()
        try:
            self._circuit.check()
            async with self._slots:
                self._circuit.check()
                result = await self._attempt(work)
        except errors.StoreError:
            self.errors_total += 1
            self._observe(operation, time.perf_counter() - started, False)
            raise
        self._observe(operation, time.perf_counter() - started, True)
        return result

    async def _write(self, operation: str, key: str, work: Callable[[], Awaitable[int]]) -> int:
        """An operation on one key whose own invalidation must not come back to us. A result below 1: not written."""
        self._echoes.expect(key)
        written = True  # what was cut short may have been
        try:
            result = await self._serve(operation, work)
            written = result > 0
        finally:
            self._echoes.settle(key, written=written)
        return result

    async def _attempt(self, work: Callable[[], Awaitable[Result]]) -> Result:
        try:
            async with asyncio.timeout(self._seconds_max):
                return await work()
        except redis_client.FAULTS as error:  # the deadline's too
            fault = redis_client.fault(error)
            if redis_client.is_away(error):
                self._circuit.trip(fault)
            elif redis_client.refuses_writes(error):
                self._refused_at = time.monotonic()
            # Whoever asks while the proxy runs can only wait, whatever the reason; `fault` tells the owner which.
            raise errors.StoreUnavailable(str(fault)) from error

    async def _probe(self) -> None:
        """With all the time there is, which a far server needs for a new connection; while it is away every second one
        is brief."""
        brief = self._probes_briefly and not self.available
        seconds_max = min(self._seconds_max, _PROBE_SECONDS_MAX) if brief else self._seconds_max
        self._probes_briefly = True
        try:
            async with asyncio.timeout(seconds_max):
                if not self.available:
                    await self._connected.renew()
                await self._write_probe()
        except redis_client.FAULTS as error:
            if redis_client.is_away(error):
                self._probes_briefly = seconds_max == self._seconds_max or not isinstance(error, TimeoutError)
                raise redis_client.fault(error) from error

    async def _write_probe(self) -> None:
        # A write: a master that has become a replica still answers PING.
        await self._command("SET", f"{self._prefix}!probe", "1", "PX", 1000)

    async def _check_rights(self) -> None:
        """One of each command that we need, so that a user who may not learns of it at start."""
        name = f"{self._prefix}!probe"
        await self._write_probe()
        await self._command("GET", name)
        await self._command("EXPIRE", name, 1)
        await self._command("SCAN", 0, "MATCH", redis_scan.pattern(name), "COUNT", 1)
        await self._run(redis_scripts.RELEASE, name, "nobody")
        await self._command("DEL", name)

    def _start_watching(self) -> None:
        if self._watch is not None:
            self._watch.ear = self._ear
            self._watch.start()

    async def _touch_some(self, session_ids: Sequence[str]) -> list[str]:
        keys = [record.store_key(session_id) for session_id in session_ids]
        option, time_left = self._ttl
        command = "EXPIRE" if option == "EX" else "PEXPIRE"
        present = [1] * len(keys)
        for key in keys:
            self._echoes.expect(key)
        try:
            present = await self._serve(
                "touch", lambda: self._pipeline([(command, self._prefix + key, time_left) for key in keys])
            )
        finally:
            for key, is_there in zip(keys, present, strict=True):
                self._echoes.settle(key, written=bool(is_there))
        return [session_id for session_id, is_there in zip(session_ids, present, strict=True) if not is_there]

    async def _page(self, start: redis_scan.Cursor | None, limit: int) -> tuple[list[Record], str | None]:
        nodes = self._nodes()
        pattern = redis_scan.pattern(self._prefix)

        async def scan(node: str, place: int, count: int) -> tuple[int, list[bytes]]:
            if node not in nodes:
                return 0, []  # a cluster's node that has gone since the last page
            answer, names = await self._command("SCAN", place, "MATCH", pattern, "COUNT", count, **nodes[node])
            # redis-py's Cluster answers with a cursor for each node asked; that is one.
            return int(next(iter(answer.values())) if isinstance(answer, dict) else answer), names

        keys, following = await redis_scan.walk(start, limit, nodes=list(nodes), prefix=self._prefix, scan=scan)
        records = []
        for key, value in zip(keys, await self._pipeline([("GET", self._prefix + key) for key in keys]), strict=True):
            try:
                session = None if value is None else self._decode(value, key)
            except errors.RecordTooNew:
                continue
            if session is not None:
                records.append(session)
        return records, None if following is None else str(following)

    def _nodes(self) -> dict[str, dict[str, Any]]:
        """Where to SCAN: a name for the cursor, and how redis-py is told."""
        if not isinstance(self._client, redis.asyncio.RedisCluster):
            return {"": {}}
        return {str(node.name): {"target_nodes": node} for node in self._client.get_primaries()}

    async def _get(self, key: str) -> bytes | None:
        try:
            value: bytes | None = await self._command("GET", self._prefix + key)
        except redis.exceptions.ResponseError as error:
            if not _is_wrong_type(error):
                raise
            return b""  # a list or a hash at our key: not a record, and counted as one that is not
        return value

    async def _get_with_time(self, key: str) -> tuple[bytes | None, int]:
        value, milliseconds_left = await self._pipeline([("GET", self._prefix + key), ("PTTL", self._prefix + key)])
        return value, int(milliseconds_left)

    def _decode(self, value: bytes, key: str) -> Record | None:
        try:
            return self._form.decode(value, key=key)
        except record.BadRecord:
            self.bad_records_total += 1
            return None

    async def _command(self, *words: str | bytes | int, **where: Any) -> Any:
        return await redis_client.until_sent(lambda: self._client.execute_command(*words, **where))

    async def _run(self, script: redis_scripts.Script, key: str, *arguments: str | bytes | int) -> Any:
        try:
            return await self._command("EVALSHA", script.sha, 1, key, *arguments)
        except redis.exceptions.NoScriptError:
            return await self._command("EVAL", script.lua, 1, key, *arguments)

    async def _pipeline(self, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
        """The answers in order; a value of a foreign type answers b""."""
        answers: list[Any] = []
        for start in range(0, len(commands), _PIPELINE_COMMANDS_MAX):
            some = commands[start : start + _PIPELINE_COMMANDS_MAX]
            answers += await redis_client.ask_together(self._client, some)
        for position, answer in enumerate(answers):
            if isinstance(answer, Exception):
                if not _is_wrong_type(answer):
                    raise answer
                answers[position] = b""
        return answers


class RedisStore(RedisRecords[record.SessionRecord]):
    """The SessionStore of `serve` there."""

    def __init__(
        self,
        address: redis_client.Address,
        *,
        key_prefix: str,
        ttl_seconds: float,
        operation_seconds_max: float = 1.0,
        observe: store.Observer = store.observe_nothing,
    ) -> None:
        super().__init__(
            address,
            form=store.SessionForm(),
            key_prefix=key_prefix,
            ttl_seconds=ttl_seconds,
            operation_seconds_max=operation_seconds_max,
            observe=observe,
        )


def _is_wrong_type(error: Exception) -> bool:
    return isinstance(error, redis.exceptions.ResponseError) and str(error).startswith("WRONGTYPE")


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))
