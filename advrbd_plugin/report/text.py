"""Text from strangers (file and class names) made harmless for a terminal and a page, and kept whole for a CSV."""

from __future__ import annotations

from typing import Any

_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def one_line(text: str) -> str:
    """``text`` with line breaks, control characters and undecodable bytes written as escapes, for people to read.

    A file name may hold terminal commands or bytes that are no UTF-8; neither may reach a screen as they are. Two
    different texts may look the same after it: files that programs read hold the texts themselves.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def printable(content: Any) -> Any:
    """Nested dictionaries and lists with :func:`one_line` of every text in them."""
    if isinstance(content, str):
        return one_line(content)
    if isinstance(content, dict):
        return {printable(key): printable(value) for key, value in content.items()}
    return [printable(value) for value in content] if isinstance(content, (list, tuple)) else content


def spreadsheet_cell(text: str) -> str:
    """``text`` as it is, for a CSV cell; an apostrophe in front keeps a spreadsheet from running it as a formula.

    A text that begins with an apostrophe gets one more, so that no two texts become one: whoever reads the file takes
    one apostrophe off where a cell begins with one.
    """
    return f"'{text}" if text.startswith((*_STARTS_A_FORMULA, "'")) else text


def file_bytes(text: str) -> bytes:
    """``text`` as UTF-8; what stands for bytes of a file name that are no UTF-8 becomes those bytes again."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, which no file name has, but JSON may
        return text.encode("utf-8", "surrogatepass")
