"""Text from strangers (file and class names) made harmless for a terminal, a spreadsheet and JSON."""

from __future__ import annotations

_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def one_line(text: str) -> str:
    """``text`` with line breaks, control characters and undecodable bytes written as escapes.

    A file name may hold terminal commands or bytes that are no UTF-8; neither may reach a screen or a file as they are.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def spreadsheet_cell(text: str) -> str:
    """``text`` for a CSV cell; an apostrophe in front keeps a spreadsheet from running it as a formula."""
    text = one_line(text)
    return f"'{text}" if text.startswith(_STARTS_A_FORMULA) else text
