"""Conflict rules: under which name each of many backends' tools and prompts is offered.

    claims, in order ─ one rule ─> Names: name → claim, what was left out and why, conflicts that nobody has settled

A rule is one pure function over all claims. No name is given twice, and the same claims always get the same names,
whatever order the backends answered in: backends come sorted, the earlier claim wins where a rule does not say more.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import msgspec

from fastproxy.config import vmcp_schema

TOOL_NAME_CHARACTERS_MAX = 64  # what model providers take; a longer one makes a client's whole list unusable

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]", re.ASCII)


class Claim(msgspec.Struct, frozen=True):
    """A backend wants to be known by `wanted` for what it calls `own` itself (they differ under an override)."""

    backend: str
    own: str
    wanted: str


class LeftOut(msgspec.Struct, frozen=True):
    """What is not offered, and why."""

    claim: Claim
    why: str


class Names(msgspec.Struct, frozen=True):
    """The outcome of a rule."""

    given: Mapping[str, Claim]
    left_out: tuple[LeftOut, ...] = ()
    conflicts: tuple[str, ...] = ()  # names that the owner has to settle before all is well


Rule = Callable[[Sequence[Claim], vmcp_schema.Aggregation], Names]


def add_prefix(prefix_format: str, backend: str, name: str) -> str:
    """The name behind its backend's prefix. A backend's name from a client's file may hold anything: its odd
    characters become `_`, since clients take few."""
    return prefix_format.replace("{workload}", _NOT_IN_A_NAME.sub("_", backend)) + name


def name_tools(claims: Sequence[Claim], aggregation: vmcp_schema.Aggregation) -> Names:
    """Names for tools, by the rule of the configuration, none longer than clients take."""
    names = TOOL_RULES[aggregation.strategy](claims, aggregation)
    too_long = {name: None for name in names.given if len(name) > TOOL_NAME_CHARACTERS_MAX}
    if not too_long:
        return names
    dropped = tuple(
        LeftOut(
            names.given[name],
            f"its name {name} has {len(name)} characters, clients take {TOOL_NAME_CHARACTERS_MAX} (override its name)",
        )
        for name in too_long
    )
    given = {name: claim for name, claim in names.given.items() if name not in too_long}
    return Names(given, names.left_out + dropped, names.conflicts)


def name_prompts(claims: Sequence[Claim], aggregation: vmcp_schema.Aggregation) -> Names:
    """Names for prompts, by the rule of the configuration."""
    return PROMPT_RULES[aggregation.strategy](claims, aggregation)


def prefix_all(claims: Sequence[Claim], aggregation: vmcp_schema.Aggregation) -> Names:
    """Every name behind its backend's prefix, in conflict or not."""
    return _give([(claim, _prefixed(claim, aggregation)) for claim in claims])


def prefer_listed(claims: Sequence[Claim], aggregation: vmcp_schema.Aggregation) -> Names:
    """A name that one backend wants is its. Of several the one that stands first in the order of priority gets it; when
    none of them stands there, each gets it behind its own prefix."""
    rank = {backend: place for place, backend in enumerate(aggregation.priority_order)}
    sole, prefixed, lost = [], [], []
    for name, contenders in _group(claims).items():
        winner = min(contenders, key=lambda claim: rank.get(claim.backend, len(rank)))
        if len(contenders) == 1:
            sole.append((winner, name))
        elif winner.backend not in rank:
            default = vmcp_schema.DEFAULT_PREFIX_FORMAT
            prefixed += [(claim, add_prefix(default, claim.backend, name)) for claim in contenders]
        else:
            sole.append((winner, name))
            why = f"{winner.backend} has priority for the name {name}"
            lost += [LeftOut(claim, why) for claim in contenders if claim is not winner]
    # Bare names first: a prefixed one that happens to be the same gives way.
    names = _give(sole + prefixed)
    return Names(names.given, (*lost, *names.left_out))


def require_overrides(claims: Sequence[Claim], aggregation: vmcp_schema.Aggregation) -> Names:
    """Each name as it is wanted; one that several want is a conflict, and none of them gets it."""
    given, left_out, conflicts = {}, [], []
    for name, contenders in _group(claims).items():
        if len(contenders) == 1:
            given[name] = contenders[0]
            continue
        who = " and ".join(f"{claim.backend} (its {claim.own})" for claim in contenders)
        conflicts.append(f"tool name conflict: {name} is wanted by {who} (override one of the names)")
        left_out += [LeftOut(claim, f"the name {name} is in conflict") for claim in contenders]
    return Names(given, tuple(left_out), tuple(conflicts))


def prefer_listed_prompts(claims: Sequence[Claim], aggregation: vmcp_schema.Aggregation) -> Names:
    """Backends in the order of priority keep bare names, the first of several; all others get their prefix. A name that
    is ambiguous even so is given to nobody."""
    rank = {backend: place for place, backend in enumerate(aggregation.priority_order)}
    listed = sorted((claim for claim in claims if claim.backend in rank), key=lambda claim: rank[claim.backend])
    wanted: dict[str, list[Claim]] = defaultdict(list)
    left_out = []
    for claim in listed:
        if wanted[claim.wanted]:
            why = f"{wanted[claim.wanted][0].backend} has priority for the name {claim.wanted}"
            left_out.append(LeftOut(claim, why))
        else:
            wanted[claim.wanted].append(claim)
    for claim in claims:
        if claim.backend not in rank:
            wanted[_prefixed(claim, aggregation)].append(claim)
    given = {name: contenders[0] for name, contenders in wanted.items() if len(contenders) == 1}
    for name, contenders in wanted.items():
        if len(contenders) > 1:
            left_out += [LeftOut(claim, f"the name {name} is ambiguous") for claim in contenders]
    return Names(given, tuple(left_out))


def _prefixed(claim: Claim, aggregation: vmcp_schema.Aggregation) -> str:
    return add_prefix(aggregation.prefix_format, claim.backend, claim.wanted)


def _group(claims: Sequence[Claim]) -> Mapping[str, list[Claim]]:
    groups: dict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        groups[claim.wanted].append(claim)
    return groups


def _give(pairs: Sequence[tuple[Claim, str]]) -> Names:
    """Each name to the first who gets it."""
    given: dict[str, Claim] = {}
    left_out = []
    for claim, name in pairs:
        holder = given.setdefault(name, claim)
        if holder is not claim:
            left_out.append(LeftOut(claim, f"the name {name} belongs to {holder.own} of {holder.backend}"))
    return Names(given, tuple(left_out))


TOOL_RULES: Mapping[str, Rule] = {
    vmcp_schema.PREFIX: prefix_all,
    vmcp_schema.PRIORITY: prefer_listed,
    vmcp_schema.MANUAL: require_overrides,
}
PROMPT_RULES: Mapping[str, Rule] = {
    vmcp_schema.PREFIX: prefix_all,
    vmcp_schema.PRIORITY: prefer_listed_prompts,
    vmcp_schema.MANUAL: prefix_all,
}
