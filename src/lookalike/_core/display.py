"""What notebooks show of an object: small pieces of HTML, with every name escaped."""

import base64
import hashlib
import io
import sys
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from lookalike._core.names import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_ROWS = 50  # of a table; the rest is counted


def as_html(
    title: str,
    *,
    facts: Mapping[str, Any] | None = None,
    picture: bytes | None = None,
    columns: Sequence[str] = (),
    rows: Sequence[Sequence[Any]] = (),
) -> str:
    """Returns a title, a picture, facts and a table as HTML. All text is taken for untrusted.

    Args:
        title: A line in bold.
        facts: Names and values.
        picture: A PNG file.
        columns: Titles of the table's columns.
        rows: The table's rows.
    """
    elements = [f"<p><b>{_text(title)}</b></p>"]
    if picture is not None:
        source = base64.b64encode(picture).decode()
        elements.append(f'<img style="max-width:100%" alt="{_text(title)}" src="data:image/png;base64,{source}">')
    if facts:
        cells = (f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in facts.items())
        elements.append(f"<table>{''.join(cells)}</table>")
    if rows:
        head = "".join(f"<th>{_text(column)}</th>" for column in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows[:_MOST_ROWS]
        )
        elements.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        if len(rows) > _MOST_ROWS:
            elements.append(f"<p>… and {len(rows) - _MOST_ROWS} more</p>")
    return f"<div>{''.join(elements)}</div>"


def png_of(axes: "Axes") -> bytes:
    """Returns the figure of some axes as a PNG file, and forgets the figure."""
    figure: Any = axes.get_figure(root=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    if "matplotlib.pyplot" in sys.modules:  # else a notebook would show it a second time
        sys.modules["matplotlib.pyplot"].close(figure)
    return buffer.getvalue()


def in_notebook() -> bool:
    """Says whether this is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


def _text(value: Any) -> str:
    return escape(visible(str(value)))


def policy_hash(text: str) -> str:
    """Returns a script's or style's hash, as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
