"""Live reload: the configuration is read again on SIGHUP, and when its file has changed; what can hold at once does.

    SIGHUP, Watch.has_changed --> Reloader --> config/watch.py: what may change --> apply: settings.py, or the workers
                                     |--> Reloads: what became of it, for /readyz and /metrics

All or nothing: a problem anywhere in it is logged, line by line, and the old configuration stays.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from fastproxy import errors
from fastproxy.config import schema, watch

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at the file: one stat each
REFUSED, RESTART_NEEDED = "configuration_refused", "configuration_needs_restart"

Apply = Callable[[schema.ServeConfig], None]
"""From now on this holds. StartError: it can't, and nothing has changed."""


class Reloads:
    """How often, and what the last one left behind: reasons and words, as /readyz says them."""

    def __init__(self) -> None:
        self.counts = {"applied": 0, "restart_needed": 0, "refused": 0}
        self.faults: Mapping[str, str] = {}

    def count(self, outcome: str, faults: Mapping[str, str]) -> None:
        """One more."""
        self.counts[outcome] += 1
        self.faults = faults


class Reloader:
    """`config` is what holds. Who applies it does so at once."""

    def __init__(self, config: schema.ServeConfig, watched: watch.Watch, reloads: Reloads, apply: Apply) -> None:
        self.config = config
        self._watch = watched
        self._reloads = reloads
        self._apply = apply

    async def follow(self) -> None:
        """For ever: reload when the file has changed."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._watch.has_changed():
                self.reload()

    def reload(self) -> None:
        """Read it all again. Some milliseconds of this process's time."""
        try:
            loaded = self._watch.load()
            change = watch.merge(self.config, loaded.config)
            self._apply(change.config)
        except errors.ConfigError as error:
            self._refuse(error.problems)
            return
        except errors.StartError as error:
            self._refuse([str(error)])
            return
        self.config = change.config
        for warning in loaded.warnings:
            logger.warning("%s", warning)
        faults = {}
        if change.restart_needed:
            names = ", ".join(change.restart_needed)
            faults[RESTART_NEEDED] = f"the change of {names} needs a restart"
            logger.warning("configuration: the change of %s needs a restart", names)
        logger.info("configuration reloaded: changed=%s", ",".join(change.applied) or "nothing")
        self._reloads.count("restart_needed" if change.restart_needed else "applied", faults)

    def _refuse(self, problems: list[str]) -> None:
        for problem in problems:
            logger.error("configuration was not reloaded, the old one stays: %s", problem)
        self._reloads.count("refused", {REFUSED: "; ".join(problems)})
