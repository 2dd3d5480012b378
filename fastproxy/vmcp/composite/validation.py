"""All that is wrong with composite tools, and what is probably not meant, in one answer.

reading.py knows what each key may hold; here is what holds between keys, steps and tools.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from fastproxy.config import units
from fastproxy.config import vmcp_place as places
from fastproxy.vmcp.composite import definition as definitions
from fastproxy.vmcp.composite import graph, reading, template

ROOT = "compositeTools"


class Checked(msgspec.Struct, frozen=True):
    """`definitions`: those without a problem. `problems`, `doubts`: a line each, with its path."""

    definitions: tuple[definitions.Definition, ...]
    problems: tuple[str, ...]
    doubts: tuple[str, ...]


def find_problems(raw: Sequence[Mapping[str, object]]) -> Iterable[str]:
    """The problems alone."""
    return check(raw).problems


def check(raw: Sequence[Mapping[str, object]]) -> Checked:
    """Every entry of `compositeTools`, as it was written."""
    notes = places.Notes([], [])
    root = places.Place(notes, {}, ROOT)
    good: list[definitions.Definition] = []
    for index, one in enumerate(raw):
        place = root.item(index)
        read = reading.read(place, one)
        _check_graph(place.key("steps"), one)
        if read is places.INVALID:
            continue
        before = len(notes.problems)
        _check_defaults(place, read)
        if len(notes.problems) == before:
            _doubt_times(place, read)
            good.append(read)
    names = [str(one.get("name")) for one in raw if isinstance(one, dict) and isinstance(one.get("name"), str)]
    places.refuse_twice(root, names, "name of a composite tool")
    return Checked(tuple(good), tuple(notes.problems), tuple(notes.doubts))


def _check_graph(place: places.Place, raw: object) -> None:
    """Ids and dependencies, as far as they can be read, whatever else is wrong with the steps."""
    listed = raw.get("steps") if isinstance(raw, dict) else None
    steps = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    ids = [one.get("id") for one in steps]
    known: dict[str, tuple[str, ...]] = {}
    for index, one in enumerate(steps):
        name = one.get("id")
        if not isinstance(name, str) or not name:
            continue
        if name in ids[:index]:
            place.item(index).key("id").refuse(f"{units.quote(name)} is duplicated")
        depends = one.get("dependsOn")
        depends = [other for other in depends if isinstance(other, str)] if isinstance(depends, list) else []
        for other in depends:
            if other not in ids:
                suggestion = places.suggest(other, {str(one): None for one in ids if isinstance(one, str)})
                place.item(index).key("dependsOn").refuse(f"references unknown step {units.quote(other)}{suggestion}")
        known[name] = tuple(other for other in depends if other in ids)
    looped = graph.find_cycle(known)
    if looped is not None:
        place.refuse(f"dependency cycle detected involving step {units.quote(looped)}")


def _check_defaults(place: places.Place, read: definitions.Definition) -> None:
    """Who reads a field of a step that may be skipped must find it then, too."""
    places_of = {step.id: place.key("steps").item(index) for index, step in enumerate(read.steps)}
    skippable = {step.id: step for step in read.steps if step.may_be_skipped}
    told: set[tuple[str, str]] = set()
    for reader, one in _templates_of(read):
        for chain in sorted(one.chains):
            if len(chain) < 4 or chain[0] != "steps" or chain[2] != "output" or chain[1] not in skippable:
                continue
            step, field = chain[1], chain[3]
            if field in skippable[step].default_results or (step, field) in told:
                continue
            told.add((step, field))
            places_of[step].key("defaultResults").refuse(
                f"defaultResults[{field}] is required: step {step} may be skipped "
                f"and field {field} is referenced by {reader}"
            )


def _templates_of(read: definitions.Definition) -> Iterator[tuple[str, template.Template]]:
    for step in read.steps:
        if step.condition is not None:
            yield f"the condition of {step.id}", step.condition
        match step.action:
            case definitions.Call(_, arguments):
                for name, one in arguments.items():
                    if isinstance(one, template.Template):
                        yield f"argument {name} of {step.id}", one
            case definitions.Question(message):
                yield f"the message of {step.id}", message
            case definitions.Loop(collection):
                yield f"the collection of {step.id}", collection
    if read.output is not None:
        yield from _templates_of_properties("output", read.output.properties)


def _templates_of_properties(
    path: str, properties: Mapping[str, definitions.Property]
) -> Iterator[tuple[str, template.Template]]:
    for name, one in properties.items():
        if one.value is not None:
            yield f"{path}.{name}", one.value
        if one.properties is not None:
            yield from _templates_of_properties(f"{path}.{name}", one.properties)


def _doubt_times(place: places.Place, read: definitions.Definition) -> None:
    """A loop that may need longer than its step, or its workflow, is given."""
    for index, step in enumerate(read.steps):
        if not isinstance(step.action, definitions.Loop):
            continue
        loop = step.action
        rounds = math.ceil(loop.iterations_max / loop.parallel_max)
        needed = rounds * loop.step.timeout_seconds
        given, whose = min((step.timeout_seconds, "the step"), (read.timeout_seconds, "the workflow"))
        if given < needed:
            place.key("steps").item(index).doubt(
                f"{loop.iterations_max} iterations, {loop.parallel_max} at a time, may take "
                f"{units.show_duration(needed)} at {units.show_duration(loop.step.timeout_seconds)} each, "
                f"and {whose} has {units.show_duration(given)}"
            )
