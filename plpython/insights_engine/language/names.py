"""What the names in a filter stand for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NoReturn, Protocol

from insights_engine.language import fields, tree
from insights_engine.language.errors import FilterError, visible
from insights_engine.language.tokens import FUNCTIONS, Token, unquote

# What stock MLflow prints in its messages; sets are printed sorted.
MLFLOW_ENTITIES = (
    "attribute",
    "attributes",
    "expectation",
    "feedback",
    "issue",
    "metadata",
    "request_metadata",
    "span",
    "tag",
    "tags",
    "trace",
)
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

_PART = re.compile(r"""[^.`"']+|`[^`]*(?:``[^`]*)*`|"[^"]*(?:""[^"]*)*"|'[^']*(?:''[^']*)*'""")
_QUOTED_KEY = re.compile(r"""(?:`[^`]*(?:``[^`]*)*`|"[^"]*(?:""[^"]*)*"|'[^']*(?:''[^']*)*')\Z""")


class Place(Protocol):
    """A part of the filter."""

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...


class Names:
    """Resolves the names in one filter."""

    def __init__(self, text: str) -> None:
        self._text = text

    def field(self, token: Token) -> tree.Field:
        """The field that a name stands for."""
        text = self._text
        end = token.name_end or token.end
        name = text[token.start : end]
        first = _PART.match(name)
        assert first is not None
        entity = unquote_name(first[0])
        key_start = token.start + first.end() + 1
        if first.end() == len(name):
            if token.steps:
                return self._bracket_field(token, entity)
            field = fields.TRACE_FIELDS.get(entity)
            return field or self._refuse_name(token, entity)
        key = name[first.end() + 1 :]
        group = fields.ENTITIES.get(entity)
        if group is None:
            self._refuse_entity(token, entity, key, first.end())
        if group == "span":
            return self._span_field(token, key, key_start)
        key = self._plain_key(key, key_start, entity)
        if token.steps:
            self._fail(
                f"{visible(name, 60)} is text without parts, brackets cannot follow",
                Token("", end, token.end),
                f"A key in brackets stands directly after {entity}: {entity}['key']."
                if group != "trace"
                else "Only span.attributes, tags, metadata and assessments have keys.",
            )
        if group == "trace":
            field = fields.TRACE_FIELDS.get(key)
            return field or self._refuse_name(Token("", key_start, end), key)
        remapped = fields.KEY_TO_FIELD.get(key.lower())
        if remapped is not None:
            return remapped
        key = fields.KEY_TO_KEY.get(key.lower(), key)
        return self._keyed_field(group, key, Token("", key_start, end))

    def _keyed_field(self, group: str, key: str, place: Token) -> tree.Field:
        if group == "tags":
            return fields.PROMOTED_TAGS.get(key) or tree.Tag(key)
        if group == "metadata":
            return fields.PROMOTED_METADATA.get(key) or tree.Metadata(key)
        if group == "issue":
            if key != "id":
                self._fail(
                    f"Invalid issue attribute '{visible(key, 60)}'. Supported attributes: id",
                    place,
                    "Did you mean issue.id?",
                )
            return tree.Issue()
        if not key:
            self._fail(
                "Assessment field name cannot be empty",
                place,
                f"For example {group}.quality.",
            )
        return tree.Assessment(group, key)

    def _plain_key(self, key: str, start: int, entity: str) -> str:
        if _QUOTED_KEY.match(key):
            return unquote(key)
        if any(mark in key for mark in "`\"'"):
            whole = ".".join(unquote_name(part[0]) for part in _PART.finditer(key))
            self._fail(
                f"a key is quoted as a whole, not in parts: {visible(key, 60)}",
                Token("", start, start + len(key)),
                f"Write {visible(f'{entity}[{fields.quote(whole)}]', 100)}.",
            )
        return key

    def _bracket_field(self, token: Token, entity: str) -> tree.Field:
        end = token.name_end
        place = Token("", end, token.end)
        group = fields.ENTITIES.get(entity)
        key = token.steps[0]
        if group is None and entity not in fields.TRACE_FIELDS:
            self._refuse_entity(token, entity, "", end - token.start)
        if group == "span":
            hint = "Use span.attributes['key'] for an attribute."
            if key in fields.SPAN_FIELDS:
                hint = f"Write span.{key}."
            self._fail("span has no keys in brackets", place, hint)
        if group is None or group == "trace":
            hint = "Only span.attributes, tags, metadata and assessments have keys."
            if entity == "attributes":
                hint = f"Did you mean span.attributes[{visible(fields.quote(key), 60)}]?"
            elif group is not None and key in fields.TRACE_FIELDS:
                hint = f"Write {key}."
            self._fail(f"{visible(entity, 60)} has no keys in brackets", place, hint)
        if len(token.steps) > 1:
            self._fail(
                f"{entity} have one key: a value of theirs is text without parts",
                place,
                f"Only span.attributes go deeper: {entity}[{visible(fields.quote(key), 60)}].",
            )
        if (group, key) in fields.LINKED_KEYS:
            return tree.Tag(key) if group == "tags" else tree.Metadata(key)
        return self._keyed_field(group, key, place)

    def _span_field(self, token: Token, key: str, start: int) -> tree.Field:
        place = Token("", start, token.name_end or token.end)
        if _QUOTED_KEY.match(key):
            key = unquote(key)
            start += 1
        if key == "attributes" and token.steps:
            return tree.SpanAttribute(token.steps)
        if key.startswith("attributes."):
            name = self._plain_key(key[11:], start + 11, "span.attributes")
            if not key[11:]:
                self._fail(
                    "Span attribute name cannot be empty after 'attributes.'",
                    place,
                    "For example span.attributes.model.",
                )
            return tree.SpanAttribute((name, *token.steps))
        field = fields.SPAN_FIELDS.get(key)
        if field is None:
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
            self._fail(
                f"Invalid span attribute '{shown}'. Supported attributes: name, status, type,"
                " attributes.<attribute_name>.",
                place,
                f"{hint} {fields.SPAN_NAMES}.".lstrip(),
            )
        if token.steps:
            self._fail(
                f"span.{key} has no keys in brackets",
                Token("", token.name_end, token.end),
                "Only span.attributes['key'] has.",
            )
        return field

    def _refuse_name(self, place: Token, name: str) -> NoReturn:
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
        self._fail(
            f"Invalid attribute key '{visible(name, 60)}' specified. Valid keys are"
            f" {quoted_set(_MLFLOW_ATTRIBUTES)}",
            place,
            f"{hint} {fields.TRACE_NAMES}.".lstrip(),
        )

    def _refuse_entity(self, token: Token, entity: str, key: str, length: int) -> NoReturn:
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
        self._fail(
            f"Invalid entity type '{visible(entity, 60)}'. Valid values are"
            f" {bare_set(MLFLOW_ENTITIES)}",
            Token("", token.start, token.start + length),
            f"{hint} {fields.ENTITY_NAMES}.".lstrip(),
        )

    def _source(self, token: Token) -> str:
        return self._text[token.start : token.end]

    def _fail(self, message: str, place: Place, hint: str | None) -> NoReturn:
        raise FilterError(message, place.start, place.end - place.start, hint, self._text)


def quoted_set(names: Iterable[str]) -> str:
    """A set as MLflow's messages print it within quotes."""
    return f"'{bare_set(names)}'"


def bare_set(names: Iterable[str]) -> str:
    """A set as MLflow's messages print it."""
    return "{" + ", ".join(f"'{name}'" for name in names) + "}"


def unquote_name(part: str) -> str:
    """A name or key without its quotes, if it has any."""
    return unquote(part) if part[0] in "`\"'" else part
