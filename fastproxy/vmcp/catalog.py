"""The catalog: the offers of many backends under one set of names. Built whole when one of them changes, then read.

    {backend: Offers} ─ lists.py: overrides, one rule of naming.py, visibility, sort ─> pages of bytes · name → Target

Lists are rendered once, here; a client's tools/list is a look-up. What a tool is called here and what its backend calls
it are a Target apart; nothing else of a call changes. Tools that are not shown stay reachable for steps of composite
tools. Backends are taken by the order of their ids, so that every replica builds the same catalog. Pure.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from fastproxy.config import vmcp_schema
from fastproxy.vmcp import lists, naming, offers, paging, presentation, templates

MISSING_MAX = 100  # lines about what is left out, per backend
INSTRUCTIONS_CHARACTERS_MAX = 64 << 10  # of all backends' in one; models read every word of it

# Lists may grow whenever a backend joins, so that all of it is promised from the first answer on, whoever is there.
_CAPABILITIES = msgspec.Raw(
    b'{"tools":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},'
    b'"prompts":{"listChanged":true},"logging":{},"completions":{}}'
)

Target = lists.Target
Composite = lists.Composite
LeftOut = lists.LeftOut


class Catalog:
    """What clients see, and where their calls go."""

    def __init__(
        self,
        tools: lists.Tools,
        others: lists.Others,
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
        before = self._tools
        told = {
            name: (name, item, narrow)
            for name, item, narrow in zip(before.pages.names, before.pages.items, before.narrow.items, strict=True)
        }
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
                item = presentation.pack(composite.raw)
                told[composite.name] = (composite.name, item, presentation.narrow_tool(item))
                continue
            missing.append(LeftOut("composite tools", f"tool {composite.name}", why))
        pages, narrow = lists.make_pages(sorted(told.values()), self._seal)
        return Catalog(
            lists.Tools(shown, pages, narrow, self._tools.steps, self._tools.told),
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
    tools, conflicts = lists.build_tools(aggregation, ordered, known_words, seal, missing)
    others = lists.build_others(aggregation, ordered, seal, missing)
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
