"""What a fault did to the sessions, as numbers; which promises it broke; the table. Pure."""

import collections
from collections.abc import Collection, Mapping, Sequence

import msgspec

from tests.chaos import clients, faults

RECOVERED_SECONDS_MAX = 2.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One fault. `involved`: whom it concerns; `recovered_seconds`: until the last of those was served again."""

    fault: str
    sessions: int
    calls: int
    involved: int
    errors_of_others: int
    slowest_call_of_others_seconds: float
    errors_of_involved: int
    errors: dict[str, int]
    recovered_seconds: float | None
    ran_twice: int
    lost: int
    anew: int
    wrong: list[str]
    broken: list[str]


def involve(
    fault: faults.Fault,
    span: faults.Span,
    calls: Sequence[clients.Call],
    *,
    at_home: Collection[int],
    newcomers: Collection[int],
) -> set[int]:
    """The sessions that a fault concerns."""
    if fault.concerns == faults.HOME:
        return set(at_home)
    if fault.concerns == faults.NEWCOMERS:
        return set(newcomers)
    if fault.concerns == faults.CALLS:
        end = span.servable if fault.waits else span.done
        return {call.session for call in calls if call.proxy == fault.victim and call.overlaps(span.begin, end)}
    return set()


def judge(
    fault: faults.Fault,
    span: faults.Span,
    calls: Sequence[clients.Call],
    *,
    involved: Collection[int],
    sessions: Mapping[int, clients.Session],
    ran: Sequence[str],
) -> Outcome:
    """`calls`: all since just before the fault; `ran`: the replicas' log of these."""
    of_others = [call for call in calls if call.session not in involved]
    of_involved = [call for call in calls if call.session in involved]
    recovered = [_recovered_at(number, span, of_involved) for number in involved]
    anew = {number for number, one in sessions.items() if any(at >= span.begin for at in one.anew_at)}
    outcome = Outcome(
        fault=fault.name,
        sessions=len(sessions),
        calls=len(calls),
        involved=len(involved),
        errors_of_others=sum(call.error is not None for call in of_others),
        slowest_call_of_others_seconds=round(max((c.ended_at - c.began_at for c in of_others), default=0.0), 2),
        errors_of_involved=sum(call.error is not None for call in of_involved),
        errors=dict(collections.Counter(call.error for call in calls if call.error is not None)),
        recovered_seconds=(
            None if None in recovered else round(max((at - span.servable for at in recovered if at), default=0.0), 2)
        ),
        ran_twice=len(ran) - len(set(ran)),
        lost=sum(one.lost_at is not None and one.lost_at >= span.begin for one in sessions.values()),
        anew=len(anew),
        wrong=[f"session {one.number}: {words}" for one in sessions.values() for words in one.wrong],
        broken=[],
    )
    odd = {call.error for call in of_involved if call.error and not any(words in call.error for words in fault.tells)}
    stray = anew if not fault.forgets else anew - set(involved)
    return msgspec.structs.replace(outcome, broken=_find_broken(outcome, stray=len(stray), odd=odd))


def _recovered_at(number: int, span: faults.Span, calls: Sequence[clients.Call]) -> float | None:
    """When it was first served again, after all that went wrong for it."""
    own = [call for call in calls if call.session == number]
    last_error = max((call.ended_at for call in own if call.error is not None), default=span.servable)
    served = [call.ended_at for call in own if call.error is None and call.ended_at >= max(last_error, span.servable)]
    return min(served, default=None)


def _find_broken(outcome: Outcome, *, stray: int, odd: Collection[str]) -> list[str]:
    broken = [f"an error that this fault does not explain: {error}" for error in sorted(odd)]
    if outcome.errors_of_others:
        broken.append(f"{outcome.errors_of_others} errors of sessions that are not involved")
    if outcome.recovered_seconds is None:
        broken.append("a session was not served again")
    elif outcome.recovered_seconds > RECOVERED_SECONDS_MAX:
        broken.append(f"recovery took {outcome.recovered_seconds} s")
    if outcome.ran_twice:
        broken.append(f"{outcome.ran_twice} calls ran twice")
    if outcome.lost:
        broken.append(f"{outcome.lost} sessions were lost")
    if stray:
        broken.append(f"{stray} sessions began anew whose replica had not died")
    return broken + outcome.wrong


HEADS = (
    "fault",
    "calls",
    "sessions involved",
    "errors of the others",
    "errors of the involved",
    "served again after",
    "run twice",
    "lost",
    "state begun anew",
    "promises",
)


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown."""
    rows = [HEADS, ("---",) * len(HEADS), *(_row(outcome) for outcome in outcomes)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _row(outcome: Outcome) -> tuple[str, ...]:
    if not outcome.involved:
        recovered = "–"
    else:
        recovered = "never" if outcome.recovered_seconds is None else f"{max(0.0, outcome.recovered_seconds):.2f} s"
    return (
        outcome.fault,
        str(outcome.calls),
        f"{outcome.involved} of {outcome.sessions}",
        str(outcome.errors_of_others),
        str(outcome.errors_of_involved),
        recovered,
        str(outcome.ran_twice),
        str(outcome.lost),
        str(outcome.anew),
        "kept" if not outcome.broken else "BROKEN",
    )
