"""Traces that take their times from a simulated clock.

The applications "wait" for models and tools by moving the clock, so that a
minute of work is logged in milliseconds, through MLflow's ordinary client.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlflow
from mlflow.entities import LiveSpan

MS = 1_000_000


class ToolError(Exception):
    """A tool or a service failed; ``kind`` is the sort of error."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Recording:
    """One trace in the making: a clock, and spans that begin and end by it."""

    def __init__(
        self,
        experiment_id: str,
        start_ms: int,
        tags: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> None:
        self._experiment_id = experiment_id
        self._tags = dict(tags)
        self._metadata = dict(metadata)
        self._start_ns = self._clock_ns = start_ms * MS
        self._open: list[LiveSpan] = []
        self.trace_id = ""

    @property
    def elapsed_ms(self) -> int:
        """Simulated time since the start, as MLflow rounds it."""
        return self._clock_ns // MS - self._start_ns // MS

    def wait(self, ms: float) -> None:
        """Let simulated time pass."""
        self._clock_ns += int(ms * MS)

    @contextmanager
    def span(
        self, name: str, type_: str, inputs: Any, attributes: Mapping[str, Any] | None = None
    ) -> Iterator[LiveSpan]:
        """A span around a block; an exception that leaves the block fails the span."""
        root = not self._open
        span = mlflow.start_span_no_context(
            name,
            span_type=type_,
            parent_span=None if root else self._open[-1],
            inputs=inputs,
            attributes=dict(attributes or {}),
            # What belongs to the trace is told with its root.
            tags=self._tags if root else None,
            metadata=self._metadata if root else None,
            experiment_id=self._experiment_id if root else None,
            start_time_ns=self._clock_ns,
        )
        self.trace_id = span.trace_id
        self._open.append(span)
        status = "OK"
        try:
            yield span
        except ToolError as error:
            status = "ERROR"
            span.record_exception(error)
            span.set_attributes({"error_type": error.kind, "error_message": str(error)})
            raise
        finally:
            self._open.pop()
            span.end(status=status, end_time_ns=self._clock_ns)
