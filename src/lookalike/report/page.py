"""Rendering the page: templates, escaping, and a policy that lets a browser run nothing but the page's own script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lookalike._core.display import policy_hash
from lookalike._core.names import json_text, visible
from lookalike._core.wording import counted
from lookalike.report.key import linked
from lookalike.report.words import breakable

_STYLES = (
    "components/tokens.css",
    "components/page.css",
    "components/tables.css",
    "components/cards.css",
    "components/dialog.css",
    "components/browser.css",
    "components/print.css",
)
_SCRIPTS = (
    "scripts/elements.js",
    "scripts/dialogs.js",
    "scripts/prototypes.js",
    "scripts/detail.js",
    "scripts/browse.js",
    "scripts/images.js",
    "scripts/tables.js",
    "scripts/links.js",
)


@dataclass(frozen=True)
class RenderedSection:
    """A section of the page.

    Attributes:
        name: Its id, and the name of its template in ``templates/sections``.
        title: Its heading.
        values: What its template shows.
    """

    name: str
    title: str
    values: Mapping[str, Any]


def render(title: str, subtitle: str, sections: Sequence[RenderedSection], data: Any) -> str:
    """Renders the page. All text in it is escaped.

    Args:
        title: Heading of the page.
        subtitle: Line below it.
        sections: The sections, in order.
        data: JSON values for the page's script.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lookalike.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_as_text,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: "–" if share is None else f"{share:.1%}"
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters["counted"] = counted
    environment.filters["linked"] = linked
    environment.filters["breakable"] = breakable
    style = "\n".join(_source(environment, name) for name in _STYLES)
    script = '(() => {\n"use strict";\n' + "\n".join(_source(environment, name) for name in _SCRIPTS) + "\n})();"
    return environment.get_template("report.html").render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        data=_as_json(data),
        style=style,
        script=script,
        policy=_policy(style, script),
    )


def _source(environment: Any, name: str) -> str:
    source: str = environment.loader.get_source(environment, name)[0]
    return source.strip()


def _policy(style: str, script: str) -> str:
    """Returns a content security policy: pictures within the file, this style, this script, and nothing else.

    Style attributes stay allowed, because charts are full of them; they cannot load anything.
    """
    return (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src '{policy_hash(script)}'; "
        f"style-src 'unsafe-inline'; style-src-elem '{policy_hash(style)}'; style-src-attr 'unsafe-inline'"
    )


def _as_text(value: Any) -> Any:
    """Makes control characters in text visible; a browser would hide them or reverse the text."""
    return visible(value) if type(value) is str else value


def _as_json(value: Any) -> str:
    """Returns JSON whose text cannot close the script element around it."""
    text = json_text(value, separators=(",", ":"))
    # A class may be called "</script>". JSON's own escapes mean the same to the script, and nothing to the browser.
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
