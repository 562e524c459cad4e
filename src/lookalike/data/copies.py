"""Exact copies among the files of a data set, by the hashes of their contents."""

from typing import Any

import numpy as np

from lookalike._core.errors import warn_of
from lookalike._core.names import visible, without_common_folder
from lookalike._core.wording import counted
from lookalike.data.samples import whole_data_set

_NAMED = 2  # groups of copies that are named


def warn_of_copies(data: Any) -> None:
    """Warns in one line of files that are exact copies of others, of those in two classes first.

    Args:
        data: A data set of image files such as ``ImageFiles``, or a part of one; other data are ignored.

    Warns:
        LookalikeWarning: With the number of copies and the names of some.
    """
    sentence = copies_sentence(data)
    if sentence is not None:
        warn_of(sentence)


def copies_sentence(data: Any) -> str | None:
    """Returns one line on the files that are exact copies of others; None if there are none, or no files."""
    data, rows = whole_data_set(data)
    keys, files, labels = (getattr(data, name, None) for name in ("content_keys", "files", "labels"))
    if not callable(keys) or not isinstance(files, list) or labels is None:
        return None
    rows = np.arange(len(files)) if rows is None else np.unique(rows)
    classes = np.asarray(labels)[rows]
    groups = _groups(keys()[rows])
    if not groups:
        return None
    n_copies = sum(len(group) - 1 for group in groups)
    # of each group the first image is the original, and the others are its copies
    n_across = sum(int((classes[group[1:]] != classes[group[0]]).sum()) for group in groups)
    named = sorted(groups, key=lambda group: len(np.unique(classes[group])) < 2)[:_NAMED]
    names = without_common_folder([str(file) for file in files])
    listed = "; ".join(" = ".join(f"'{visible(names[rows[place]])}'" for place in group[:2]) for group in named)
    more = ", …" if len(groups) > _NAMED else ""
    if n_copies == 1:
        copies = f"is an exact copy of {'one of another class' if n_across else 'another'}"
    else:
        copies = "are exact copies of others" + (f", {n_across:,} of another class" if n_across else "")
    return f"{counted(n_copies, 'training image')} {copies} ({listed}{more}): lookalike audit lists them"


def _groups(contents: np.ndarray) -> list[np.ndarray]:
    """Returns the places of equal contents, for each content that there is more than once."""
    order = np.argsort(contents, kind="stable")
    ends = np.flatnonzero(np.diff(contents[order])) + 1
    return [group for group in np.split(order, ends) if len(group) > 1]
