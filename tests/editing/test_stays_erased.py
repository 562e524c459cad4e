"""A part that was taken out of prototypes stays out of those that are made from them."""

import pytest
import torch

from lookalike import convert
from lookalike.editing import Erase
from lookalike.editing.folder import open_session
from tests.small import small_network


@pytest.fixture
def session():
    y = torch.arange(90) % 3
    x = 0.3 * torch.randn(90, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + y[:, None, None, None].float()
    model = convert(small_network(), (x, y), n_prototypes=2, progress=False)
    session = model.edit((x, y))
    shift = 0.5 * torch.ones(2, session.state.vectors.shape[1])
    shift[1] *= 3
    vectors = tuple(map(tuple, (session.state.vectors[2:4] + shift).tolist()))
    session.do(Erase((2, 3), (0.0, 0.0, 0.5, 0.5), vectors=vectors))
    return session, shift


def test_a_split_keeps_what_was_erased(session):
    session, shift = session
    rows = session.material.members(session.state, [2])
    session.split(2, 2)
    centres = session.material.split(rows, 2)
    torch.testing.assert_close(session.state.vectors[-2:], centres + shift[0])
    torch.testing.assert_close(session.state.erased[-2:], shift[:1].expand(2, -1))


def test_a_merge_keeps_what_was_erased_by_the_images_behind_each(session):
    session, shift = session
    counts = [len(session.material.members(session.state, [position])) for position in (2, 3)]
    rows = session.material.members(session.state, [2, 3])
    session.merge(2, 3)
    expected = (counts[0] * shift[0] + counts[1] * shift[1]) / sum(counts)
    torch.testing.assert_close(session.state.vectors[-1], session.material.mean(rows) + expected)
    assert session.undo() is not None
    torch.testing.assert_close(session.state.erased[2:4], shift)


def test_it_is_kept_in_the_folder_too(session, tmp_path):
    session, shift = session
    session.save(tmp_path / "model")
    again = open_session(tmp_path / "model", network=small_network())
    torch.testing.assert_close(again.state.erased[2:4], shift)
