"""The commands that look for patterns: what is associated with what, where, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from insights_py import Insights
from insights_py.cli import options, output
from insights_py.wording import STATISTICS, Statistic

Command = TypeVar("Command", bound=Callable[..., None])

KINDS = (
    "trace",
    "tag",
    "metadata",
    "feedback",
    "expectation",
    "run",
    "prompt",
    "issue",
    "span",
    "attribute",
    "number",
)
DIRECTIONS = ("positive", "negative", "both")


def discovery_options(command: Command) -> Command:
    """What `discover` and `compare` have in common; `_discovery` takes the values."""
    for option in reversed(
        (
            click.option(
                "-k",
                "--kind",
                "kinds",
                type=click.Choice(KINDS),
                multiple=True,
                help="Kind of fact to look at; repeat it for several. Default: all.",
            ),
            click.option(
                "--min-support",
                type=int,
                default=5,
                show_default=True,
                help="Leave out facts that fewer have.",
            ),
            options.max_results_option("Facts to show."),
            click.option(
                "--fdr",
                type=float,
                default=0.05,
                show_default=True,
                metavar="RATE",
                help="False discovery rate: show facts of a q up to this.",
            ),
            click.option(
                "--direction",
                type=click.Choice(DIRECTIONS),
                default="positive",
                show_default=True,
                help="Facts that are more frequent there, less frequent, or both.",
            ),
            click.option("--pairs", is_flag=True, help="Try two facts together as well."),
            click.option(
                "--restatements",
                is_flag=True,
                help="Show also the facts that only say the same again.",
            ),
            options.unit_option,
            options.experiment_option,
            options.format_options,
            options.database_options,
        )
    ):
        command = option(command)
    return command


@click.command()
@options.filter_argument("target")
@options.base_option
@discovery_options
def discover(
    target: str,
    base_filter: str | None,
    experiments: tuple[str, ...],
    form: str | None,
    dsn: str | None,
    schema: str | None,
    kinds: tuple[str, ...],
    **chosen: Any,
) -> None:
    """Show the facts associated with TARGET, strongest first, as filters to go on with.

    The columns say what share of TARGET has the fact, and what share of the
    others; the odds ratio between the two; and q, the false discovery rate.
    """
    with Insights(options.database(dsn), schema=schema) as insights:
        found = insights.discover(
            target,
            base_filter,
            experiment_ids=options.experiment_ids(insights, experiments),
            kinds=kinds or None,
            **chosen,
        )
    output.rows(form, "facts", found)


@click.command()
@options.filter_argument("selection")
@options.filter_argument("baseline")
@discovery_options
def compare(
    selection: str,
    baseline: str,
    experiments: tuple[str, ...],
    form: str | None,
    dsn: str | None,
    schema: str | None,
    kinds: tuple[str, ...],
    **chosen: Any,
) -> None:
    """Show which facts set SELECTION apart from BASELINE, strongest first.

    A trace in both counts to SELECTION.
    """
    with Insights(options.database(dsn), schema=schema) as insights:
        found = insights.compare(
            selection,
            baseline,
            experiment_ids=options.experiment_ids(insights, experiments),
            kinds=kinds or None,
            **chosen,
        )
    output.rows(form, "facts", found)


@click.command()
@options.filter_arguments("filters")
@options.base_option
@click.option(
    "--statistic",
    type=click.Choice(STATISTICS),
    default="npmi",
    show_default=True,
    help="What the table shows. JSON and CSV have them all.",
)
@options.unit_option
@options.experiment_option
@options.format_options
@options.database_options
def matrix(
    filters: tuple[str, ...],
    base_filter: str | None,
    statistic: Statistic,
    unit: str,
    experiments: tuple[str, ...],
    form: str | None,
    dsn: str | None,
    schema: str | None,
) -> None:
    """Show how each FILTER goes together with each other one."""
    with Insights(options.database(dsn), schema=schema) as insights:
        found = insights.matrix(
            filters,
            base_filter,
            experiment_ids=options.experiment_ids(insights, experiments),
            unit=unit,
        )
    output.rows(form, "pairs", found, found.grid(statistic))


@click.command()
@options.filter_argument("filter")
@click.argument("field")
@options.max_results_option("Values to show.")
@options.unit_option
@options.experiment_option
@options.format_options
@options.database_options
def facets(
    filter: str,
    field: str,
    max_results: int,
    unit: str,
    experiments: tuple[str, ...],
    form: str | None,
    dsn: str | None,
    schema: str | None,
) -> None:
    """Count the values that FIELD has among the traces that match FILTER ('' for all).

    FIELD is any field of the filter language, such as tags.release, span.name,
    "span.attributes['model']" or execution_time_ms; one of numbers comes in
    intervals.
    """
    with Insights(options.database(dsn), schema=schema) as insights:
        found = insights.facets(
            filter,
            field,
            experiment_ids=options.experiment_ids(insights, experiments),
            max_results=max_results,
            unit=unit,
        )
    output.rows(form, "facets", found)


def _complete_time_zone(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """The zones that Python knows, for the shell's completion."""
    from zoneinfo import available_timezones

    return sorted(name for name in available_timezones() if name.startswith(incomplete))


@click.command()
@options.optional_filter_argument
@click.option(
    "--bucket",
    default="1 hour",
    show_default=True,
    metavar="INTERVAL",
    help="How long a line is: '15 minutes', '1 day', '1 month'.",
)
@click.option(
    "--start",
    metavar="TIME",
    help="From when: 2026-01-31, 2026-01-31T15:00 (in the time zone of the table) "
    "or 2026-01-31T15:00+01:00. Default: the first trace.",
)
@click.option("--end", metavar="TIME", help="Until when. Default: the last trace.")
@click.option(
    "--time-zone",
    default="UTC",
    show_default=True,
    metavar="NAME",
    shell_complete=_complete_time_zone,
    help="In which days begin and times are shown, such as Europe/Berlin.",
)
@options.unit_option
@options.experiment_option
@options.format_options
@options.database_options
def timeseries(
    filter: str,
    bucket: str,
    start: str | None,
    end: str | None,
    time_zone: str,
    unit: str,
    experiments: tuple[str, ...],
    form: str | None,
    dsn: str | None,
    schema: str | None,
) -> None:
    """Count what matches FILTER over the time, with errors, latency, tokens and cost."""
    with Insights(options.database(dsn), schema=schema) as insights:
        found = insights.timeseries(
            filter,
            bucket,
            experiment_ids=options.experiment_ids(insights, experiments),
            start_time=start,
            end_time=end,
            time_zone=time_zone,
            unit=unit,
        )
    output.rows(form, "buckets", found)


COMMANDS = (discover, compare, matrix, facets, timeseries)
