"""What can go wrong, as one small tree.

Raise where the fault is known, answer in one place. Every error carries `reason` (a word for logs, metrics and
`data.reason`) and a message in lower case: what was expected, what came, what to do. Never a secret in it.
"""


class FastproxyError(Exception):
    """Root of the tree. `reason` is a stable word; `str(error)` is for people."""

    reason = "internal"

    def __init__(self, message: str = "", *, reason: str | None = None) -> None:
        super().__init__(message or (reason or self.reason))
        if reason is not None:
            self.reason = reason


class ConfigError(FastproxyError):
    """The owner asked for something impossible: exit code 2, one line per problem on standard error."""

    reason = "bad_configuration"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class StartError(FastproxyError):
    """We cannot begin for a reason outside of the configuration (port in use, store refuses us): exit code 1."""

    reason = "cannot_start"


class StoreError(FastproxyError):
    """Something about the session store."""

    reason = "session_store"


class StoreUnavailable(StoreError):
    """The store did not answer in time, or the connection failed; it may be back in a moment."""

    reason = "session_store_unavailable"


class StoreRefused(StoreError):
    """The store answered that it will not serve us (password, database, not Redis at all)."""

    reason = "session_store_refused"


class StoreFull(StoreError):
    """`memory:` holds as many sessions as it may."""

    reason = "too_many_sessions"


class RecordTooNew(StoreError):
    """A newer fastproxy wrote this record; we must neither use nor overwrite it."""

    reason = "record_too_new"
