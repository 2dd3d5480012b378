"""The catalog: the offers of many backends under one set of names. Built whole when one of them changes, then read.

    {backend: Offers} ─ overrides ─ naming.py: one rule ─ visibility ─ sort ─> pages of bytes · name → Target

Lists are rendered once, here; a client's tools/list is a look-up. What a tool is called here and what its backend calls
it are a Target apart; nothing else of a call changes. Tools that are not shown stay reachable for steps of composite
tools. Backends are taken by the order of their ids, so that every replica builds the same catalog. Pure.
"""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from fastproxy.config import vmcp_schema
from fastproxy.vmcp import naming, offers, paging, presentation, templates

MISSING_MAX = 100  # lines about what is left out, per backend
INSTRUCTIONS_CHARACTERS_MAX = 64 << 10  # of all backends' in one; models read every word of it

# Lists may grow whenever a backend joins, so that all of it is promised from the first answer on, whoever is there.
_CAPABILITIES = msgspec.Raw(
    b'{"tools":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},'
    b'"prompts":{"listChanged":true},"logging":{},"completions":{}}'
)


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


class _Told(msgspec.Struct, frozen=True):
    """A backend's tool in our words, and what they were made of."""

    offer: offers.Offer
    name: str
    override: vmcp_schema.Override | None
    item: bytes
    narrow: bytes

    def is_of(self, offer: offers.Offer, name: str, override: vmcp_schema.Override | None) -> bool:
        """Whether the same would be told again."""
        return self.name == name and self.override == override and bytes(self.offer.raw) == bytes(offer.raw)


class _Tools(msgspec.Struct):
    """Everything about tools."""

    shown: dict[str, Target | Composite]
    pages: paging.Pages  # as they are
    narrow: paging.Pages  # for clients of the revisions with sessions
    steps: dict[str, Target]  # hidden ones too, by their names here and as backend.tool
    told: dict[Target, _Told]  # every tool of every backend, as it is (or would be) told


class _Others(msgspec.Struct):
    """Everything about resources, templates and prompts."""

    resources: dict[str, Target]
    templates: list[tuple[templates.Template, Target]]
    prompts: dict[str, Target]
    pages: dict[str, paging.Pages]


class Catalog:
    """What clients see, and where their calls go."""

    def __init__(
        self,
        tools: _Tools,
        others: _Others,
        *,
        seal: paging.Seal,
        version: int,
        conflicts: tuple[str, ...],
        missing: tuple[LeftOut, ...],
        doubts: tuple[str, ...],
        instructions: str | None,
    ) -> None:
        self._tools = tools
        self._others = others
        self._seal = seal
        self.version = version
        self.conflicts = conflicts  # what the owner has to settle: /readyz is 503 meanwhile
        self.missing = missing
        self.left_out = tuple(str(one) for one in missing)  # a line each, for the log
        self.doubts = doubts  # entries of the configuration that match nothing
        self.instructions = instructions

    # ── what is told ────────────────────────────────────────────────────────────────────────────────────────────────

    def tools_page(self, cursor: str | None = None) -> bytes:
        """Members of the result of tools/list, for a client with a session. paging.WrongCursor: -32602; so with the
        others."""
        return self._tools.narrow.page(cursor)

    def tools_page_unnarrowed(self, cursor: str | None = None) -> bytes:
        """The same for a client of 2026-07-28, to whom a schema may be anything."""
        return self._tools.pages.page(cursor)

    def resources_page(self, cursor: str | None = None) -> bytes:
        """Members of the result of resources/list."""
        return self._others.pages["resources"].page(cursor)

    def templates_page(self, cursor: str | None = None) -> bytes:
        """Members of the result of resources/templates/list."""
        return self._others.pages["templates"].page(cursor)

    def prompts_page(self, cursor: str | None = None) -> bytes:
        """Members of the result of prompts/list."""
        return self._others.pages["prompts"].page(cursor)

    def capabilities(self) -> msgspec.Raw:
        """What `initialize` and `server/discover` promise."""
        return _CAPABILITIES

    def counts(self) -> dict[str, int]:
        """How many of each are told."""
        others = {kind: len(pages) for kind, pages in self._others.pages.items()}
        return {"tools": len(self._tools.pages), **others}

    def changes(self, before: "Catalog") -> frozenset[str]:
        """Which lists a client has to ask for again: of "tools", "resources" (their templates too) and "prompts"."""
        changed = set() if self._tools.pages.same(before._tools.pages) else {"tools"}
        for kind, pages in self._others.pages.items():
            if not pages.same(before._others.pages[kind]):
                changed.add("resources" if kind == "templates" else kind)
        return frozenset(changed)

    # ── where calls go ──────────────────────────────────────────────────────────────────────────────────────────────

    def tool(self, name: str) -> Target | Composite | None:
        """Who answers a client's tools/call of that name."""
        return self._tools.shown.get(name)

    def step_tool(self, name: str) -> Target | None:
        """Who answers a composite's step: by the name here, or `backend.its own name`; hidden tools too."""
        return self._tools.steps.get(name)

    def definition(self, target: Target) -> bytes | None:
        """A backend's tool as it is told here, overrides included: its schemas and annotations are in it."""
        told = self._tools.told.get(target)
        return None if told is None else told.item

    def prompt(self, name: str) -> Target | None:
        """Who answers prompts/get."""
        return self._others.prompts.get(name)

    def resource(self, uri: str) -> Target | None:
        """Who is asked for a URI: who lists it, or whose template it is, or could have been made from."""
        listed = self._others.resources.get(uri)
        if listed is not None:
            return listed
        if len(uri) > offers.URI_CHARACTERS_MAX:
            return None
        candidates = self._others.templates
        for template, target in candidates:
            if template.text == uri:
                return target
        subject = templates.Subject(uri)
        for template, target in candidates:
            if template.matches(subject):
                return Target(target.backend, uri)
        return None

    def completion(self, ref: Mapping[str, object]) -> Target | None:
        """Who completes an argument of what `ref` (of completion/complete) names."""
        if ref.get("type") == "ref/prompt" and isinstance(ref.get("name"), str):
            return self.prompt(str(ref["name"]))
        if ref.get("type") == "ref/resource" and isinstance(ref.get("uri"), str):
            return self.resource(str(ref["uri"]))
        return None

    # ── what is not told ────────────────────────────────────────────────────────────────────────────────────────────

    def left_out_of(self, backend: str) -> tuple[str, ...]:
        """What is missing of one backend, a line each, for /backends."""
        return tuple(f"{one.what}: {one.why}" for one in self.missing if one.backend == backend)

    def with_composites(self, composites: Iterable[Composite], hidden: Iterable[LeftOut] = ()) -> "Catalog":
        """The same with these tools of our own. One that is called as a shown tool of a backend is left out; so is one
        with a name too long. `hidden`: others, and why."""
        shown, missing = dict(self._tools.shown), [*self.missing, *hidden]
        items = dict(zip(self._tools.pages.names, self._tools.pages.items, strict=True))
        narrow = dict(zip(self._tools.narrow.names, self._tools.narrow.items, strict=True))
        for composite in composites:
            holder = shown.get(composite.name)
            if isinstance(holder, Target):
                why = f"the name belongs to {holder.name} of {holder.backend}"
            elif holder is not None:
                why = "the name is given twice"
            elif len(composite.name) > naming.TOOL_NAME_CHARACTERS_MAX:
                why = f"{len(composite.name)} characters, clients take {naming.TOOL_NAME_CHARACTERS_MAX}"
            else:
                shown[composite.name] = composite
                items[composite.name] = presentation.pack(composite.raw)
                narrow[composite.name] = presentation.narrow_tool(items[composite.name])
                continue
            missing.append(LeftOut("composite tools", f"tool {composite.name}", why))
        as_it_is = paging.Pages("tools", sorted(items.items()), self._seal)
        as_narrow = paging.Pages("tools", sorted(narrow.items()), self._seal)
        return Catalog(
            _Tools(shown, as_it_is, as_narrow, self._tools.steps, self._tools.told),
            self._others,
            seal=self._seal,
            version=self.version,
            conflicts=self.conflicts,
            missing=tuple(missing),
            doubts=self.doubts,
            instructions=self.instructions,
        )


def build(
    aggregation: vmcp_schema.Aggregation,
    known: Mapping[str, offers.Offers],
    *,
    seal: paging.Seal,
    version: int = 0,
    before: Catalog | None = None,
) -> Catalog:
    """The catalog of what is known of the backends, by their ids. `before`: an earlier one, whose words are used again
    for what has not changed."""
    ordered = [known[backend] for backend in sorted(known)]
    missing = [LeftOut(one.backend, *_split(line)) for one in ordered for line in one.rejected]
    known_words = before._tools.told if before is not None else {}
    tools, conflicts = _build_tools(aggregation, ordered, known_words, seal, missing)
    others = _build_others(aggregation, ordered, seal, missing)
    return Catalog(
        tools,
        others,
        seal=seal,
        version=version,
        conflicts=_bound_lines(conflicts),
        missing=tuple(_bound(missing)),
        doubts=_bound_lines(tuple(_find_doubts(aggregation, known))),
        instructions=_join_instructions(ordered),
    )


def _build_tools(
    aggregation: vmcp_schema.Aggregation,
    ordered: Sequence[offers.Offers],
    known_words: Mapping[Target, _Told],
    seal: paging.Seal,
    missing: list[LeftOut],
) -> tuple[_Tools, tuple[str, ...]]:
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
    told: dict[Target, _Told] = {}
    for claim in claims:
        target = Target(claim.backend, claim.own)
        told[target] = _tell(*by_own[target], named.get(target, claim.wanted), known_words.get(target))
        steps.setdefault(f"{claim.backend}.{claim.own}", target)
    visible = {name: target for target, name in named.items() if _is_visible(aggregation, target)}
    listed = sorted((name, told[target]) for name, target in visible.items())
    pages = paging.Pages("tools", [(name, one.item) for name, one in listed], seal)
    narrow = paging.Pages("tools", [(name, one.narrow) for name, one in listed], seal)
    shown: dict[str, Target | Composite] = dict(visible)
    return _Tools(shown, pages, narrow, steps, told), names.conflicts


def _tell(offer: offers.Offer, override: vmcp_schema.Override | None, name: str, known: _Told | None) -> _Told:
    if known is not None and known.is_of(offer, name, override):
        return known
    item = presentation.tell_tool(offer, name, override)
    return _Told(offer, name, override, item, presentation.narrow_tool(item))


def _is_visible(aggregation: vmcp_schema.Aggregation, target: Target) -> bool:
    if aggregation.exclude_all_tools:
        return False
    rules = aggregation.rules(target.backend)
    if rules is None:
        return aggregation.default_visible
    return not rules.exclude_all and (not rules.filter or target.name in rules.filter)


def _build_others(
    aggregation: vmcp_schema.Aggregation, ordered: Sequence[offers.Offers], seal: paging.Seal, missing: list[LeftOut]
) -> _Others:
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
    return _Others(
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


def _bound(missing: Sequence[LeftOut]) -> Iterable[LeftOut]:
    """The first of each backend: who offers nonsense by the thousand shall not fill the log with it."""
    counts = collections.Counter(one.backend for one in missing)
    seen: collections.Counter[str] = collections.Counter()
    for one in missing:
        seen[one.backend] += 1
        if seen[one.backend] <= MISSING_MAX:
            yield one
    for backend, count in counts.items():
        if count > MISSING_MAX:
            yield LeftOut(backend, "others", f"{count - MISSING_MAX} more are left out")


def _bound_lines(lines: tuple[str, ...]) -> tuple[str, ...]:
    more = len(lines) - MISSING_MAX
    return (*lines[:MISSING_MAX], f"and {more} more") if more > 0 else lines


def _split(line: str) -> tuple[str, str]:
    what, _, why = line.partition(": ")
    return what, why


def _find_doubts(aggregation: vmcp_schema.Aggregation, known: Mapping[str, offers.Offers]) -> Iterable[str]:
    for rules in aggregation.tools:
        one = known.get(rules.workload)
        if one is None:
            continue
        own = {tool.name for tool in one.tools}
        for where, wanted in (("filter", rules.filter), ("overrides", rules.overrides)):
            for name in wanted:
                if name not in own:
                    yield f"aggregation.tools: {rules.workload}: {where}: {name} matches no tool of the backend"


def _join_instructions(ordered: Sequence[offers.Offers]) -> str | None:
    spoken = [one for one in ordered if one.instructions]
    if len(ordered) == 1 and spoken:
        joined = spoken[0].instructions or ""
    else:
        joined = "\n\n".join(f"# {one.backend}\n\n{one.instructions}" for one in spoken)
    return joined[:INSTRUCTIONS_CHARACTERS_MAX] or None
