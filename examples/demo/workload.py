"""Runs the applications and logs what they do through MLflow's client."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import mlflow

from .applications import APPLICATIONS, MODELS, QUESTIONS, RELEASES, Request
from .recording import Recording

MINUTE_MS = 60_000
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and of how much."""


@dataclass(frozen=True)
class Logged:
    """A trace in MLflow and the truth about it."""

    trace_id: str
    application: str
    tags: Mapping[str, str]
    model: str
    execution_time_ms: int
    user_rating: int | None
    facts: frozenset[str]


def run(
    experiment_id: str, *, traces: int, seed: int, end_ms: int, progress: Progress
) -> list[Logged]:
    """Let the applications answer ``traces`` requests, and log traces and feedback.

    Args:
        experiment_id: where to.
        traces: how many requests, shared out evenly.
        seed: the same seed gives the same traces, apart from their ids.
        end_ms: when the last request came in, in ms since 1970; one a minute before it.
        progress: told about every request.
    """
    rng = random.Random(seed)
    requests: list[tuple[Request, Logged]] = []
    for number in range(traces):
        application = tuple(APPLICATIONS)[number % len(APPLICATIONS)]
        requests.append(
            _request(rng, application, experiment_id, end_ms - (traces - number) * MINUTE_MS)
        )
        if number % 50 == 49 or number + 1 == traces:
            # MLflow's client sends in the background, from a queue that has an end.
            mlflow.flush_trace_async_logging()
            progress("traces", number + 1, traces)
    rated = [(r, done) for r, done in requests if r.feedback or r.expectations]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(_assess, request, logged.trace_id) for request, logged in rated]
        for number, job in enumerate(as_completed(jobs), 1):
            job.result()
            progress("feedback and expectations", number, len(jobs))
    return [logged for _, logged in requests]


def _request(
    rng: random.Random, application: str, experiment_id: str, start_ms: int
) -> tuple[Request, Logged]:
    release = rng.choice(RELEASES)
    tags = {
        "application": application,
        "release": release,
        "environment": rng.choice(("production", "production", "staging")),
        "customer_tier": rng.choice(("free", "free", "pro", "enterprise")),
    }
    metadata = {
        "mlflow.trace.session": f"session-{rng.randrange(60)}",
        "mlflow.trace.user": f"user-{rng.randrange(25)}",
    }
    trace = Recording(experiment_id, start_ms, tags, metadata)
    model = rng.choices(tuple(MODELS), (5, 4, 3, 2))[0]
    question = rng.choice(QUESTIONS)
    request = Request(rng, trace, release, model, question)
    APPLICATIONS[application](request)
    return request, Logged(
        trace.trace_id,
        application,
        tags,
        model,
        trace.elapsed_ms,
        request.feedback.get("user_rating"),
        frozenset(request.facts),
    )


def _assess(request: Request, trace_id: str) -> None:
    for name, value in request.feedback.items():
        mlflow.log_feedback(trace_id=trace_id, name=name, value=value)
    for name, value in request.expectations.items():
        mlflow.log_expectation(trace_id=trace_id, name=name, value=value)
