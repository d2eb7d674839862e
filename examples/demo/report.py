"""Logs the demo's traces, asks its questions, and shows the answers side by side."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

import mlflow
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from insights_dev.cluster import say

from .questions import CORRELATIONS, SEARCHES, CorrelationQuestion, SearchQuestion
from .ways import PAGE, Ways
from .workload import Logged
from .workload import run as run_applications

FOUND_P = 1e-6
"""A planted association counts as found below this p-value."""


def run(dsn: str, url: str, *, traces: int, seed: int) -> bool:
    """Whether every answer was right and every planted association found."""
    if traces > PAGE:
        raise ValueError(f"at most {PAGE} traces fit on one page over REST")
    # It announces, at the end of the program, that it empties a queue that is empty.
    logging.getLogger("mlflow.tracing.export.async_export_queue").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(url)
    name = f"demo {time.strftime('%Y-%m-%d %H:%M:%S')}"
    experiment_id = mlflow.MlflowClient().create_experiment(name)
    say(f"logging {traces} traces of three applications to experiment {name!r}, over HTTP")
    logged = run_applications(
        experiment_id,
        traces=traces,
        seed=seed,
        end_ms=int(time.time() * 1000),
        progress=_progress,
    )
    console = Console(width=None if Console().is_terminal else 110, highlight=False)
    ways = Ways(dsn, url, experiment_id)
    try:
        searches = [_search(console, ways, question, logged) for question in SEARCHES]
        correlations = [_correlate(console, ways, question, logged) for question in CORRELATIONS]
        discoveries = [_discover(console, ways, question, logged) for question in CORRELATIONS]
        console.print("\n[bold]What was planted, and whether it was found[/bold]")
        found = [_verdict(console, ways, question) for question in CORRELATIONS]
    finally:
        ways.close()
    right = all((*searches, *correlations, *discoveries))
    if right:
        console.print("All ways agree with each other and with what was logged.")
    else:
        console.print("[red]Some answers differ, see above.[/red]")
    return right and all(found)


def _progress(what: str, done: int, total: int) -> None:
    if done % 50 == 0 or done == total:
        say(f"  {done} of {total} {what}")


def _search(
    console: Console, ways: Ways, question: SearchQuestion, logged: Sequence[Logged]
) -> bool:
    answers = ways.search(question.filter, question.order_by)
    expected = {trace.trace_id for trace in logged if question.holds(trace)}
    first = next(iter(answers.values()))
    _heading(console, f"Search: {question.title}", question.filter)
    table = Table()
    table.add_column("way")
    table.add_column("traces", justify="right")
    table.add_column("first three")
    for way, ids in answers.items():
        table.add_row(way, str(len(ids)), " ".join(i[:11] + "…" for i in ids[:3]))
    table.add_row("logged by the applications", str(len(expected)), "", style="dim")
    right = all(ids == first for ids in answers.values()) and set(first) == expected
    return _show(console, table, right and bool(expected))


def _correlate(
    console: Console, ways: Ways, question: CorrelationQuestion, logged: Sequence[Logged]
) -> bool:
    answers = ways.correlate(question.filter1, question.filter2)
    one = {trace.trace_id for trace in logged if question.holds1(trace)}
    two = {trace.trace_id for trace in logged if question.holds2(trace)}
    expected = (len(one), len(two), len(one & two), len(logged))
    _heading(console, f"Correlation: {question.planted}?", question.filter1, question.filter2)
    table = Table()
    table.add_column("way")
    for heading in ("filter 1", "filter 2", "both", "traces", "npmi"):
        table.add_column(heading, justify="right")
    for way, counts in answers.items():
        numbers = (counts.filter1, counts.filter2, counts.joint, counts.total)
        table.add_row(way, *map(str, numbers), f"{counts.npmi:.6f}")
    table.add_row("logged by the applications", *map(str, expected), "", style="dim")
    npmi = next(iter(answers.values())).npmi
    right = all(
        (counts.filter1, counts.filter2, counts.joint, counts.total) == expected
        and math.isclose(counts.npmi, npmi, rel_tol=1e-12)
        for counts in answers.values()
    )
    return _show(console, table, right)


def _discover(
    console: Console, ways: Ways, question: CorrelationQuestion, logged: Sequence[Logged]
) -> bool:
    answers = ways.discover(question.filter2, question.kinds)
    first = next(iter(answers.values()))
    among = "" if question.kinds is None else f" (kinds: {', '.join(question.kinds)})"
    _heading(console, f"Discovery: facts associated with it{among}", question.filter2)
    table = Table()
    table.add_column("fact", max_width=52)
    for heading in ("in these", "in others", "odds at least", "p", "q"):
        table.add_column(heading, justify="right")
    for fact in first[:3]:
        shares = (f"{share:.0%}" for share in (fact.target_share, fact.other_share))
        numbers = (f"{number:.1g}" for number in (fact.p_value, fact.q_value))
        table.add_row(escape(fact.filter), *shares, f"× {fact.odds_ratio_low:.3g}", *numbers)
    one = {trace.trace_id for trace in logged if question.holds1(trace)}
    two = {trace.trace_id for trace in logged if question.holds2(trace)}
    expected = (len(one), len(two), len(one & two), len(logged))
    right = all(found == first for found in answers.values())
    return _show(console, table, right and bool(first) and first[0].counts == expected)


def _verdict(console: Console, ways: Ways, question: CorrelationQuestion) -> bool:
    found = ways.statistics(question.filter1, question.filter2)
    odds, p = found.odds_ratio, found.p_value
    if odds is None or p is None or odds <= 1 or p >= FOUND_P:
        console.print(f"  [red]not found[/red]: {question.planted}")
        return False
    console.print(
        f"  [green]found[/green]: {question.planted} (odds ratio {odds:.3g}, p = {p:.1g})"
    )
    first = ways.discover(question.filter2, question.kinds)["SQL: insights_discover"][0]
    if first.filter != question.fact:
        console.print(f"    [red]comes first instead[/red]: {escape(first.filter)}")
        return False
    console.print(
        f"    comes first of {first.tested} facts: {escape(first.filter)}"
        f" (p = {first.p_value:.1g}, q = {first.q_value:.1g})"
    )
    return True


def _heading(console: Console, title: str, *filters: str) -> None:
    console.print(f"\n[bold]{title}[/bold]")
    for filter_string in filters:
        console.print(f"  {escape(filter_string)}")


def _show(console: Console, table: Table, right: bool) -> bool:
    console.print(table)
    console.print("[green]agree[/green]" if right else "[red]DIFFER[/red]")
    return right
