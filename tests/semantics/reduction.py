"""Makes a failing scenario small enough to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from insights_engine.language import tree

from tests.semantics.strategies import Question, Scenario, plainly_written
from tests.semantics.world import Trace, World


def smallest(scenario: Scenario, fails: Callable[[Scenario], bool]) -> Scenario:
    """A scenario that still fails, and none of whose simpler variants does."""
    for question in scenario.questions:
        alone = replace(scenario, questions=(question,))
        if fails(alone):
            scenario = alone
            break
    simpler: Scenario | None = scenario
    while simpler is not None:
        scenario = simpler
        simpler = next((variant for variant in _simpler(scenario) if fails(variant)), None)
    return scenario


def _simpler(scenario: Scenario) -> Iterator[Scenario]:
    for world in _simpler_worlds(scenario.world):
        yield replace(scenario, world=world)
    if scenario.scope is not None:
        yield replace(scenario, scope=None)
    for questions in _without_one(scenario.questions):
        yield replace(scenario, questions=questions)
    for index, question in enumerate(scenario.questions):
        for other in _simpler_questions(question):
            before, after = scenario.questions[:index], scenario.questions[index + 1 :]
            yield replace(scenario, questions=(*before, other, *after))


def _simpler_worlds(world: World) -> Iterator[World]:
    for traces in _without_one(world.traces):
        yield replace(world, traces=traces)
    for index, trace in enumerate(world.traces):
        for other in _simpler_traces(trace):
            traces = (*world.traces[:index], other, *world.traces[index + 1 :])
            yield replace(world, traces=traces)


def _simpler_traces(trace: Trace) -> Iterator[Trace]:
    plain = Trace(trace.trace_id, 1, 0)

    def changed(name: str, value: Any) -> Trace:
        return replace(trace, **{name: value})

    for field in fields(Trace):
        value: Any = getattr(trace, field.name)
        default = getattr(plain, field.name)
        if value == default:
            continue
        yield changed(field.name, default)
        if isinstance(value, tuple):
            for rest in _without_one(value):
                yield changed(field.name, rest)
        elif isinstance(value, dict):
            for key in value:
                yield changed(field.name, {k: v for k, v in value.items() if k != key})


def _simpler_questions(question: Question) -> Iterator[Question]:
    if question.order_by:
        yield replace(question, order_by=question.order_by[1:])
    for surface in _simpler_filters(question.surface):
        yield replace(question, surface=surface, text=plainly_written(surface))
    plain = plainly_written(question.surface)
    if question.text != plain:
        yield replace(question, text=plain)


def _simpler_filters(node: tree.Node | None) -> Iterator[tree.Node]:
    """Filters with one node less; a condition never becomes empty."""
    if isinstance(node, tree.And | tree.Or):
        yield from node.items
        for items in _without_one(node.items):
            if len(items) > 1:
                yield replace(node, items=items)
        for index, item in enumerate(node.items):
            for other in _simpler_filters(item):
                items = (*node.items[:index], other, *node.items[index + 1 :])
                yield replace(node, items=items)
    elif isinstance(node, tree.Not):
        yield node.item
        for other in _simpler_filters(node.item):
            yield tree.Not(other)
    elif isinstance(node, tree.AnySpan | tree.CountSpans | tree.AggregateSpans):
        if isinstance(node, tree.AnySpan):
            yield node.condition
        for other in _simpler_filters(node.condition):
            yield replace(node, condition=other)
    elif isinstance(node, tree.In):
        for values in _without_one(node.values):
            if values:
                yield replace(node, values=values)


def _without_one(items: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    for index in range(len(items)):
        yield (*items[:index], *items[index + 1 :])
