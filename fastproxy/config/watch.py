"""The configuration while the process runs: has its file changed, what does it say now, what of that can hold at once.

    file, SIGHUP --> Watch.load: flags, environment and file anew --> merge: with what runs --> Change

Only the file can have changed: flags and environment are those of the start. Which settings need a restart stands in
the table of settings; those keep the values with which the process runs. Nothing is applied here, and nobody waits.
"""

import os
from collections.abc import Mapping

import msgspec

from fastproxy.config import load, schema

_Signature = tuple[int, int, int, int]

# The listener speaks TLS or it does not; a certificate is only replaced by another.
_TLS = ("tls_cert", "tls_key")
_SOURCES = ("backend", "command")


class Change(msgspec.Struct, frozen=True):
    """What holds from now on, which settings of it are new, and which wait for a restart."""

    config: schema.ServeConfig
    applied: tuple[str, ...]
    restart_needed: tuple[str, ...]


class Watch:
    """Flags and environment as they were given, and the file that they name."""

    def __init__(self, flags: Mapping[str, object], environ: Mapping[str, str]) -> None:
        self._flags = dict(flags)
        self._environ = dict(environ)
        self._file = load.find_file(flags, environ)
        self._loaded = self._seen = self._look()

    def load(self) -> load.Loaded:
        """All of it, read anew. errors.ConfigError holds every problem."""
        self._loaded = self._seen = self._look()  # before it is read: what is written meanwhile is a change again
        return load.load(self._flags, self._environ)

    def has_changed(self) -> bool:
        """Is there another file than the one that was loaded last, good or bad? Asked from time to time: one that still
        changed since the last question is not ready, its writer may be at it. A file that is away is no other."""
        seen = self._look()
        settled, self._seen = seen == self._seen, seen
        return settled and seen is not None and seen != self._loaded

    def _look(self) -> _Signature | None:
        """What differs when the file does; through symlinks, since whole folders are swapped that way (ConfigMaps)."""
        if not self._file:
            return None
        try:
            found = os.stat(self._file)
        except (OSError, ValueError):
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def merge(running: schema.ServeConfig, wanted: schema.ServeConfig) -> Change:
    """What runs, with all that is wanted and needs no restart."""
    changed = [name for name in schema.SETTINGS if getattr(running, name) != getattr(wanted, name)]
    waiting = {name for name in changed if schema.SETTINGS[name].restart_needed}
    if bool(running.tls_cert) != bool(wanted.tls_cert):
        waiting.update(name for name in _TLS if name in changed)
    if "command" in waiting:
        waiting.update(name for name in _SOURCES if name in changed)
    applied = tuple(name for name in changed if name not in waiting)
    config = msgspec.structs.replace(running, **{name: getattr(wanted, name) for name in applied})
    return Change(config, applied, tuple(name for name in changed if name in waiting))
