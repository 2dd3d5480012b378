"""Which steps may begin: each as soon as those it depends on are over, however they ended. No barriers. Pure."""

from collections.abc import Mapping, Sequence


class Graph:
    """The steps of one run. Ids come out in the order of the definition."""

    def __init__(self, depends_on: Mapping[str, Sequence[str]]) -> None:
        self._waits_for = {step: set(needed) for step, needed in depends_on.items()}
        self._wanted_by: dict[str, list[str]] = {step: [] for step in depends_on}
        for step, needed in self._waits_for.items():
            for other in needed:
                self._wanted_by[other].append(step)

    def begin(self) -> list[str]:
        """Those that depend on nothing."""
        return self._take([step for step, needed in self._waits_for.items() if not needed])

    def end(self, step: str) -> list[str]:
        """A step is over: those that may begin now."""
        for other in self._wanted_by[step]:
            if other in self._waits_for:
                self._waits_for[other].discard(step)
        return self._take([other for other in self._wanted_by[step] if not self._waits_for.get(other, {other})])

    @property
    def waiting(self) -> list[str]:
        """Those that have not begun."""
        return list(self._waits_for)

    def _take(self, steps: list[str]) -> list[str]:
        for step in steps:
            del self._waits_for[step]
        return steps


def find_cycle(depends_on: Mapping[str, Sequence[str]]) -> str | None:
    """A step that waits for itself in the end; None: there is none."""
    graph = Graph(depends_on)
    begun = graph.begin()
    while begun:
        begun.extend(graph.end(begun.pop()))
    left = graph.waiting
    if not left:
        return None
    seen: list[str] = []
    step = left[0]
    while step not in seen:  # everything left waits for something left, so that this comes round
        seen.append(step)
        step = next(other for other in depends_on[step] if other in left)
    return step
