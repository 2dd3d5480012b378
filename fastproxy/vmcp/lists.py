"""The lists of a catalog, made of what backends offer: tools under one set of names, and resources, templates, prompts.

    tools       overrides ─ naming.py: one rule ─ visibility ─ sort ─> Tools
    the others  the first who offers a URI has it; prompts are named by a rule of their own ─> Others

What is left out is noted with its reason. Pure.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from fastproxy.config import vmcp_schema
from fastproxy.vmcp import naming, offers, paging, presentation, templates


class Target(msgspec.Struct, frozen=True):
    """Where a call goes: the backend, and its own name (or URI) for it."""

    backend: str
    name: str


class Composite(msgspec.Struct, frozen=True):
    """A tool of our own, made of steps: how it is told, and what runs it."""

    name: str
    raw: msgspec.Raw
    definition: object


class LeftOut(msgspec.Struct, frozen=True):
    """What some backend offers and no client sees, for a reason that its owner should know."""

    backend: str
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what} of {self.backend}: {self.why}"


class Told(msgspec.Struct, frozen=True):
    """A backend's tool in our words, and what they were made of."""

    offer: offers.Offer
    name: str
    override: vmcp_schema.Override | None
    item: bytes
    narrow: bytes

    def is_of(self, offer: offers.Offer, name: str, override: vmcp_schema.Override | None) -> bool:
        """Whether the same would be told again."""
        return self.name == name and self.override == override and bytes(self.offer.raw) == bytes(offer.raw)


class Tools(msgspec.Struct):
    """Everything about tools."""

    shown: dict[str, Target | Composite]
    pages: paging.Pages  # as they are
    narrow: paging.Pages  # for clients of the revisions with sessions
    steps: dict[str, Target]  # hidden ones too, by their names here and as backend.tool
    told: dict[Target, Told]  # every tool of every backend, as it is (or would be) told


class Others(msgspec.Struct):
    """Everything about resources, templates and prompts."""

    resources: dict[str, Target]
    templates: list[tuple[templates.Template, Target]]
    prompts: dict[str, Target]
    pages: dict[str, paging.Pages]


def build_tools(
    aggregation: vmcp_schema.Aggregation,
    ordered: Sequence[offers.Offers],
    known_words: Mapping[Target, Told],
    seal: paging.Seal,
    missing: list[LeftOut],
) -> tuple[Tools, tuple[str, ...]]:
    """Everything about tools, and the conflicts that nobody has settled. `known_words`: those of an earlier catalog."""
    claims: list[naming.Claim] = []
    by_own: dict[Target, tuple[offers.Offer, vmcp_schema.Override | None]] = {}
    for one in ordered:
        rules = aggregation.rules(one.backend)
        for tool in one.tools:
            override = rules.overrides.get(tool.name) if rules else None
            wanted = override.name if override and override.name else tool.name
            claims.append(naming.Claim(one.backend, tool.name, wanted))
            by_own[Target(one.backend, tool.name)] = (tool, override)
    names = naming.name_tools(claims, aggregation)
    _note(missing, names, "tool")
    named = {Target(claim.backend, claim.own): name for name, claim in names.given.items()}
    steps = {name: target for target, name in named.items()}
    told: dict[Target, Told] = {}
    for claim in claims:
        target = Target(claim.backend, claim.own)
        told[target] = _tell(*by_own[target], named.get(target, claim.wanted), known_words.get(target))
        steps.setdefault(f"{claim.backend}.{claim.own}", target)
    visible = {name: target for target, name in named.items() if _is_visible(aggregation, target)}
    listed = sorted((name, told[target]) for name, target in visible.items())
    pages, narrow = make_pages([(name, one.item, one.narrow) for name, one in listed], seal)
    shown: dict[str, Target | Composite] = dict(visible)
    return Tools(shown, pages, narrow, steps, told), names.conflicts


def make_pages(told: Sequence[tuple[str, bytes, bytes]], seal: paging.Seal) -> tuple[paging.Pages, paging.Pages]:
    """The list of tools as they are, and as clients of older revisions take them; one where there is no difference.
    `told`: names in order, with both."""
    pages = paging.Pages("tools", [(name, item) for name, item, _ in told], seal)
    if all(item == narrow for _, item, narrow in told):
        return pages, pages
    return pages, paging.Pages("tools", [(name, narrow) for name, _, narrow in told], seal)


def _tell(offer: offers.Offer, override: vmcp_schema.Override | None, name: str, known: Told | None) -> Told:
    if known is not None and known.is_of(offer, name, override):
        return known
    item = presentation.tell_tool(offer, name, override)
    return Told(offer, name, override, item, presentation.narrow_tool(item))


def _is_visible(aggregation: vmcp_schema.Aggregation, target: Target) -> bool:
    if aggregation.exclude_all_tools:
        return False
    rules = aggregation.rules(target.backend)
    if rules is None:
        return aggregation.default_visible
    return not rules.exclude_all and (not rules.filter or target.name in rules.filter)


def build_others(
    aggregation: vmcp_schema.Aggregation, ordered: Sequence[offers.Offers], seal: paging.Seal, missing: list[LeftOut]
) -> Others:
    """Everything about resources, templates and prompts."""
    resources = _take_first(ordered, "resource", lambda one: one.resources, missing)
    kept = _take_first(ordered, "template", lambda one: one.templates, missing)
    prompts = {(one.backend, prompt.name): prompt for one in ordered for prompt in one.prompts}
    names = naming.name_prompts([naming.Claim(backend, own, own) for backend, own in prompts], aggregation)
    _note(missing, names, "prompt")
    listed = {
        "resources": [(uri, presentation.pack(offer.raw)) for uri, (_, offer) in sorted(resources.items())],
        "templates": [(text, presentation.pack(offer.raw)) for text, (_, offer) in sorted(kept.items())],
        "prompts": [
            (name, presentation.tell_prompt(prompts[claim.backend, claim.own], name))
            for name, claim in sorted(names.given.items())
        ],
    }
    members = {kind.field: kind.member for kind in offers.KINDS}
    return Others(
        {uri: target for uri, (target, _) in resources.items()},
        [(templates.read(text), target) for text, (target, _) in sorted(kept.items())],
        {name: Target(claim.backend, claim.own) for name, claim in names.given.items()},
        {kind: paging.Pages(members[kind], items, seal) for kind, items in listed.items()},
    )


def _take_first(
    ordered: Sequence[offers.Offers],
    noun: str,
    pick: Callable[[offers.Offers], Sequence[offers.Offer]],
    missing: list[LeftOut],
) -> dict[str, tuple[Target, offers.Offer]]:
    """URIs are never renamed: the first backend that has one keeps it."""
    taken: dict[str, tuple[Target, offers.Offer]] = {}
    for one in ordered:
        for offer in pick(one):
            holder, _ = taken.setdefault(offer.name, (Target(one.backend, offer.name), offer))
            if holder.backend != one.backend:
                why = f"{holder.backend} offers the same"
                missing.append(LeftOut(one.backend, f"{noun} {offer.name}", why))
    return taken


def _note(missing: list[LeftOut], names: naming.Names, noun: str) -> None:
    missing += [LeftOut(one.claim.backend, f"{noun} {one.claim.own}", one.why) for one in names.left_out]
