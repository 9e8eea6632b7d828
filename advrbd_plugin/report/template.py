"""The HTML templates filled in; each page extends ``templates/base.html``."""

from __future__ import annotations

import re
from typing import Any


def render(name: str, **values: Any) -> str:
    """The page of the template ``name`` with ``values``, all of which are escaped unless they are markup.

    Raises:
        jinja2.UndefinedError: the template asks for a value that is not given.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("advrbd_plugin.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"breakable": breakable, "plain": plain}
    return environment.get_template(name).render(**values)


def plain(value: Any) -> str:
    """A setting for people: numbers without the digits that nobody asked for, yes and no as words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def breakable(text: str) -> Any:
    """Escaped ``text`` that may go on in the next line after a slash or an underscore, so that no word is broken."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[/_])", text))
