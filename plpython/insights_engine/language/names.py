"""What the names in a filter stand for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from insights_engine.language import fields, tree
from insights_engine.language.tokens import Range, Token, unquote, unquote_name

if TYPE_CHECKING:
    from insights_engine.language.mistakes.names import WrongNames

_PART = re.compile(r"""[^.`"']+|`[^`]*(?:``[^`]*)*`|"[^"]*(?:""[^"]*)*"|'[^']*(?:''[^']*)*'""")
_QUOTED_KEY = re.compile(r"""(?:`[^`]*(?:``[^`]*)*`|"[^"]*(?:""[^"]*)*"|'[^']*(?:''[^']*)*')\Z""")


class Names:
    """Resolves the names in one filter."""

    def __init__(self, text: str) -> None:
        self._text = text

    def field(self, token: Token) -> tree.Field:
        """The field that a name stands for.  Raises FilterError."""
        end = token.name_end or token.end
        name = self._text[token.start : end]
        first = _PART.match(name)
        assert first is not None
        entity = unquote_name(first[0])
        key_start = token.start + first.end() + 1
        if first.end() == len(name):
            if token.steps:
                return self._bracket_field(token, entity)
            field = fields.TRACE_FIELDS.get(entity)
            return field or self._wrong().attribute(token, entity)
        key = name[first.end() + 1 :]
        group = fields.ENTITIES.get(entity)
        if group is None:
            place = Range(token.start, token.start + first.end())
            self._wrong().entity(place, entity, key)
        if group == "span":
            return self._span_field(token, key, key_start)
        key = self._plain_key(key, key_start, entity)
        if token.steps:
            self._wrong().brackets_after_key(token, entity)
        place = Range(key_start, end)
        if group == "trace":
            field = fields.TRACE_FIELDS.get(key)
            return field or self._wrong().attribute(place, key)
        remapped = fields.KEY_TO_FIELD.get(key.lower())
        if remapped is not None:
            return remapped
        key = fields.KEY_TO_KEY.get(key.lower(), key)
        return self._keyed_field(group, key, place)

    def _keyed_field(self, group: str, key: str, place: Range) -> tree.Field:
        if group == "tags":
            return fields.PROMOTED_TAGS.get(key) or tree.Tag(key)
        if group == "metadata":
            return fields.PROMOTED_METADATA.get(key) or tree.Metadata(key)
        if group == "issue":
            return tree.Issue() if key == "id" else self._wrong().issue(place, key)
        if not key:
            self._wrong().no_assessment(place, group)
        return tree.Assessment(group, key)

    def _plain_key(self, key: str, start: int, entity: str) -> str:
        if _QUOTED_KEY.match(key):
            return unquote(key)
        if any(mark in key for mark in "`\"'"):
            whole = ".".join(unquote_name(part[0]) for part in _PART.finditer(key))
            self._wrong().quoted_in_parts(Range(start, start + len(key)), entity, whole)
        return key

    def _bracket_field(self, token: Token, entity: str) -> tree.Field:
        group = fields.ENTITIES.get(entity)
        if group is None or group in ("trace", "span"):
            self._wrong().brackets(token, entity)
        if len(token.steps) > 1:
            self._wrong().several_keys(token, entity)
        key = token.steps[0]
        if (group, key) in fields.LINKED_KEYS:
            return tree.Tag(key) if group == "tags" else tree.Metadata(key)
        return self._keyed_field(group, key, Range(token.name_end, token.end))

    def _span_field(self, token: Token, key: str, start: int) -> tree.Field:
        place = Range(start, token.name_end or token.end)
        if _QUOTED_KEY.match(key):
            key = unquote(key)
            start += 1
        if key == "attributes" and token.steps:
            return tree.SpanAttribute(token.steps)
        if key.startswith("attributes."):
            name = self._plain_key(key[11:], start + 11, "span.attributes")
            if not key[11:]:
                self._wrong().no_span_attribute(place)
            return tree.SpanAttribute((name, *token.steps))
        field = fields.SPAN_FIELDS.get(key)
        if field is None:
            self._wrong().span_field(place, key)
        if token.steps:
            self._wrong().brackets_after_span_field(token, key)
        return field

    def _wrong(self) -> WrongNames:
        # Loaded for a mistake only.
        from insights_engine.language.mistakes.names import WrongNames

        return WrongNames(self._text)
