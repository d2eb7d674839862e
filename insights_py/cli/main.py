"""The commands."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from insights_py import Insights
from insights_py.cli import analysis, exits, options, output
from insights_py.cli.completion import SHELLS, script
from insights_py.errors import InsightsError
from insights_py.rows import Page, Trace
from insights_py.version import __version__

if TYPE_CHECKING:
    from insights_py.install import Outcome

# --------------------------------------------------------------------- commands


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 nothing matches (with --exit-code) or doctor found a problem; "
    "2 wrong usage or filter; 3 functions not installed; 4 no connection; 5 permission denied; "
    "6 other database error; 130 interrupted.",
)
@click.version_option(__version__, prog_name="insights")
def cli() -> None:
    """Search and correlate MLflow traces inside PostgreSQL."""


@cli.command()
@options.optional_filter_argument
@options.experiment_option
@options.max_results_option("Traces to fetch.", 100)
@click.option("--all", "everything", is_flag=True, help="Fetch all that match.")
@click.option(
    "-o",
    "--order-by",
    multiple=True,
    metavar="CLAUSE",
    help="Such as 'execution_time_ms DESC'; repeat it for several. Default: newest first.",
)
@click.option("--page-token", metavar="TOKEN", help="Go on where a page ended.")
@options.exit_code_option
@options.format_options
@options.database_options
def search(
    filter: str,
    experiments: tuple[str, ...],
    max_results: int,
    everything: bool,
    order_by: tuple[str, ...],
    page_token: str | None,
    exit_code: bool,
    form: str | None,
    dsn: str | None,
    schema: str | None,
) -> None:
    """List the traces that match FILTER (all of them without one), newest first.

    FILTER - reads it from standard input.
    """
    if everything and page_token:
        raise click.UsageError("--all and --page-token exclude each other.")
    given = click.get_current_context().get_parameter_source("max_results")
    if everything and given is not ParameterSource.DEFAULT:
        raise click.UsageError("--all and --max-results exclude each other.")
    with Insights(options.database(dsn), schema=schema) as insights:
        ids = options.experiment_ids(insights, experiments)
        token: str | None = None
        if everything:
            traces: Iterable[Trace] = insights.search_iter(
                filter, experiment_ids=ids, order_by=order_by or None
            )
        else:
            page = insights.search(
                filter,
                experiment_ids=ids,
                max_results=max_results,
                order_by=order_by or None,
                page_token=page_token,
            )
            traces, token = page, page.next_page_token
        count = _print_traces(traces, token, form)
    if token is not None:
        output.note(f"More match: --all fetches them, --page-token {token} the next page.")
    if exit_code and not count:
        raise click.exceptions.Exit(exits.NOTHING)


def _print_traces(traces: Iterable[Trace], token: str | None, form: str | None) -> int:
    """Prints them and counts them; CSV is written while they arrive."""
    if form == "csv":
        count = 0
        arriving = iter(traces)
        # Before the line of names is written: nothing is printed for a wrong filter.
        first = next(arriving, None)

        def rows() -> Iterator[Mapping[str, Any]]:
            nonlocal count
            for trace in chain([] if first is None else [first], arriving):
                count += 1
                yield trace.as_dict()

        output.table(Trace.columns(), rows())
        return count
    page = Page(traces, token)
    if form == "json":
        output.document(
            {"traces": [trace.as_dict() for trace in page], "next_page_token": page.next_page_token}
        )
    else:
        output.show(page.grid())
    return len(page)


@cli.command()
@options.optional_filter_argument
@options.unit_option
@options.experiment_option
@options.exit_code_option
@options.format_options
@options.database_options
def count(
    filter: str,
    unit: str,
    experiments: tuple[str, ...],
    exit_code: bool,
    form: str | None,
    dsn: str | None,
    schema: str | None,
) -> None:
    """Count the traces that match FILTER (all of them without one)."""
    with Insights(options.database(dsn), schema=schema) as insights:
        number = insights.count(
            filter, experiment_ids=options.experiment_ids(insights, experiments), unit=unit
        )
    if form == "json":
        output.document({"count": number})
    elif form == "csv":
        output.table(["count"], [{"count": number}])
    else:
        click.echo(str(number))
    if exit_code and not number:
        raise click.exceptions.Exit(exits.NOTHING)


@cli.command()
@options.filter_argument("filter1")
@options.filter_argument("filter2")
@options.base_option
@options.unit_option
@options.experiment_option
@options.format_options
@options.database_options
def correlate(
    filter1: str,
    filter2: str,
    base_filter: str | None,
    unit: str,
    experiments: tuple[str, ...],
    form: str | None,
    dsn: str | None,
    schema: str | None,
) -> None:
    """Show how often FILTER1 and FILTER2 match the same trace, against chance."""
    with Insights(options.database(dsn), schema=schema) as insights:
        correlation = insights.correlate(
            filter1,
            filter2,
            base_filter,
            experiment_ids=options.experiment_ids(insights, experiments),
            unit=unit,
        )
    output.row(form, correlation)


for command in analysis.COMMANDS:
    cli.add_command(command)


@cli.command()
@options.filter_argument("filter")
@options.experiment_option
@options.format_options
@options.database_options
def explain(
    filter: str,
    experiments: tuple[str, ...],
    form: str | None,
    dsn: str | None,
    schema: str | None,
) -> None:
    """Show how FILTER is answered."""
    with Insights(options.database(dsn), schema=schema) as insights:
        steps = insights.explain(
            filter, experiment_ids=options.experiment_ids(insights, experiments)
        )
    output.rows(form, "steps", steps)


@cli.command()
@options.filter_argument("filter")
@options.format_options
@options.database_options
def validate(filter: str, form: str | None, dsn: str | None, schema: str | None) -> None:
    """Check FILTER and print its canonical form."""
    with Insights(options.database(dsn), schema=schema) as insights:
        canonical = insights.validate(filter)
    if form == "json":
        output.document({"filter": canonical})
    elif form == "csv":
        output.table(["filter"], [{"filter": canonical}])
    else:
        click.echo(canonical)


@cli.command()
@options.format_options
@options.database_options
def status(form: str | None, dsn: str | None, schema: str | None) -> None:
    """Show what is installed, and how many traces there are. Exits with 3 if nothing is."""
    with Insights(options.database(dsn), schema=schema) as insights:
        answer = insights.status()
    output.row(form, answer)
    if not answer.installed:
        raise click.exceptions.Exit(exits.NOT_INSTALLED)


@cli.command("install")
@options.format_options
@options.database_options
def install_command(form: str | None, dsn: str | None, schema: str | None) -> None:
    """Install the functions, bring them up to date, or mend them. Repeating it changes nothing.

    Every object is compared with this release's; what is missing or was changed is put right.
    """
    from insights_py.install import install  # Alembic takes half a second to import.

    _report_outcome(install(options.database(dsn), schema), form, "installed")


@cli.command("uninstall")
@options.format_options
@options.dsn_option
def uninstall_command(form: str | None, dsn: str | None) -> None:
    """Remove everything that install made; MLflow's tables and traces stay."""
    from insights_py.install import uninstall

    _report_outcome(uninstall(options.database(dsn)), form, "removed")


def _report_outcome(outcome: Outcome, form: str | None, done: str) -> None:
    for warning in outcome.warnings:
        click.echo(f"Warning: {warning}", err=True)
    columns = ["before", "after", "mlflow_schema", "changed", "mended", "index_built"]
    row = {column: getattr(outcome, column) for column in columns}
    if form == "json":
        output.document(row)
    elif form == "csv":
        output.table(columns, [row])
    elif not outcome.changed:
        click.echo(
            "Nothing is installed."
            if outcome.after is None
            else f"Already up to date: revision {outcome.after} in schema {outcome.mlflow_schema}."
        )
    else:
        if outcome.mended and outcome.before == outcome.after:
            done = "mended"
        click.echo(
            f"{done.capitalize()}: revision {outcome.after or outcome.before}, "
            f"schema {outcome.mlflow_schema}."
        )
        for what in outcome.mended:
            click.echo(f"  {what}")
    if form is None and outcome.index_built is False:
        click.echo(
            "Next: `insights index` builds the index of the traces that are there. "
            "Until then MLflow's tables give the answers."
        )


@cli.command("doctor")
@options.format_options
@options.database_options
def doctor_command(form: str | None, dsn: str | None, schema: str | None) -> None:
    """Check the database and say what to do where something is missing.

    Exits with 1 if a check fails. Changes nothing.
    """
    from insights_py.doctor import doctor

    checks = doctor(options.database(dsn), schema)
    columns = ["name", "ok", "finding", "remedy"]
    rows = [
        {
            "name": check.name,
            "ok": check.ok,
            "finding": check.finding,
            "remedy": None if check.ok and not check.warns else check.remedy,
        }
        for check in checks
    ]
    failed = [check for check in checks if not check.ok]
    if form == "json":
        output.document({"ok": not failed, "checks": rows})
    elif form == "csv":
        output.table(columns, rows)
    else:
        width = max(len(check.name) for check in checks)
        lines: list[list[tuple[str, str]]] = []
        for check in checks:
            mark = ("ok  ", "green") if check.ok else ("FAIL", "bold red")
            if check.warns:
                mark = ("WARN", "bold yellow")
            lines.append([mark, (f"  {check.name:{width}}  ", "dim"), (check.finding, "")])
            if not check.ok or check.warns:
                lines.append([(" " * 6 + check.remedy, "yellow")])
        warned = any(check.warns for check in checks)
        problems = f"{len(failed)} problem{'' if len(failed) == 1 else 's'} found."
        well = "No problem found, but see the warning." if warned else "All is well."
        lines.append([(problems if failed else well, "bold")])
        output.report(lines)
    if failed:
        raise click.exceptions.Exit(exits.NOTHING)


@cli.command("index")
@click.option("--rebuild", is_flag=True, help="Throw away the index that is there first.")
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=32_000,
    show_default=True,
    help="Traces in a transaction.",
)
@options.database_options
def index_command(rebuild: bool, batch: int, dsn: str | None, schema: str | None) -> None:
    """Build the index of a database that has traces. Interrupted, it goes on next time.

    Searches are answered all the while, from MLflow's tables.
    """
    from insights_py.worker import build

    steps = build(
        options.database(dsn), schema=schema, batch=batch, rebuild=rebuild, say=output.warning
    )
    try:
        last = output.progress(steps)
    except KeyboardInterrupt:
        output.complaint(
            "interrupted; what is indexed stays, and `insights index` goes on from there"
        )
        raise
    click.echo(f"The index is built: {last.indexed:,} traces.")


@cli.command("worker")
@click.option("--once", is_flag=True, help="Index what is pending, and end.")
@click.option(
    "--poll",
    type=click.FloatRange(0.01),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look for changes; less often, up to 15 s, while there are none.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=5000,
    show_default=True,
    help="Traces in a transaction.",
)
@click.option(
    "--heartbeat",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Touch this file after each look, for health checks.",
)
@options.database_options
def worker_command(
    once: bool,
    poll: float,
    batch: int,
    heartbeat: Path | None,
    dsn: str | None,
    schema: str | None,
) -> None:
    """Keep the index up to date, until SIGTERM or Ctrl-C.

    Without it every answer is right too; it only takes longer. Several workers
    take turns.
    """
    from insights_py.worker import Worker

    worker = Worker(
        options.database(dsn),
        schema=schema,
        batch=batch,
        poll=poll,
        heartbeat=heartbeat,
        say=output.log,
    )
    with worker.signals():
        if once:
            worker.drain()
        else:
            worker.run()


@cli.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash:  insights completion bash > ~/.local/share/bash-completion/completions/insights
    zsh:   insights completion zsh > a file _insights in a directory of $fpath
    fish:  insights completion fish > ~/.config/fish/completions/insights.fish
    """
    click.echo(script(cli, shell))


# ------------------------------------------------------------------------- main


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; every error becomes lines on standard error and an exit code."""
    try:
        result = cli.main(
            None if arguments is None else list(arguments),
            prog_name="insights",
            standalone_mode=False,
        )
        sys.stdout.flush()
    except click.UsageError as error:
        usage = error.ctx.get_usage() if error.ctx is not None else ""
        output.complaint(error.format_message(), usage)
        return exits.USAGE
    except click.ClickException as error:
        output.complaint(error.format_message())
        return exits.USAGE
    except (click.Abort, KeyboardInterrupt):
        return exits.INTERRUPTED
    except InsightsError as error:
        output.failure(error)
        return exits.code(error)
    # Without standalone mode click hands over the code of an Exit.
    return result if isinstance(result, int) else exits.OK


def main() -> None:
    """The console script."""
    if hasattr(signal, "SIGPIPE"):
        # `insights search ... | head` ends as quietly as any other Unix tool.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that cannot show a character gets a question mark, not a traceback.
            stream.reconfigure(errors="replace")
    sys.exit(run())
