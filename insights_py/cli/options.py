"""The options and arguments that commands have in common."""

from __future__ import annotations

import difflib
import getpass
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from insights_py import Insights
from insights_py.cli import output
from insights_py.display import printable
from insights_py.dsn import (
    from_keyword,
    has_password,
    is_postgresql,
    wants_password,
    with_password,
)
from insights_py.errors import ArgumentError, InsightsError, PermissionDenied

UNITS = ("trace", "session", "session_all")
DSN_VARIABLES = ("INSIGHTS_DSN", "MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI")
#: Those of libpq that name a database, and the keyword that each stands for.
LIBPQ_VARIABLES = {"PGSERVICE": "service", "PGDATABASE": "dbname"}

Command = TypeVar("Command", bound=Callable[..., None])


def database(given: str | None, *, ask: bool = True) -> str:
    """The database that is meant: ``--dsn``, or the first variable that names one.

    The password may come from wherever libpq finds one; with ``ask`` a user at a
    terminal is asked for it if it is nowhere.
    """
    dsn = _named(given)
    if not ask:
        return dsn
    if has_password(dsn):
        if given is not None:
            output.warning(
                "everybody on this machine can read the password in --dsn in the list of "
                "processes: leave it to ~/.pgpass, PGPASSWORD or a prompt, or set INSIGHTS_DSN"
            )
    elif sys.stderr.isatty():
        user = wants_password(dsn)
        if user is not None:
            return with_password(dsn, getpass.getpass(f"Password for user {printable(user)}: "))
    return dsn


def _named(given: str | None) -> str:
    if given is not None:
        return given
    servers = []
    for variable in DSN_VARIABLES:
        value = os.environ.get(variable)
        if value and (variable == "INSIGHTS_DSN" or is_postgresql(value)):
            return value
        if value:
            servers.append(f"{variable} is {value}, which is not a PostgreSQL database.")
    for variable, keyword in LIBPQ_VARIABLES.items():
        if os.environ.get(variable):
            # libpq takes everything else from the environment, too.
            return from_keyword(keyword, os.environ[variable])
    raise click.UsageError(
        "\n".join(
            [
                "Which database? Pass --dsn postgresql://user@host/mlflow "
                "or set INSIGHTS_DSN or PGSERVICE.",
                *servers,
            ]
        )
    )


def _filter_argument(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """``-`` reads the filter from standard input."""
    if value != "-":
        return value
    if context.meta.setdefault("insights.stdin", parameter.name) != parameter.name:
        raise click.BadParameter("standard input can be read once only")
    try:
        text = sys.stdin.buffer.read().decode("utf-8").strip()
    except UnicodeDecodeError:
        raise click.BadParameter("standard input is not UTF-8") from None
    return text


def filter_argument(name: str) -> Callable[[Command], Command]:
    return click.argument(name, callback=_filter_argument, metavar=name.upper())


def filter_arguments(name: str) -> Callable[[Command], Command]:
    """One filter or more."""

    def read(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value.count("-") > 1:
            raise click.BadParameter("standard input can be read once only")
        return tuple(_filter_argument(context, parameter, one) for one in value)

    return click.argument(name, callback=read, nargs=-1, required=True, metavar="FILTER...")


optional_filter_argument = click.argument(
    "filter", default="", callback=_filter_argument, metavar="[FILTER]"
)


dsn_option = click.option(
    "--dsn",
    metavar="DSN",
    help="The database: postgresql://user@host/mlflow, 'host=... dbname=...' or service=NAME. "
    "Default: INSIGHTS_DSN, MLFLOW_TRACKING_URI, MLFLOW_BACKEND_STORE_URI, PGSERVICE or "
    "PGDATABASE. The password comes from ~/.pgpass, PGPASSWORD or a prompt.",
)


def database_options(command: Command) -> Command:
    command = click.option(
        "--schema", metavar="NAME", help="Schema of MLflow's tables, if the search path lacks it."
    )(command)
    return dsn_option(command)


def _complete_experiment(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """The names of experiments that begin so, for the shell's completion."""
    try:
        with Insights(database(context.params.get("dsn"), ask=False)) as insights:
            names = [experiment.name for experiment in insights.experiments()]
    except (click.UsageError, InsightsError):
        # There is nowhere to say it: the user is in the middle of a line.
        return []
    return [name for name in names if name.startswith(incomplete)]


experiment_option = click.option(
    "-e",
    "--experiment",
    "experiments",
    metavar="ID|NAME",
    multiple=True,
    shell_complete=_complete_experiment,
    help="Experiment by id or name; repeat it for several. Default: all.",
)


def format_options(command: Command) -> Command:
    command = click.option("--csv", "form", flag_value="csv", help="Print CSV.")(command)
    return click.option("--json", "form", flag_value="json", help="Print JSON.")(command)


def max_results_option(help: str, default: int = 20) -> Callable[[Command], Command]:
    return click.option("-n", "--max-results", default=default, show_default=True, help=help)


base_option = click.option(
    "-b", "--base", "base_filter", metavar="FILTER", help="Look at these traces only, not at all."
)

unit_option = click.option(
    "--unit",
    type=click.Choice(UNITS),
    default="trace",
    show_default=True,
    help="What is counted: traces, sessions of which any trace matches, or those of which all do.",
)

exit_code_option = click.option(
    "--exit-code", is_flag=True, help="Exit with 1 if no trace matches, as grep does."
)


def experiment_ids(insights: Insights, given: Sequence[str]) -> list[str] | None:
    """Ids for ids and names.  Digits are ids; ``name:7`` is the experiment called 7."""
    if not given:
        return None
    if all(one.isdecimal() for one in given):
        return list(given)
    try:
        known = insights.experiments()
    except PermissionDenied as error:
        raise PermissionDenied(
            error.message,
            detail="That table has the names of experiments.",
            hint="Give experiments by their ids, or grant the role SELECT on the table.",
            sqlstate=error.sqlstate,
        ) from error
    found = []
    for one in given:
        if one.isdecimal():
            found.append(one)
            continue
        names = {one, one.removeprefix("name:")}
        ids = [e.experiment_id for e in known if e.name in names]
        if not ids:
            all_names = [e.name for e in known]
            near = [name for name in all_names if name.lower().startswith(one.lower())]
            near = near or difflib.get_close_matches(one, all_names, 1, 0.5)
            raise ArgumentError(
                f"there is no experiment called {one}",
                hint=f"Did you mean {near[0]}?" if near else None,
            )
        if len(ids) > 1:
            raise ArgumentError(
                f"{len(ids)} experiments are called {one}: {', '.join(ids)}",
                hint="Workspaces can have the same name each; give the id.",
            )
        found.append(ids[0])
    return found
