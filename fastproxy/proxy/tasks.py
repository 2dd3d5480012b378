"""Background tasks, started through one door that names them and keeps a reference until they end."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from fastproxy import errors

logger = logging.getLogger(__name__)


class Tasks:
    """All tasks of one process."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Begin `work`. A fault in it is logged; it never takes the process with it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        fault = None if task.cancelled() else task.exception()
        if isinstance(fault, errors.FastproxyError):
            logger.debug("task %s ended with %r", task.get_name(), fault)  # whoever awaits it has been told
        elif fault is not None:
            logger.error("task %s died", task.get_name(), exc_info=fault)

    async def stop(self) -> None:
        """Cancel whatever still runs, and wait for it."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
