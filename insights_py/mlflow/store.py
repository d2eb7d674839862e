"""MLflow's SQL tracking store, with trace filters answered by the stored functions.

Three methods differ from MLflow's: ``search_traces``,
``calculate_trace_filter_correlation`` and the filter of
``find_completed_sessions``.  Each asks the database which traces match and
leaves the rest (workspaces, read replicas, loading of the objects, sessions
and their transactions) to MLflow's own code.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy
from sqlalchemy import Integer, Select, Text, any_, bindparam, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY, array_agg
from sqlalchemy.exc import DBAPIError

from insights_py import errors
from insights_py.mlflow import compat, trace_infos
from insights_py.mlflow.compat import (
    DEADLINE_EXCEEDED,
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    SEARCH_TRACES_DEFAULT_MAX_RESULTS,
    TEMPORARILY_UNAVAILABLE,
    MlflowException,
    SearchTraceUtils,
    SqlAlchemyStore,
    SqlExperiment,
    SqlTraceInfo,
    TraceFilterCorrelationResult,
    TraceInfo,
    WorkspaceAwareSqlAlchemyStore,
    parse_experiment_ids,
    resolve_experiment_ids_and_locations,
)
from insights_py.mlflow.notices import first_time

if TYPE_CHECKING:
    from mlflow.genai.scorers.online.entities import CompletedSession
    from sqlalchemy.orm import Session

    from insights_py.sql import Function

_logger = logging.getLogger(__name__)

INVALID_PARAMETER = "22023"
"""SQLSTATE of every refusal of a filter or an argument."""

# The last offset that fits the stored function's argument; nothing is behind it.
_MAX_OFFSET = 2**31 - 1

# What PostgreSQL says when a function, its schema or the right to use it is gone.
_GONE = frozenset({"42883", "3F000", "42501"})

OVERRIDDEN = (
    "__init__",
    "search_traces",
    "calculate_trace_filter_correlation",
    "find_completed_sessions",
    "_build_first_trace_filter_subquery",
)
"""MLflow's methods that differ here; MLflow calls them as it calls its own."""

_Answer = TypeVar("_Answer")

# Set while MLflow's own code shall answer, though it asks a hook that is overridden.
_stock: ContextVar[bool] = ContextVar("stock", default=False)

# The schema of MLflow's tables, if the functions for that schema are installed
# and this role may call them.  They are installed for one schema, so a match
# by name alone could answer from somebody else's traces.
_FIND_FUNCTIONS = sqlalchemy.text(
    """
    select m.nspname
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as m on m.oid = c.relnamespace
    where c.oid = pg_catalog.to_regclass('trace_info')
        and (
            select count(distinct p.proname)
            from pg_catalog.pg_proc as p
            join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
            where (
                    n.nspname = 'insights'
                    and p.proname in ('search_page', 'match_trace_ids')
                    or n.oid = c.relnamespace
                    and p.proname = 'insights_correlate'
                )
                and pg_catalog.has_schema_privilege(n.oid, 'usage')
                and pg_catalog.has_function_privilege(p.oid, 'execute')
        ) = 3
    """
)


class _InsightsSearch(SqlAlchemyStore):
    """The three methods, to stand before either of MLflow's stores."""

    _mlflow_schema: str | None = None  # Known once the functions have been seen.
    _page: Select[Any] | None = None  # The same for every page, without workspaces.

    def __init__(
        self, db_uri: str, default_artifact_root: str | None, read_db_uri: str | None = None
    ) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            db_uri, default_artifact_root, read_db_uri=read_db_uri
        )
        with self.ManagedSessionMaker() as session:
            self._find_functions(session)

    # ------------------------------------------------------------ the functions

    def _find_functions(self, session: Session) -> bool:
        """Whether the database that answers ``session`` has the functions.

        A yes is remembered, a no is not: they may be installed at any time.
        """
        if self._mlflow_schema is None:
            self._mlflow_schema = session.execute(_FIND_FUNCTIONS).scalar()
            if self._mlflow_schema is None:
                _warn_of_missing_functions(session.get_bind())
        return self._mlflow_schema is not None

    def _functions_available(self) -> bool:
        if self._mlflow_schema is not None:
            return True
        with self.ManagedSessionMaker() as session:
            return self._find_functions(session)

    def _functions_gone(self, error: MlflowException) -> bool:
        """Whether a call failed because the functions were uninstalled meanwhile."""
        if _sqlstate(error.__cause__) not in _GONE:
            return False
        self._mlflow_schema = None
        return not self._functions_available()

    def _answer(self, ours: Callable[[], _Answer], stock: Callable[[], _Answer]) -> _Answer:
        """What ``ours`` gives, or ``stock`` where that cannot be had from the functions.

        Where an inner part of MLflow's fails, that is one call's failure: a user's odd
        argument may look like it, so the next call is tried again.
        """
        try:
            if self._functions_available():
                return ours()
        except Exception as error:
            if compat.misfit(error):
                _warn_of_failure(error)
            elif not (isinstance(error, MlflowException) and self._functions_gone(error)):
                raise
        answering = _stock.set(True)
        try:
            return stock()
        finally:
            _stock.reset(answering)

    # -------------------------------------------------------------- the methods

    def search_traces(
        self,
        experiment_ids: list[str] | None = None,
        filter_string: str | None = None,
        max_results: int = SEARCH_TRACES_DEFAULT_MAX_RESULTS,
        order_by: list[str] | None = None,
        page_token: str | None = None,
        model_id: str | None = None,
        locations: list[str] | None = None,
    ) -> tuple[list[TraceInfo], str | None]:
        """Search traces; arguments and result as in MLflow's store.

        The filter may use the whole language of ``insights_search``.  The token
        of the next page is the stored function's; those that MLflow's own store
        gave out are accepted too.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE for a filter or another
                argument that is refused; the text shows the place.
        """
        return self._answer(
            lambda: self._search_traces(
                resolve_experiment_ids_and_locations(experiment_ids, locations),
                filter_string,
                max_results,
                order_by,
                page_token,
            ),
            partial(
                super().search_traces,
                experiment_ids=experiment_ids,
                filter_string=filter_string,
                max_results=max_results,
                order_by=order_by,
                page_token=page_token,
                model_id=model_id,
                locations=locations,
            ),
        )

    def _search_traces(
        self,
        locations: list[str] | None,
        filter_string: str | None,
        max_results: int,
        order_by: Iterable[str] | None,
        page_token: str | bytes | None,
    ) -> tuple[list[TraceInfo], str | None]:
        self._validate_max_results_param(max_results)
        # An empty clause is one that is refused.
        order = None if order_by is None else [_storable(str(one)) for one in order_by]
        if clause := compat.unguarded_order([clause for clause in order or () if clause]):
            raise MlflowException.invalid_parameter_value(
                f"Invalid order_by clause {clause!r}: basic-auth does not look at whether you may "
                "read what this orders by. It does for assessment.<name>, which orders by feedback "
                "and expectations of that name."
            )
        token, offset = _page_start(page_token)
        arguments: dict[str, Any] = {
            "filter": _text(filter_string),
            "max_results": max_results,
            "order_by": order,
            "page_token": token,
            "page_offset": offset,
        }
        with _refusals(), self.ManagedSessionMaker() as session:
            arguments["exp_ids"] = _texts(self._searched_experiments(session, locations))
            # Around the ORM, which has nothing to do for plain columns but takes time.
            rows = session.connection().execute(self._page_statement(session), arguments).all()
            next_page_token = rows[-1].next_page_token if rows else None
            # Without its trace where that has just gone to another workspace.
            seen = (row for row in rows if row.request_id is not None)
            return trace_infos.build(seen), next_page_token

    def _page_statement(self, session: Session) -> Select[Any]:
        """The statement that reads a page, in one snapshot, from the function's arguments."""
        if self._page is not None:
            return self._page
        page = (
            func.insights.search_page(
                cast(bindparam("exp_ids"), ARRAY(Text)),
                cast(bindparam("filter"), Text),
                cast(bindparam("max_results"), Integer),
                cast(bindparam("order_by"), ARRAY(Text)),
                cast(bindparam("page_token"), Text),
                cast(bindparam("page_offset"), Integer),
            )
            .table_valued("trace_id", "attached", "next_page_token", with_ordinality="position")
            .render_derived(name="page")
        )
        # MLflow's own query, which holds the traces to the active workspace.
        traces = self._trace_query(session).with_entities(*trace_infos.COLUMNS).subquery()
        # An outer join with the page on the side that is kept whole: in no plan can the
        # other side, empty as it may be, spare the call and with it the refusals.
        statement = (
            select(*traces.c, page.c.attached, page.c.next_page_token)
            .select_from(page.outerjoin(traces, page.c.trace_id == traces.c.request_id))
            .order_by(page.c.position)
        )
        if not self.supports_workspaces:
            self._page = statement
        return statement

    def _searched_experiments(
        self, session: Session, locations: list[str] | None
    ) -> list[int] | None:
        """The experiments to search; None for every one in the database."""
        if locations is not None:
            ids: list[int] = self._filter_experiment_ids(
                session, parse_experiment_ids([*locations])
            )
            return ids
        if not self.supports_workspaces:
            return None
        return [
            experiment_id
            for (experiment_id,) in self._get_query(session, SqlExperiment).with_entities(
                SqlExperiment.experiment_id
            )
        ]

    def calculate_trace_filter_correlation(
        self,
        experiment_ids: list[str],
        filter_string1: str,
        filter_string2: str,
        base_filter: str | None = None,
    ) -> TraceFilterCorrelationResult:
        """Correlate two filters; arguments and result as in MLflow's store.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE for a filter or an
                experiment id that is refused.
        """
        arguments = experiment_ids, filter_string1, filter_string2, base_filter
        return self._answer(
            partial(self._correlate, *arguments),
            partial(super().calculate_trace_filter_correlation, *arguments),
        )

    def _correlate(
        self,
        experiment_ids: list[str],
        filter_string1: str,
        filter_string2: str,
        base_filter: str | None,
    ) -> TraceFilterCorrelationResult:
        with _refusals(), self.ManagedSessionMaker() as session:
            ids = self._filter_experiment_ids(session, parse_experiment_ids([*experiment_ids]))
            functions = getattr(func, sqlalchemy.quoted_name(self._mlflow_schema or "", True))
            answer = functions.insights_correlate(
                _text_array(ids),
                cast(_text(filter_string1) or "", Text),
                cast(_text(filter_string2) or "", Text),
                cast(_text(base_filter), Text),
            ).table_valued(
                "npmi",
                "npmi_smoothed",
                "filter1_count",
                "filter2_count",
                "joint_count",
                "total_count",
            )
            row = session.execute(select(answer)).one()
            return TraceFilterCorrelationResult(**row._mapping)

    def call_function(
        self, function: Function, arguments: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        """The rows of a stored function, for the REST routes.

        The argument ``exp_ids`` is held to the active workspace; None is all of it.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE for a filter or another
                argument that is refused; TEMPORARILY_UNAVAILABLE where the
                database lacks the function or is not there; PERMISSION_DENIED;
                DEADLINE_EXCEEDED where the statement was cancelled.
        """
        sent = {name: _sendable(value) for name, value in arguments.items()}
        with _failures(), _misfits():
            if not self._functions_available():
                raise MlflowException(_NOT_INSTALLED, TEMPORARILY_UNAVAILABLE)
            return self._call_function(function, sent)

    def _call_function(self, function: Function, sent: dict[str, Any]) -> list[tuple[Any, ...]]:
        with self.ManagedSessionMaker() as session:
            if "exp_ids" in function.arguments:
                ids = self._searched_experiments(session, sent.get("exp_ids"))
                sent["exp_ids"] = None if ids is None else [str(one) for one in ids]
            query = function(**sent)
            text = sqlalchemy.text(query.for_sqlalchemy(self._mlflow_schema))
            return [tuple(row) for row in session.execute(text, query.params)]

    def find_completed_sessions(
        self,
        experiment_id: str,
        min_last_trace_timestamp_ms: int,
        max_last_trace_timestamp_ms: int,
        max_results: int | None = None,
        filter_string: str | None = None,
    ) -> list[CompletedSession]:
        """Find completed sessions; arguments and result as in MLflow's store.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE for a filter that is refused.
        """
        find = partial(
            super().find_completed_sessions,
            experiment_id,
            min_last_trace_timestamp_ms,
            max_last_trace_timestamp_ms,
            max_results,
            filter_string,
        )
        return self._answer(_refusals()(find), find)

    def _build_first_trace_filter_subquery(
        self,
        session: Session,
        experiment_id: str,
        filter_string: str | None,
        candidate_sessions: Any,
    ) -> Any:
        """The sessions of which a first trace matches the filter (MLflow's own hook)."""
        if not filter_string or _stock.get() or not self._find_functions(session):
            return super()._build_first_trace_filter_subquery(
                session, experiment_id, filter_string, candidate_sessions
            )
        in_experiment = self._trace_query(session).filter(
            SqlTraceInfo.experiment_id == experiment_id
        )
        starts = (
            in_experiment.with_entities(
                SqlTraceInfo.session_id.label("session_id"),
                func.min(SqlTraceInfo.timestamp_ms).label("timestamp_ms"),
            )
            .join(candidate_sessions, SqlTraceInfo.session_id == candidate_sessions.c.session_id)
            .group_by(SqlTraceInfo.session_id)
            .subquery()
        )
        # Several traces may share the first millisecond; any of them will do.
        first_traces = in_experiment.with_entities(
            SqlTraceInfo.request_id, SqlTraceInfo.session_id
        ).join(
            starts,
            (SqlTraceInfo.session_id == starts.c.session_id)
            & (SqlTraceInfo.timestamp_ms == starts.c.timestamp_ms),
        )
        candidates = first_traces.with_entities(
            func.coalesce(array_agg(cast(SqlTraceInfo.request_id, Text)), cast([], ARRAY(Text)))
        ).scalar_subquery()
        # A statement of its own: as part of the query for the sessions the function
        # would not run, and so refuse no filter, while there are no candidates.
        matches = func.insights.match_trace_ids(
            _text_array([experiment_id]), cast(_text(filter_string), Text), candidates
        ).column_valued("trace_id")
        matching = session.scalars(select(matches)).all()
        return (
            first_traces.with_entities(SqlTraceInfo.session_id.label("session_id"))
            .filter(SqlTraceInfo.request_id == any_(_text_array(matching)))
            .distinct()
            .subquery()
        )


class InsightsStore(_InsightsSearch):
    """The tracking store of a server or client without workspaces."""


class WorkspaceAwareInsightsStore(_InsightsSearch, WorkspaceAwareSqlAlchemyStore):
    """The tracking store of a server or client with workspaces."""


def open_store(store_uri: str, artifact_uri: str | None) -> SqlAlchemyStore:
    """The store for a server or a client, as MLflow's own builders would open theirs."""
    root, read_db_uri = compat.locations(artifact_uri)
    store = compat.store_class(InsightsStore, WorkspaceAwareInsightsStore)
    opened: SqlAlchemyStore = store(store_uri, root, read_db_uri=read_db_uri)
    return opened


# ------------------------------------------------------------------- arguments


def _text(value: str | None) -> str | None:
    """``value`` if PostgreSQL can take it as text; None for nothing.

    The drivers disagree on what becomes of the rest (an error of the database,
    of Python, or of the encoding), so it is refused here.
    """
    if not value:
        return None
    if not isinstance(value, str):
        raise MlflowException.invalid_parameter_value(
            f"Expected a string, got {type(value).__name__}: {value!r}"
        )
    return _storable(value)


def _storable(value: str) -> str:
    for position, character in enumerate(value):
        if character == "\0" or "\ud800" <= character <= "\udfff":
            shown = value[max(0, position - 30) : position + 1]
            raise MlflowException.invalid_parameter_value(
                f"The character U+{ord(character):04X} at position {position + 1} cannot be part "
                f"of text in PostgreSQL, after {shown[:-1]!r}"
            )
    return value


def _sendable(value: Any) -> Any:
    """An argument of a stored function, if PostgreSQL can take the text that is in it."""
    if isinstance(value, list):
        return [_sendable(one) for one in value]
    return _storable(value) if isinstance(value, str) else value


def _texts(values: Iterable[Any] | None) -> list[str | None] | None:
    return None if values is None else [_text(str(value)) for value in values]


def _text_array(values: Iterable[Any] | None) -> Any:
    return cast(_texts(values), ARRAY(Text))


def _page_start(page_token: str | bytes | None) -> tuple[str | None, int | None]:
    """The page token for the stored function, or the offset in one of MLflow's."""
    if not page_token:
        return None, None
    try:
        offset = SearchTraceUtils.parse_start_offset_from_page_token(page_token)
    except (MlflowException, ValueError, AttributeError):
        # Not one of MLflow's: the stored function knows its own, and refuses the rest.
        return _text(_decoded(page_token)), None
    if offset < 0:
        raise MlflowException.invalid_parameter_value(
            f"Invalid page token, negative offset {offset}"
        )
    return None, min(offset, _MAX_OFFSET)


def _decoded(page_token: str | bytes) -> str:
    if isinstance(page_token, bytes):
        return page_token.decode("utf-8", "replace").replace("\0", "\ufffd")
    return page_token


# --------------------------------------------------------------------- errors


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn the database's refusal of an argument into MLflow's error for it.

    Goes around ``ManagedSessionMaker``, which has rolled the transaction back
    by then.
    """
    try:
        yield
    except MlflowException as error:
        if _sqlstate(error.__cause__) != INVALID_PARAMETER:
            raise
        raise MlflowException.invalid_parameter_value(
            _refusal(error.__cause__)
        ) from error.__cause__


_NOT_INSTALLED = (
    "The trace functions are not installed for MLflow's tables in this database, or this role may "
    f"not call them.\nHint: {errors.INSTALL_HINT}"
)

# By the kind of the error, the code that MLflow turns into the HTTP status.
_CODES = (
    (errors.ArgumentError, INVALID_PARAMETER_VALUE),
    (errors.NotInstalled, TEMPORARILY_UNAVAILABLE),
    (errors.ConnectionFailed, TEMPORARILY_UNAVAILABLE),
    (errors.PermissionDenied, PERMISSION_DENIED),
    (errors.Cancelled, DEADLINE_EXCEEDED),
    (errors.DatabaseError, INTERNAL_ERROR),
)


@contextmanager
def _failures() -> Iterator[None]:
    """Turn every error of the database into MLflow's error for its kind."""
    try:
        yield
    except MlflowException as error:
        found = None if error.__cause__ is None else errors.from_driver(error.__cause__)
        if found is None:
            raise
        code = next(code for kind, code in _CODES if isinstance(found, kind))
        raise MlflowException(str(found), code) from error.__cause__


def _sqlstate(error: BaseException | None) -> str | None:
    if not isinstance(error, DBAPIError):
        return None
    # psycopg 3 calls it sqlstate, psycopg 2 pgcode.
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)


def _refusal(error: BaseException | None) -> str:
    """Message, DETAIL (the filter with a caret below) and HINT, as one text."""
    diagnosis = getattr(getattr(error, "orig", None), "diag", None)
    parts = [
        getattr(diagnosis, "message_primary", None) or str(error),
        (getattr(diagnosis, "message_detail", None) or "").lstrip("\n"),
    ]
    if hint := getattr(diagnosis, "message_hint", None):
        parts.append(f"Hint: {hint}")
    return "\n".join(part for part in parts if part)


_UNSUPPORTED = "This version of MLflow is not supported by its insights plugin: upgrade the plugin."


@contextmanager
def _misfits() -> Iterator[None]:
    """Turn the failure of an inner part of MLflow's into an error that says so."""
    try:
        yield
    except Exception as error:
        if not compat.misfit(error):
            raise
        _warn_of_failure(error)
        raise MlflowException(_UNSUPPORTED, TEMPORARILY_UNAVAILABLE) from error


def _warn_of_failure(error: Exception) -> None:
    cause = error.__cause__ if isinstance(error, MlflowException) else error
    if first_time("failure"):
        _logger.warning(
            "The insights plugin could not answer a call (%s: %s), so MLflow's own code did, if it "
            "could. If this version of MLflow is newer than the plugin, upgrade the plugin.",
            type(cause).__name__,
            cause,
            exc_info=error,
        )


def _warn_of_missing_functions(bind: Any) -> None:
    if not first_time(f"{bind.url.host}:{bind.url.port}/{bind.url.database}"):
        return
    _logger.warning(
        "Trace search is MLflow's own: %s does not have the insights functions for MLflow's "
        "tables, or this role may not call them. Install them with `insights install --dsn DSN` "
        "(no restart needed), or set MLFLOW_INSIGHTS=off to do without this warning.",
        bind.url.render_as_string(hide_password=True),
    )
