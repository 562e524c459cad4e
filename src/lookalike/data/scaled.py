"""Decoding JPEG files at a half, a quarter or an eighth of their size, where a much smaller picture is wanted.

A JPEG file stores blocks of 8×8 frequencies. libjpeg-turbo can turn each into 4×4, 2×2 or 1 pixel and leave the higher
frequencies out, which saves arithmetic, memory and most of the resizing.
"""

_SCALES = (8, 4, 2)
# The decoded picture stays at least twice as large as the resized one, as for Pillow's thumbnails. Then most of what
# the filter of the resizing averages is still there; without a margin, pixels differ twice as much.
_MARGIN = 2


def scale_of(stored: tuple[int, int], wanted: tuple[int, int]) -> int:
    """Returns 1, 2, 4 or 8: the divisor of the sides of a picture that is stored in a JPEG file, when it is decoded.

    Args:
        stored: (height, width) of the stored picture.
        wanted: (height, width) to which it will be resized.

    Example:
        >>> scale_of((3000, 4000), (256, 341)), scale_of((1000, 1000), (256, 256)), scale_of((500, 500), (256, 256))
        (4, 1, 1)
    """
    for scale in _SCALES:
        if all(side // scale >= _MARGIN * least for side, least in zip(stored, wanted, strict=True)):
            return scale
    return 1
