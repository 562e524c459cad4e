"""Decides which files are images, by their suffix if it is known, else by their first bytes."""

import os
import re
from pathlib import Path

from lookalike.data.decoders import IMAGE_FORMATS, readable_formats


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A file whose suffix is in one of these three lists is never opened while a folder is listed.
_FORMAT_OF = {suffix: name for name, suffixes in IMAGE_FORMATS.items() for suffix in suffixes}
_UNSUPPORTED_IMAGES = _words(
    ".jxl .dcm .dicom .nii .psd .psb .svg .svgz .eps .exr .hdr .ico .icns .tga .pcx .dds .jxr .wdp .cr2 .cr3 .nef .arw "
    ".dng .raf .orf .rw2 .pef .srw .x3f .svs .ndpi .czi .mrxs .xcf .ai"
)
_NOT_IMAGES = _words(
    ".txt .csv .tsv .json .jsonl .ndjson .xml .yaml .yml .md .rst .html .htm .css .js .py .pyc .ipynb .m .mat .npy "
    ".npz .pt .pth .pkl .pickle .ckpt .safetensors .onnx .h5 .hdf5 .parquet .arrow .feather .db .sqlite .ini .cfg "
    ".toml .log .zip .tar .gz .tgz .bz2 .xz .7z .rar .zst .mp4 .avi .mov .mkv .webm .mp3 .wav .pdf .doc .docx .xls "
    ".xlsx .ppt .pptx .bak .tmp .temp .part .crdownload .swp .swo .orig .old .lock .sh .bat .exe .dll .so .lnk .url "
    ".tfrecord .tfrecords .names .cache .license .sha1 .md5 .aux .meta .xmp .aae .thm"
)
_HEAD_BYTES = 132  # bytes; a DICOM file has its signature at byte 128
_BMP_HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)
# Formats of ISO media files by their brands, which follow 'ftyp'.
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"), "HEIF"
)
_SIGNATURES = (
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
    """Says whether a file is an image that can be read; None if it is an image in an unsupported format.

    The file is opened only if its suffix is unknown. A file that cannot be opened counts as no image.
    """
    suffix = path[path.rfind(".") :].lower()  # a name without a dot gives a "suffix" with a slash: an unknown one
    if suffix in _FORMAT_OF:
        return True if _FORMAT_OF[suffix] in readable_formats() else None
    if suffix in _UNSUPPORTED_IMAGES:
        return None
    if suffix in _NOT_IMAGES or suffix.endswith("~"):
        return False
    name = format_of_file(path)
    return None if name is not None and name not in readable_formats() else name is not None


def format_of_file(path: str | Path) -> str | None:
    """Returns the format of an image file, from its first bytes; None if it is no image."""
    try:
        with open(path, "rb") as file:  # called for up to a million files, and Path.open is slower
            return _format_of(file.read(_HEAD_BYTES))
    except OSError:
        return None


def format_of_suffix(name: str) -> str | None:
    """Returns the format of a file by its suffix; None if the suffix is missing or unknown."""
    return _FORMAT_OF.get(os.path.splitext(name)[1].lower())


def without_suffix(name: str) -> str:
    """Removes an image file's suffix from a name; "v1.2" keeps its dot."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in _FORMAT_OF else name


def formats_read() -> str:
    """Lists the suffixes of the formats that can be read, for messages."""
    return " ".join(IMAGE_FORMATS[name][0] for name in readable_formats())


def _format_of(head: bytes) -> str | None:
    for start, name in _SIGNATURES:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    # ISO media file: the major brand at byte 8, a version, then the compatible brands from byte 16 on.
    if head[4:8] == b"ftyp":
        brands = [head[8:12], *(head[i : i + 4] for i in range(16, len(head) - 3, 4))]
        return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
    # "BM" alone may begin any text: the reserved bytes must be 0, and the header must have one of the known sizes.
    if head[:2] == b"BM" and head[6:10] == bytes(4) and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if re.match(rb"P[1-6]\s+[\d#]", head):
        return "PPM"
    return "DICOM" if head[128:132] == b"DICM" else None
