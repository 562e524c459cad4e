"""The image formats that are read, with their suffixes; a file in any other format is named and refused."""

import functools

from PIL import Image, features

# Formats that Pillow decodes by itself. Left out are formats for which Pillow starts a program (EPS: Ghostscript), that
# are drawings (WMF), that Pillow recognises but cannot decode (GRIB, HDF5), or that have no signature (TGA).
IMAGE_FORMATS: dict[str, tuple[str, ...]] = {
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "HEIF": (".heic", ".heif", ".hif", ".heics", ".heifs"),  # after pillow-heif's opener is registered
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".j2c", ".jpc", ".jpf"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}

STARTS_A_PROGRAM = ("EPS",)

_OPTIONAL_LIBRARIES = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # Pillow may be built without them

# Files that are often mistaken for readable images: (offset, signature, what the file is).
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%!PS", "a PostScript file"),
    (0, b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (0, b"%PDF", "a PDF file"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"SIMPLE  =", "a FITS file"),
    (0, b"\xd7\xcd\xc6\x9a", "a WMF file"),
    (0, b"\x00\x00\x01\x00", "an icon (ICO)"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself: fetch it with 'git lfs pull'"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an XML text (SVG perhaps)"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF", "an HDF5 file"),
    (128, b"DICM", "a DICOM file"),
    (4, b"ftypheic", "a HEIC photograph, which needs pillow-heif and its opener"),
    (4, b"ftypheix", "a HEIC photograph, which needs pillow-heif and its opener"),
    (4, b"ftypmif1", "a HEIC photograph, which needs pillow-heif and its opener"),
    (4, b"ftyp", "a video or another file of the MP4 family"),
)
HEAD_BYTES = 132  # enough for all signatures


def readable_formats() -> list[str]:
    """Returns the formats in ``IMAGE_FORMATS`` that the installed Pillow can decode."""
    Image.init()
    return [name for name in IMAGE_FORMATS if name in Image.OPEN and _has_library(name)]


@functools.cache
def _has_library(name: str) -> bool:
    return name not in _OPTIONAL_LIBRARIES or bool(features.check(_OPTIONAL_LIBRARIES[name]))


def describe_unreadable_file(head: bytes) -> str:
    """Says what kind of file an unreadable "image" is, for the error message.

    Args:
        head: The file's first ``HEAD_BYTES`` bytes.
    """
    if not head:
        return "it is empty"
    if not head.strip(b"\x00"):
        return "it begins with zeros only; the file is damaged"
    for offset, signature, name in _SIGNATURES:
        if head[offset:].startswith(signature):
            return f"it is {name}; images are read as {', '.join(readable_formats())}"
    return "not an image"
