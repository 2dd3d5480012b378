"""What a fault did to the sessions, as numbers; which promises it broke; the table, in the README too. Pure."""

import collections
from collections.abc import Collection, Mapping, Sequence

import msgspec

from bench import machine
from tests.chaos import clients, deeds, faults

TABLE_BEGINS, TABLE_ENDS = "<!-- made by `make chaos`: begin -->\n", "<!-- made by `make chaos`: end -->\n"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The promises, as numbers; all but the seconds hold for any machine, however busy."""

    errors_of_others: int = 0
    slowest_call_of_others_seconds: float = 2.0
    recovered_seconds: float = 2.0
    ran_twice: int = 0
    lost: int = 0  # but sessions that a fault must lose, which are told so


LIMITS = Limits()


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One fault. `involved`: whom it concerns; `recovered_seconds`: until the last of those was served again;
    `lost`: sessions that were told that they are unknown; `must_lose`: so many of these may be."""

    store: str
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
    must_lose: int
    anew: int
    wrong: list[str]
    broken: list[str]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A run."""

    started_at: str
    seconds: int
    seed: int
    family: str = "valkey"  # of the stores' servers
    machine: machine.Machine
    proxies: int
    replicas: int
    limits: Limits
    left_out: dict[str, str]  # a store: why this machine can't have it
    outcomes: list[Outcome]


def involve(
    fault: faults.Fault,
    span: deeds.Span,
    calls: Sequence[clients.Call],
    *,
    at_home: Collection[int],
    newcomers: Collection[int],
) -> set[int]:
    """The sessions that a fault concerns."""
    involved: set[int] = set()
    if faults.HOME in fault.concerns:
        involved |= set(at_home)
    if faults.NEWCOMERS in fault.concerns:
        involved |= set(newcomers)
    if faults.CALLS in fault.concerns:
        end = span.servable if fault.waits else span.done
        involved |= {call.session for call in calls if call.proxy == fault.proxy and call.overlaps(span.begin, end)}
    return involved


def judge(
    fault: faults.Fault,
    span: deeds.Span,
    calls: Sequence[clients.Call],
    *,
    store: str,
    involved: Collection[int],
    newcomers: Collection[int],
    sessions: Mapping[int, clients.Session],
    ran: Sequence[str],
    limits: Limits = LIMITS,
) -> Outcome:
    """`calls`: all since just before the fault; `ran`: the replicas' log of these."""
    of_others = [call for call in calls if call.session not in involved]
    of_involved = [call for call in calls if call.session in involved]
    lost = {number for number, one in sessions.items() if one.lost_at is not None and one.lost_at >= span.begin}
    must_lose = lost & set(newcomers) if fault.loses else set()
    recovered = [_recovered_at(number, span, of_involved) for number in involved if number not in lost]
    anew = {number for number, one in sessions.items() if any(at >= span.begin for at in one.anew_at)}
    outcome = Outcome(
        store=store,
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
        lost=len(lost),
        must_lose=len(must_lose),
        anew=len(anew),
        wrong=[f"session {one.number}: {words}" for one in sessions.values() for words in one.wrong],
        broken=[],
    )
    odd = {call.error for call in of_involved if call.error and not any(words in call.error for words in fault.tells)}
    stray = anew if not fault.forgets else anew - set(involved)
    return msgspec.structs.replace(outcome, broken=_find_broken(outcome, limits, stray=len(stray), odd=odd))


def _recovered_at(number: int, span: deeds.Span, calls: Sequence[clients.Call]) -> float | None:
    """When it was first served again, after all that went wrong for it."""
    own = [call for call in calls if call.session == number]
    last_error = max((call.ended_at for call in own if call.error is not None), default=span.servable)
    served = [call.ended_at for call in own if call.error is None and call.ended_at >= max(last_error, span.servable)]
    return min(served, default=None)


def _find_broken(outcome: Outcome, limits: Limits, *, stray: int, odd: Collection[str]) -> list[str]:
    broken = [f"an error that this fault does not explain: {error}" for error in sorted(odd)]
    if outcome.errors_of_others > limits.errors_of_others:
        broken.append(f"{outcome.errors_of_others} errors of sessions that are not involved")
    if outcome.slowest_call_of_others_seconds > limits.slowest_call_of_others_seconds:
        broken.append(f"a call of another session took {outcome.slowest_call_of_others_seconds} s")
    if outcome.recovered_seconds is None:
        broken.append("a session was not served again")
    elif outcome.recovered_seconds > limits.recovered_seconds:
        broken.append(f"recovery took {outcome.recovered_seconds} s")
    if outcome.ran_twice > limits.ran_twice:
        broken.append(f"{outcome.ran_twice} calls ran twice")
    if outcome.lost - outcome.must_lose > limits.lost:
        broken.append(f"{outcome.lost - outcome.must_lose} sessions were lost")
    if stray:
        broken.append(f"{stray} sessions began anew whose replica had not died")
    return broken + outcome.wrong


HEADS = (
    "store",
    "fault",
    "calls",
    "sessions concerned",
    "errors of the others (0)",
    f"their slowest call (≤ {LIMITS.slowest_call_of_others_seconds:g} s)",
    "errors of the concerned",
    f"served again after (≤ {LIMITS.recovered_seconds:g} s)",
    "run twice (0)",
    "lost (0, or what it must)",
    "begun anew",
    "promises",
)


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown; a store is named in its first line."""
    rows = [HEADS, ("---",) * len(HEADS)]
    store = ""
    for outcome in outcomes:
        rows.append(("" if outcome.store == store else f"**{outcome.store}**", *_row(outcome)))
        store = outcome.store
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
        f"{outcome.slowest_call_of_others_seconds:.2f} s" if outcome.involved < outcome.sessions else "–",
        str(outcome.errors_of_involved),
        recovered,
        str(outcome.ran_twice),
        f"{outcome.lost} of {outcome.lost} that it must" if outcome.must_lose else str(outcome.lost),
        str(outcome.anew),
        "kept" if not outcome.broken else "BROKEN",
    )


def passage(result: Result) -> str:
    """What the README says of a run."""
    calls = sum(outcome.calls for outcome in result.outcomes)
    kept = sum(not outcome.broken for outcome in result.outcomes)
    left_out = "".join(f" Left out: {store} ({reason})." for store, reason in result.left_out.items())
    return (
        f"{len(result.outcomes)} faults in {result.seconds} s, {calls:,} calls, on {result.machine.cpus} × "
        f"{result.machine.cpu}; every promise kept by {kept}.{left_out}\n\n{table(result.outcomes)}\n"
    )


def check(text: str) -> None:
    """ValueError: the page has no marks to write between."""
    if text.find(TABLE_BEGINS) < 0 or text.find(TABLE_ENDS) < text.find(TABLE_BEGINS):
        raise ValueError(f"no {TABLE_BEGINS.strip()} and {TABLE_ENDS.strip()}")


def put_in(text: str, result: Result) -> str:
    """A page with the passage between its two marks."""
    check(text)
    before, begins, rest = text.partition(TABLE_BEGINS)
    _, ends, after = rest.partition(TABLE_ENDS)
    return before + begins + "\n" + passage(result) + "\n" + ends + after
