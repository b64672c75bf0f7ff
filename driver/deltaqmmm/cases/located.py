"""XML whose elements know where they stand in the text, so that a value can be replaced and all else stays as it is."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

from deltaqmmm.errors import InputError


@dataclass(frozen=True)
class Span:
    """Where an element stands: places in the bytes of the file.

    Attributes:
        begin: Of its start tag.
        content: After its start tag.
        content_end: Where its end tag begins.
        end: After its end tag.
    """

    begin: int
    content: int
    content_end: int
    end: int


class LocatedXML:
    """A text, its elements, and where they are. Replacements are collected, and made together by `text`.

    Args:
        text: The XML.
        file: Where it is from, for messages.

    Attributes:
        root: The outermost element.
        file: Likewise.
    """

    def __init__(self, text: str, file: Path) -> None:
        self.file = file
        self._bytes = text.encode("utf-8")
        self._spans: dict[ET.Element, Span] = {}
        self._edits: list[tuple[int, int, bytes]] = []
        self.root = self._parse()

    def _parse(self) -> ET.Element:
        builder = ET.TreeBuilder()
        parser = expat.ParserCreate()
        open_: list[tuple[ET.Element, int, int]] = []

        def start(tag: str, attributes: dict[str, str]) -> None:
            begin = parser.CurrentByteIndex
            open_.append((builder.start(tag, attributes), begin, self._end_of_tag(begin)))

        def end(tag: str) -> None:
            builder.end(tag)
            element, begin, content = open_.pop()
            # Of <a/> both are reported at the same place.
            place = parser.CurrentByteIndex
            closed = place <= begin or self._bytes[content - 2 : content] == b"/>"
            self._spans[element] = Span(
                begin, content, content if closed else place, content if closed else self._end_of_tag(place)
            )

        parser.StartElementHandler = start
        parser.EndElementHandler = end
        parser.CharacterDataHandler = builder.data
        try:
            parser.Parse(self._bytes, True)
        except expat.ExpatError as error:
            raise InputError(f"{self.file}: no valid XML: {error}.") from None
        return builder.close()

    def _end_of_tag(self, begin: int) -> int:
        """The place after a tag; a > in the value of an attribute does not end it."""
        found = re.compile(rb"<(?:[^>'\"]|'[^']*'|\"[^\"]*\")*>").match(self._bytes, begin)
        return found.end() if found else begin

    def set_text(self, element: ET.Element, value: str) -> None:
        """Replace the content of an element, with a blank on either side."""
        span = self._spans[element]
        self._edits.append((span.content, span.content_end, f" {value} ".encode()))

    def set_lines(self, element: ET.Element, lines: Iterable[str]) -> None:
        """Replace the content of an element by lines of their own, indented by two more blanks than the element."""
        span = self._spans[element]
        start = self._bytes.rfind(b"\n", 0, span.begin) + 1
        indent = re.match(rb"\s*", self._bytes[start : span.begin])
        before = "\n" + (indent[0].decode() if indent else "")
        value = "".join(f"{before}  {line}" for line in lines) + before
        self._edits.append((span.content, span.content_end, value.encode()))

    def set_attribute(self, element: ET.Element, name: str, value: str) -> None:
        """Replace the value of an attribute that is there."""
        span = self._spans[element]
        tag = self._bytes[span.begin : span.content]
        found = re.search(rb"\s" + re.escape(name.encode()) + rb"\s*=\s*(?:'([^']*)'|\"([^\"]*)\")", tag)
        if found is None:
            raise InputError(f"{self.file}: <{element.tag}> has no attribute {name}.")
        group = 1 if found[1] is not None else 2
        self._edits.append((span.begin + found.start(group), span.begin + found.end(group), value.encode()))

    def replace(self, elements: Iterable[ET.Element], texts: Iterable[str]) -> None:
        """Put other elements in the place of neighbours, one a line, indented as the first of them."""
        spans = [self._spans[element] for element in elements]
        begin = spans[0].begin
        line = self._bytes.rfind(b"\n", 0, begin) + 1
        indent = self._bytes[line:begin].decode()
        separator = "\n" + (indent if not indent.strip() else "")
        self._edits.append((begin, spans[-1].end, separator.join(texts).encode()))

    def text(self) -> str:
        """The text with all replacements made."""
        result = self._bytes
        for begin, end, value in sorted(self._edits, reverse=True):
            result = result[:begin] + value + result[end:]
        return result.decode("utf-8")
