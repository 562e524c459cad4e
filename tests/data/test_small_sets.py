"""Data sets made from the digits and the glyphs: styles, and pairs of digits."""

import numpy as np
import pytest

from lookalike.baselines import hyperparameters
from lookalike.data import load_digit_pairs, load_digits, load_glyphs, load_styles
from lookalike.data.styles import STYLES


def test_styles_are_the_glyphs_with_the_letter_as_an_attribute():
    styles, glyphs = load_styles(copies=1), load_glyphs(copies=1)
    assert styles.class_names == STYLES == ["upright", "italic"]
    assert len(styles.attributes.names) == 23
    assert "italic" not in styles.attributes.names
    italic, bold = (glyphs.attributes.names.index(name) for name in ("italic", "bold"))
    for part, attributes, old, old_attributes in (
        (styles.train, styles.attributes.train, glyphs.train, glyphs.attributes.train),
        (styles.test, styles.attributes.test, glyphs.test, glyphs.attributes.test),
    ):
        assert np.array_equal(part.images, old.images)
        assert np.array_equal(part.labels, old_attributes[:, italic])
        assert np.array_equal(attributes[:, :10].argmax(1), old.labels)
        assert (attributes[:, :10].sum(1) == 1).all()
        assert np.array_equal(attributes[:, styles.attributes.names.index("bold")], old_attributes[:, bold])
    assert set(styles.train.labels) == {0, 1}
    assert not styles.test.labels.any()  # none of matplotlib's fonts that fall to this part is italic
    assert styles.notes[1] == "no font of the test part is italic: $LOOKALIKE_FONTS can name a folder with more fonts"


@pytest.fixture(scope="module")
def pairs():
    return load_digit_pairs()


def test_pairs_are_two_digits_of_their_own_part(pairs):
    digits = load_digits()
    assert pairs.class_names[:2] + pairs.class_names[-1:] == ["00", "01", "99"]
    for part, singles in ((pairs.train, digits.train), (pairs.test, digits.test)):
        assert set(np.bincount(part.labels)) == {len(part) // 100}
        assert part.images.shape[1:] == (32, 32)
        assert not part.images[:, :8].any()
        # each half is nearer to a digit of its own class than to most others
        small = singles.images[:, ::2, ::2][:, :14, :14].reshape(len(singles), -1) / 255.0
        for row in range(0, 100, 25):
            for position, digit in enumerate(divmod(int(part.labels[row]), 10)):
                half = part.images[row][8:24, 16 * position : 16 * position + 16]
                half = half[1:15, 1:15].reshape(-1) / 255.0
                nearest = np.argsort(((small - half) ** 2).sum(1))[:25]
                assert digit in singles.labels[nearest]
    assert pairs.fingerprint() == load_digit_pairs().fingerprint()


def test_no_digit_is_on_both_sides(pairs):
    halves = [
        {part.images[row][:, 16 * side : 16 * side + 16].tobytes() for row in range(len(part)) for side in (0, 1)}
        for part in (pairs.train, pairs.test)
    ]
    assert not halves[0] & halves[1]


def test_both_are_trained_as_the_sets_that_they_are_made_of():
    for made, source in (("styles", "glyphs"), ("digit-pairs", "digits")):
        for method in ("blackbox", "protopnet", "flint", "protovae"):
            values, expected = (hyperparameters(method, name).to_dict() for name in (made, source))
            if made == "styles":
                assert values.pop("n_prototypes") == 20
                expected.pop("n_prototypes")
            assert values == expected


@pytest.mark.parametrize("method", ["protopnet", "flint", "protovae"])
def test_the_latent_vector_is_512_for_the_papers_data(method):
    assert hyperparameters(method, "cifar10").own["embedding_dim"] == 512
    assert hyperparameters(method, "a-folder-of-mine").own["embedding_dim"] == 512
    assert hyperparameters(method, "digits").own["embedding_dim"] < 512
