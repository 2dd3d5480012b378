"""The graph of steps against a plain simulation: everything begins as soon as it may, and nothing before."""

import hypothesis
import hypothesis.strategies as st

from fastproxy.vmcp.composite import graph


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Without cycles: a step depends on earlier ones; the order of listing is another."""
    names = [f"s{number}" for number in range(draw(st.integers(1, 12)))]
    depends = {
        name: draw(st.lists(st.sampled_from(names[:index]), unique=True)) if index else []
        for index, name in enumerate(names)
    }
    return {name: depends[name] for name in draw(st.permutations(names))}


@hypothesis.given(graphs(), st.randoms(use_true_random=False))
def test_a_step_begins_when_all_that_it_waits_for_are_over_and_not_before(
    depends: dict[str, list[str]], dice: object
) -> None:
    running = graph.Graph(depends)
    begun, over = running.begin(), set[str]()
    started = list(begun)
    while begun:
        step = begun.pop(dice.randrange(len(begun)))
        over.add(step)
        fresh = running.end(step)
        assert sorted(fresh) == sorted(
            name for name, needed in depends.items() if name not in started and set(needed) <= over
        )
        started += fresh
        begun += fresh
    assert sorted(started) == sorted(depends), "each once"
    assert running.waiting == []
    assert graph.find_cycle(depends) is None


@hypothesis.given(graphs(), st.data())
def test_a_cycle_is_found_and_what_is_named_is_on_it(depends: dict[str, list[str]], data: st.DataObject) -> None:
    names = list(depends)
    loop = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    for step, following in zip(loop, [*loop[1:], loop[0]], strict=True):
        depends[step] = [*depends[step], following]
    found = graph.find_cycle(depends)
    assert found is not None
    reached, left = set[str](), list(depends[found])
    while left:
        step = left.pop()
        if step not in reached:
            reached.add(step)
            left += depends[step]
    assert found in reached
