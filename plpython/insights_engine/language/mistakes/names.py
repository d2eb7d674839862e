"""What is wrong with a name in a filter."""

from __future__ import annotations

import re
from typing import NoReturn

from insights_engine.language import fields
from insights_engine.language.errors import bare_set, quoted_set, visible
from insights_engine.language.mistakes.places import Mistakes, Place
from insights_engine.language.tokens import FUNCTIONS, Range, Token

# What stock MLflow prints in its messages; sets are printed sorted.
_MLFLOW_ATTRIBUTES = (
    "client_request_id",
    "end_time",
    "end_time_ms",
    "execution_time",
    "execution_time_ms",
    "name",
    "prompt",
    "request_id",
    "run_id",
    "status",
    "text",
    "timestamp",
    "timestamp_ms",
)
_HAVE_KEYS = "Only span.attributes, tags, metadata and assessments have keys."


class WrongNames(Mistakes):
    """Raises the errors of the names in one filter."""

    def attribute(self, place: Place, name: str) -> NoReturn:
        """No field of the trace is called so."""
        key = name.lower()
        entity = name.split(".", 1)[0]
        near = fields.nearest(name, list(fields.TRACE_FIELDS))
        if key in fields.TRACE_FIELDS:
            hint = f"Names are written in lower case: {key}."
        elif "." in name and entity in fields.ENTITIES:
            hint = f"Did you mean {visible(name, 60)}, without anything before it?"
        elif key.upper() in FUNCTIONS:
            hint = f"{key}(...) is a function, as in count(span.type = 'LLM') > 0."
        elif key in fields.ENTITIES:
            hint = f"A name must follow: {key}.name."
            if fields.ENTITIES[key] not in ("trace", "span", "issue"):
                hint = f"A key must follow: {key}.key or {key}['key']."
        elif key in fields.SYNONYMS:
            hint = f"Did you mean {fields.SYNONYMS[key]}?"
        elif near:
            hint = f"Did you mean {near}?"
        else:
            shown = visible(name, 40)
            hint = (
                f"If it is a tag, write tags.{shown}; other keys are metadata.{shown},"
                f" feedback.{shown} and span.attributes.{shown}."
                if re.match(r"[\w.-]+\Z", name)
                else ""
            )
        self.fail(
            f"Invalid attribute key '{visible(name, 60)}' specified. Valid keys are"
            f" {quoted_set(_MLFLOW_ATTRIBUTES)}",
            place,
            f"{hint} {fields.TRACE_NAMES}.".lstrip(),
        )

    def entity(self, place: Place, entity: str, key: str) -> NoReturn:
        """Nothing that has fields or keys is called so."""
        lower = entity.lower()
        near = fields.nearest(entity, list(fields.ENTITIES))
        rest = f".{visible(key, 60)}" if key else ""
        if "." in entity:
            hint = "Quote the key alone: tags.`my key`."
        elif lower in fields.ENTITIES:
            hint = f"Names are written in lower case: {lower}{rest}."
        elif lower in fields.ENTITY_SYNONYMS:
            hint = f"Did you mean {fields.ENTITY_SYNONYMS[lower]}{rest}?"
        elif near:
            hint = f"Did you mean {near}{rest}?"
        else:
            hint = ""
        self.fail(
            f"Invalid entity type '{visible(entity, 60)}'. Valid values are"
            f" {bare_set(fields.MLFLOW_ENTITIES)}",
            place,
            f"{hint} {fields.ENTITY_NAMES}.".lstrip(),
        )

    def issue(self, place: Place, key: str) -> NoReturn:
        """Issues have an id and nothing else."""
        self.fail(
            f"Invalid issue attribute '{visible(key, 60)}'. Supported attributes: id",
            place,
            "Did you mean issue.id?",
        )

    def no_assessment(self, place: Place, entity: str) -> NoReturn:
        """The name of an assessment is missing."""
        self.fail("Assessment field name cannot be empty", place, f"For example {entity}.quality.")

    def quoted_in_parts(self, place: Place, entity: str, whole: str) -> NoReturn:
        """Quotes stand inside of a key, which is ``whole`` without them."""
        self.fail(
            f"a key is quoted as a whole, not in parts: {self.shown(place)}",
            place,
            f"Write {visible(f'{entity}[{fields.quote(whole)}]', 100)}.",
        )

    def brackets_after_key(self, token: Token, entity: str) -> NoReturn:
        """Brackets follow ``entity.key``."""
        name = Range(token.start, token.name_end)
        self.fail(
            f"{self.shown(name)} is text without parts, brackets cannot follow",
            Range(token.name_end, token.end),
            f"A key in brackets stands directly after {entity}: {entity}['key']."
            if fields.ENTITIES[entity] != "trace"
            else _HAVE_KEYS,
        )

    def brackets(self, token: Token, entity: str) -> NoReturn:
        """Brackets follow what has no keys."""
        place = Range(token.name_end, token.end)
        group = fields.ENTITIES.get(entity)
        key = token.steps[0]
        if group is None and entity not in fields.TRACE_FIELDS:
            self.entity(Range(token.start, token.name_end), entity, "")
        if group == "span":
            hint = "Use span.attributes['key'] for an attribute."
            if key in fields.SPAN_FIELDS:
                hint = f"Write span.{key}."
            self.fail("span has no keys in brackets", place, hint)
        hint = _HAVE_KEYS
        if entity == "attributes":
            hint = f"Did you mean span.attributes[{visible(fields.quote(key), 60)}]?"
        elif group is not None and key in fields.TRACE_FIELDS:
            hint = f"Write {key}."
        self.fail(f"{visible(entity, 60)} has no keys in brackets", place, hint)

    def several_keys(self, token: Token, entity: str) -> NoReturn:
        """A key in brackets follows a key in brackets, outside of span attributes."""
        key = visible(fields.quote(token.steps[0]), 60)
        self.fail(
            f"{entity} have one key: a value of theirs is text without parts",
            Range(token.name_end, token.end),
            f"Only span.attributes go deeper: {entity}[{key}].",
        )

    def no_span_attribute(self, place: Place) -> NoReturn:
        """The key of an attribute is missing."""
        self.fail(
            "Span attribute name cannot be empty after 'attributes.'",
            place,
            "For example span.attributes.model.",
        )

    def span_field(self, place: Place, key: str) -> NoReturn:
        """No field of a span is called so."""
        shown = visible(key, 60)
        known = fields.SPAN_SYNONYMS.get(key.lower())
        near = fields.nearest(key, [*fields.SPAN_FIELDS, "attributes"])
        hint = ""
        if key == "attributes":
            hint = "Write span.attributes['key'] or span.attributes.key."
        elif known:
            hint = f"Did you mean {known}?"
        elif near == "attributes":
            hint = "Did you mean span.attributes['key']?"
        elif near:
            hint = f"Did you mean span.{near}?"
        elif re.match(r"\w+\Z", key):
            hint = f"If it is an attribute, write span.attributes.{shown}."
        self.fail(
            f"Invalid span attribute '{shown}'. Supported attributes: name, status, type,"
            " attributes.<attribute_name>.",
            place,
            f"{hint} {fields.SPAN_NAMES}.".lstrip(),
        )

    def brackets_after_span_field(self, token: Token, key: str) -> NoReturn:
        """Brackets follow a field of a span that is no attribute."""
        self.fail(
            f"span.{key} has no keys in brackets",
            Range(token.name_end, token.end),
            "Only span.attributes['key'] has.",
        )
