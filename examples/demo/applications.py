"""Three applications with made-up models: a chat, a retrieval pipeline, an agent.

Each is an ordinary program that MLflow traces; what is random about them comes
from a seeded generator.  Three associations are planted:

1. Since release v2.0.1 the weather service mostly times out.
2. Model llama-3-70b is slow.
3. Where retrieval finds fewer than 3 documents, users rate the answer low.

Every request notes in `Request.facts` which of the planted facts it shows, so
that the demo can hold the answers of the engine against the truth.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .recording import Recording, ToolError

RELEASES = ("v1.9.0", "v2.0.0", "v2.0.1", "v2.1.0")
MODELS = {"gpt-4o-mini": 6.0, "claude-3-haiku": 5.0, "gpt-4": 18.0, "llama-3-70b": 70.0}
"""Model: milliseconds per token it writes."""
TIMEOUT_MS = 10_000
SLOW_MS = 5_000

QUESTIONS = (
    "How long does delivery to Lisbon take?",
    "Compare the two contracts for me.",
    "What does the warranty cover?",
    "Why was my payment refused?",
    "Plan a weekend in Rome, it must not rain.",
    "Summarise the last three tickets.",
    "Which invoice is still open?",
    "Übersetze die Rückgaberegeln ins Englische.",
)
ANSWERS = (
    "It takes three to five working days.",
    "The second one is shorter and cheaper, but has no support.",
    "Everything but wear and tear, for two years.",
    "The card had expired in May.",
    "Saturday is dry: see the Forum first, and the river in the evening.",
    "Two are solved, and one waits for the supplier.",
)


@dataclass
class Request:
    """One request to an application, and what is true of it afterwards.

    ``feedback`` and ``expectations`` are logged once the trace is in the store.
    """

    rng: random.Random
    trace: Recording
    release: str
    model: str
    question: str
    feedback: dict[str, Any] = field(default_factory=dict)
    expectations: dict[str, Any] = field(default_factory=dict)
    facts: set[str] = field(default_factory=set)

    def ask_model(self, name: str, prompt: str) -> str:
        """A call of the made-up model; time and tokens follow from the answer."""
        rng = self.rng
        answer = rng.choice(ANSWERS)
        written = len(answer) // 4 + rng.randint(30, 90)
        read = len(prompt) // 4 + rng.randint(20, 400)
        attributes = {
            "mlflow.llm.model": self.model,
            "model": self.model,
            "temperature": rng.choice((0.0, 0.3, 0.7)),
            "max_tokens": 500,
        }
        messages = {"messages": [{"role": "user", "content": prompt}]}
        with self.trace.span(name, "LLM", messages, attributes) as span:
            self.trace.wait(120 + written * MODELS[self.model] * rng.uniform(0.8, 1.3))
            span.set_attribute(
                "mlflow.chat.tokenUsage",
                {"input_tokens": read, "output_tokens": written, "total_tokens": read + written},
            )
            span.set_outputs({"role": "assistant", "content": answer})
        return answer

    def rate(self, low: bool) -> None:
        """The user's rating, from 1 to 5, and whether the answer helped."""
        rating = self.rng.choice((1, 1, 2) if low else (3, 4, 4, 5, 5))
        self.feedback["user_rating"] = rating
        self.feedback["helpful"] = rating >= 4


def chat(request: Request) -> None:
    """Answers from the history and one model call, after a look at the rules."""
    trace, rng = request.trace, request.rng
    with trace.span("chat", "CHAIN", {"question": request.question}) as root:
        cached = rng.random() < 0.3
        with trace.span("load_history", "MEMORY", {"limit": 20}, {"cache_hit": cached}) as span:
            trace.wait(2 if cached else 40)
            span.set_outputs({"messages": rng.randint(0, 20)})
        answer = request.ask_model("generate_response", request.question)
        with trace.span("moderate", "GUARDRAIL", {"text": answer}) as span:
            trace.wait(12)
            span.set_outputs({"flagged": False})
        root.set_outputs({"answer": answer})
    if rng.random() < 0.5:
        request.rate(low=rng.random() < 0.1)


def retrieval(request: Request) -> None:
    """Embeds the question, searches documents, answers from what was found."""
    trace, rng = request.trace, request.rng
    with trace.span("answer_from_documents", "CHAIN", {"question": request.question}) as root:
        with trace.span("embed_question", "EMBEDDING", {"text": request.question}) as span:
            trace.wait(25)
            span.set_outputs({"dimensions": 1536})
        found = rng.choice((0, 1, 2, 4, 5, 6, 8, 8))
        attributes = {"index": "documentation", "top_k": 8, "documents_found": found}
        with trace.span("search_documents", "RETRIEVER", {"top_k": 8}, attributes) as span:
            trace.wait(rng.uniform(30, 120))
            span.set_outputs([{"page_content": f"Page {n}"} for n in range(found)])
        answer = request.ask_model("generate_answer", f"{found} documents. {request.question}")
        root.set_outputs({"answer": answer})
    few = found < 3
    if few:
        request.facts.add("few documents")
    request.rate(low=few and rng.random() < 0.85)
    request.feedback["grounded"] = "no" if few else "yes"
    if rng.random() < 0.2:
        request.expectations["expected_documents"] = found + 1


def agent(request: Request) -> None:
    """Plans, calls tools (retrying once), and writes the answer."""
    trace, rng = request.trace, request.rng
    try:
        with trace.span("agent", "AGENT", {"task": request.question}) as root:
            for _ in range(rng.randint(1, 3)):
                request.ask_model("plan", request.question)
                _use_tool(request, rng.choice(("weather", "weather", "orders", "calculator")))
            answer = request.ask_model("write_answer", request.question)
            root.set_outputs({"answer": answer})
    except ToolError:
        request.facts.add("failed")
    if rng.random() < 0.6:
        request.rate(low="failed" in request.facts)


def _use_tool(request: Request, tool: str) -> None:
    trace, rng = request.trace, request.rng
    service = {"weather": "weather_api", "orders": "orders_db", "calculator": "local"}[tool]
    name = {"weather": "get_forecast", "orders": "query_database", "calculator": "calculate"}[tool]
    for attempt in (1, 2):
        broken = request.release == "v2.0.1" and tool == "weather" and rng.random() < 0.8
        attributes = {"service": service, "attempt": attempt}
        try:
            with trace.span(name, "TOOL", {"arguments": {"city": "Rome"}}, attributes) as span:
                if broken:
                    trace.wait(TIMEOUT_MS)
                    request.facts.add("weather timeout")
                    raise ToolError("timeout", f"{service} did not answer within 10 s")
                if tool == "orders" and rng.random() < 0.08:
                    trace.wait(15)
                    raise ToolError("connection_refused", f"{service} refused the connection")
                trace.wait({"weather": 350, "orders": 60, "calculator": 3}[tool])
                span.set_outputs({"rows": rng.randint(0, 9)})
            return
        except ToolError:
            if attempt == 2:
                raise


APPLICATIONS: dict[str, Callable[[Request], None]] = {
    "chat": chat,
    "retrieval": retrieval,
    "agent": agent,
}
