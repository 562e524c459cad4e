"""Keyword options that a function takes by name and hands on as one object."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any


def check_option_names(function: str, options: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Refuses options that a function does not take, as Python does.

    Raises:
        TypeError: If there is one. The message suggests the option with the most similar spelling.

    Example:
        >>> check_option_names("convert", {"clusterer": "kmeans"}, ["clusterer", "n_init"])
    """
    for name in options:
        if name not in allowed:
            alike = difflib.get_close_matches(name, allowed, 1)
            hint = f"; did you mean {alike[0]!r}?" if alike else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")
