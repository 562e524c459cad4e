"""Runs an exported model where lookalike is not installed: onnxruntime, NumPy and Pillow are enough.

    lookalike export my-model -o exported --pixels
    python run_exported.py exported photograph.jpg

A single file (-o model.onnx) does as well as the folder.

With --pixels the file takes bytes and normalises them itself; without, they are normalised here. Prints the prediction
with the prototypes that it rests on, and draws the image beside them.
"""

import base64
import io
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps

COLOURS = ("gold", "cyan", "magenta")  # of the frames around parts


def in_eight_bits(photograph: Image.Image, preprocessing: dict) -> Image.Image:
    """Returns an image turned upright, its greys of 16 bits scaled to 8: Pillow alone would make nearly all white."""
    if not preprocessing.get("as_stored", False):
        photograph = ImageOps.exif_transpose(photograph)
    values_of_black_and_white = preprocessing.get("value_range")
    if values_of_black_and_white is None and photograph.mode.startswith("I;16"):
        values_of_black_and_white = (0, 65535)
    if photograph.mode not in ("I", "F") and not photograph.mode.startswith("I;16"):
        return photograph
    if values_of_black_and_white is None:
        raise ValueError("the image's greys have no scale of their own: save it with 8 or unsigned 16 bits")
    low, high = values_of_black_and_white
    values = (np.asarray(photograph, dtype=np.float64) - low) / (high - low) * 255
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def resized_size(image: Image.Image, wanted: int | list, fit: str) -> tuple:
    """Returns the height and width to which an image is resized: by its shorter side, stretched, or as it fits."""
    if isinstance(wanted, int):
        longer = int(wanted * max(image.size) / min(image.size))
        return (wanted, longer) if image.height <= image.width else (longer, wanted)
    if fit == "stretch":
        return tuple(wanted)
    ratio = (max if fit == "contain" else min)(image.height / wanted[0], image.width / wanted[1])
    return max(round(image.height / ratio), 1), max(round(image.width / ratio), 1)


def cropped(image: Image.Image, height: int, width: int, fill: list) -> Image.Image:
    """Returns the centre of an image; a smaller one gets a border."""
    top, left = (
        round(margin / 2) if margin >= 0 else -(-margin // 2) for margin in (image.height - height, image.width - width)
    )
    bands = len(image.getbands())
    colour = fill if len(fill) == bands else [round(sum(fill) / len(fill))] * bands
    canvas = Image.new(image.mode, (width, height), tuple(colour) if bands > 1 else colour[0])
    canvas.paste(image, (-left, -top))
    return canvas


def fitted(image: Image.Image, preprocessing: dict) -> Image.Image:
    """Returns an image cropped and resized as the network was given its images."""
    if preprocessing.get("convention", "torchvision") != "torchvision":
        raise ValueError("the network's library resizes by rules of its own, which this example does not have")
    fill = preprocessing.get("fill", [0])
    if preprocessing.get("window"):
        shorter = min(image.size)
        image = cropped(image, *(max(int(share * shorter), 1) for share in preprocessing["window"]), fill)
    if preprocessing["resize"] is not None:
        height, width = resized_size(image, preprocessing["resize"], preprocessing.get("fit", "stretch"))
        image = image.resize((width, height), Image.Resampling[preprocessing["interpolation"].upper()])
    return cropped(image, *preprocessing["crop"], fill) if preprocessing["crop"] else image


def as_input(photograph: Image.Image, session: onnxruntime.InferenceSession, described: dict) -> tuple:
    """Returns an image as the file takes it, [1, ...], and as a picture of the network's size.

    Raises:
        ValueError: If this example cannot prepare the image as the network was given its images.
    """
    expected, preprocessing = session.get_inputs()[0], described["preprocessing"]
    takes_bytes = expected.type == "tensor(uint8)"
    height, width, channels = [expected.shape[position] for position in ((1, 2, 3) if takes_bytes else (2, 3, 1))]
    if preprocessing is None or (not takes_bytes and preprocessing.get("pad") is not None):
        raise ValueError("the file does not say how an image becomes an input of the network: this example cannot")
    photograph = in_eight_bits(photograph, preprocessing)
    ground = preprocessing.get("transparency", "dropped")
    if ground != "dropped":  # what is transparent shows white or black
        layer = photograph.convert("RGBA")
        photograph = Image.alpha_composite(Image.new("RGBA", layer.size, ground), layer)
    image = fitted(photograph.convert("L" if channels == 1 else "RGB"), preprocessing)
    if (image.width, image.height) != (width, height):
        raise ValueError(f"the image has {image.width} × {image.height} pixels, and the file takes {width} × {height}")
    pixels = np.asarray(image).reshape(1, height, width, channels)
    if takes_bytes:
        return pixels, image
    values = (pixels / 255 - preprocessing["mean"]) / preprocessing["std"]
    if preprocessing.get("channel_order") == "bgr":
        values = values[..., ::-1]
    dtype = {"tensor(float16)": np.float16, "tensor(double)": np.float64}.get(expected.type, np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype), image


def picture_of(place: str, folder: Path) -> Image.Image:
    """Returns a prototype's picture: a file of the folder, or the picture itself, as a data URI."""
    if place.startswith("data:"):
        return Image.open(io.BytesIO(base64.b64decode(place.partition(",")[2])))
    return Image.open(folder / place)


def box_of(place: int, rows: int, columns: int, extent: tuple) -> tuple:
    """Returns where a part lies in its image: top, left, bottom, right, as shares of the sides.

    The extent is the part of the image that all parts cover together.
    """
    row, column = divmod(place, columns)
    top, left, bottom, right = extent
    height, width = (bottom - top) / rows, (right - left) / columns
    box = top + row * height, left + column * width, top + (row + 1) * height, left + (column + 1) * width
    return tuple(min(max(side, 0), 1) for side in box)


def frame(picture: Image.Image, box: tuple, rank: int) -> None:
    """Draws a frame around a part of a picture, further inside for each rank, so that none hides another."""
    top, left, bottom, right = box
    line = max(1, picture.width // 80)
    inside, outside = rank * line, rank * line + 1
    corners = left * picture.width + inside, top * picture.height + inside
    ends = right * picture.width - outside, bottom * picture.height - outside
    ImageDraw.Draw(picture).rectangle((*corners, *ends), outline=COLOURS[rank % len(COLOURS)], width=line)


def main(exported: Path, photograph: Path) -> None:
    """Answers for one image and draws "this looks like that"; takes an exported folder or file."""
    session = onnxruntime.InferenceSession(exported / "model.onnx" if exported.is_dir() else exported)
    inside = session.get_modelmeta().custom_metadata_map  # a single file has all of it inside
    text = (exported / "prototypes.json").read_text(encoding="utf-8") if exported.is_dir() else inside["lookalike"]
    described = json.loads(text)
    try:
        inputs, image = as_input(Image.open(photograph), session, described)
    except OSError as error:
        raise SystemExit(f"{photograph} cannot be read as an image: {error}") from error
    except ValueError as error:
        raise SystemExit(f"{photograph}: {error}") from error
    width, height = image.size
    values = session.run(None, {session.get_inputs()[0].name: inputs})
    answer = {output.name: value[0] for output, value in zip(session.get_outputs(), values, strict=True)}
    best = int(answer["scores"].argmax())
    print(f"{described['class_names'][best]}: {answer['probabilities'][best]:.0%}")
    calibration = described["calibration"]
    if calibration is None:
        print("not calibrated: nothing is promised about this probability")
    else:
        error, n = calibration["after"]["ece"], calibration["n_validation"]
        print(f"calibrated: on {n} other images such probabilities are off by {100 * error:.1f} points on average")
    if answer["unfamiliar"]:
        print(
            "unfamiliar: it is farther from its nearest prototype than every training image behind that prototype "
            "(where those are fewer than ten, all images of the class count, or all of the data)"
            if calibration is None
            else "unfamiliar: its novelty score is higher than that of nearly all validation images"
        )
    if "in_set" in answer:
        names = [name for name, is_in in zip(described["class_names"], answer["in_set"], strict=True) if is_in]
        coverage = f"{100 * calibration['coverage']:.4g}%"
        print(
            f"with {coverage} coverage: {' or '.join(names)}" if names else f"with {coverage} coverage: nothing I know"
        )
    if "answered" in answer and not answer["answered"]:
        error = calibration["abstention"]["error"]
        print(f"too unsure for an answer, if at most {error:.0%} of the answers may be wrong")
    sheet, parts = [image.convert("RGB")], described.get("parts")
    captions = [f"this image: {described['class_names'][best]}"]
    for rank, (number, percentile) in enumerate(zip(answer["nearest"], answer["percentiles"], strict=True)):
        prototype = described["prototypes"][number]
        which = f"the part framed in {COLOURS[rank % len(COLOURS)]} " if parts else ""
        print(f"  {which}looks like prototype {number} of {prototype['class']!r}, percentile {percentile:.0f}")
        if parts:
            frame(sheet[0], box_of(int(answer["places"][rank]), *parts["grid"], described["extent"]), rank)
        if prototype["image"]:
            sheet.append(picture_of(prototype["image"], exported).convert("RGB").resize((width, height)))
            captions.append(f"prototype {number}: {prototype['class']}")
        if prototype["image"] and prototype.get("box"):
            frame(sheet[-1], prototype["box"], rank)
    enlarged = max(1, -(-160 // width))  # small pictures, so that captions fit
    width, height = width * enlarged, height * enlarged
    drawn = Image.new("RGB", (width * len(sheet), height + 20), "white")
    for position, (picture, caption) in enumerate(zip(sheet, captions, strict=True)):
        drawn.paste(picture.resize((width, height), Image.Resampling.NEAREST), (position * width, 0))
        ImageDraw.Draw(drawn).text((position * width + 4, height + 3), caption, fill="black")
    drawn.save("this-looks-like-that.png")
    print("Drawn: this-looks-like-that.png (of an earlier image, it is replaced)")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
