"""Which files are images: by suffix where that is enough, else by their first bytes."""

import functools
import os
import re
from pathlib import Path

from PIL import Image, features


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Formats that are read, by the suffixes that people give them. Files with these suffixes are not opened to be listed.
_SUFFIXES = {
    "PNG": ("png", "apng"),
    "JPEG": ("jpg", "jpeg", "jpe", "jfif", "jif", "mpo"),
    "BMP": ("bmp", "dib"),
    "GIF": ("gif",),
    "TIFF": ("tif", "tiff"),
    "WEBP": ("webp",),
    "PPM": ("ppm", "pgm", "pbm", "pnm", "pfm"),
    "JPEG2000": ("jp2", "j2k", "jpx", "jpf", "j2c", "jpc"),
    "AVIF": ("avif", "avifs"),
    "HEIF": ("heic", "heif", "hif", "heics", "heifs"),
}
_FORMAT_OF = {f".{suffix}": name for name, suffixes in _SUFFIXES.items() for suffix in suffixes}
_UNREAD = _words(
    ".jxl .dcm .dicom .nii .psd .psb .svg .svgz .eps .exr .hdr .ico .icns .tga .pcx .dds .jxr .wdp .cr2 .cr3 .nef .arw "
    ".dng .raf .orf .rw2 .pef .srw .x3f .svs .ndpi .czi .mrxs .xcf .ai"
)
_OTHERS = _words(
    ".txt .csv .tsv .json .jsonl .ndjson .xml .yaml .yml .md .rst .html .htm .css .js .py .pyc .ipynb .m .mat .npy "
    ".npz .pt .pth .pkl .pickle .ckpt .safetensors .onnx .h5 .hdf5 .parquet .arrow .feather .db .sqlite .ini .cfg "
    ".toml .log .zip .tar .gz .tgz .bz2 .xz .7z .rar .zst .mp4 .avi .mov .mkv .webm .mp3 .wav .pdf .doc .docx .xls "
    ".xlsx .ppt .pptx .bak .tmp .temp .part .crdownload .swp .swo .orig .old .lock .sh .bat .exe .dll .so .lnk .url "
    ".tfrecord .tfrecords .names .cache .license .sha1 .md5 .aux .meta .xmp .aae .thm"
)
_HEAD = 132  # bytes; a DICOM file names itself at byte 128
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"), "HEIF"
)
_STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
)


def is_image(path: str) -> bool | None:
    """Says whether a file is an image that can be read; None if it is one in a format that is not read.

    A file is opened only if its suffix does not tell; a link or a file that cannot be opened is no image.
    """
    suffix = path[path.rfind(".") :].lower()  # with a slash in it where the name has no dot: then it is no known one
    if suffix in _FORMAT_OF:
        return True if _can_read(_FORMAT_OF[suffix]) else None
    if suffix in _UNREAD:
        return None
    if suffix in _OTHERS or suffix.endswith("~"):
        return False
    name = format_of_file(path)
    return None if name is not None and not _can_read(name) else name is not None


def format_of_file(path: str | Path) -> str | None:
    """Returns an image file's format by its first bytes; None if it is no image."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a million times
            return _format_of(file.read(_HEAD))
    except OSError:
        return None


def format_of_suffix(name: str) -> str | None:
    """Returns the format that a file's suffix stands for; None for none and for others."""
    return _FORMAT_OF.get(os.path.splitext(name)[1].lower())  # noqa: PTH122


def without_suffix(name: str) -> str:
    """Returns a name without an image file's suffix; other dots belong to the name."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    return stem if suffix.lower() in _FORMAT_OF else name


def formats_read() -> str:
    """Names the suffixes of the formats that are read."""
    return " ".join(f".{suffixes[0]}" for name, suffixes in _SUFFIXES.items() if _can_read(name))


def _format_of(head: bytes) -> str | None:
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        brands = [head[8:12], *(head[i : i + 4] for i in range(16, len(head) - 3, 4))]
        return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
    if head[:2] == b"BM" and head[6:10] == bytes(4) and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if re.match(rb"P[1-6]\s+[\d#]", head):
        return "PPM"
    return "DICOM" if head[128:132] == b"DICM" else None


@functools.cache
def _can_read(name: str) -> bool:
    needs = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
    if name in needs:
        return bool(features.check(needs[name]))
    if name == "HEIF":  # with pillow-heif, once its opener is registered
        return ".heic" in Image.registered_extensions()
    return name in _SUFFIXES
