"""Serves an exported model over HTTP: FastAPI, onnxruntime, NumPy and Pillow are enough; lookalike is not needed.

    pip install fastapi uvicorn onnxruntime pillow
    lookalike export my-model -o exported --pixels
    python serve_exported.py exported --port 8000
    curl --data-binary @photograph.jpg localhost:8000/explain

Answers with the class, its probability, and the prototypes that the image looks most like. The pictures of the
prototypes are served too, below /prototypes/.
"""

import argparse
import io
import json
import math
from pathlib import Path
from typing import Any

import onnxruntime
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.staticfiles import StaticFiles
from PIL import Image

from run_exported import as_input

MOST_BYTES = 20 * 2**20  # of an image


def make_app(folder: Path) -> FastAPI:
    """Returns the server's application for an exported folder."""
    described = json.loads((folder / "prototypes.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    app = FastAPI(title="lookalike")

    def answer(content: bytes) -> dict[str, Any]:
        inputs, _ = as_input(Image.open(io.BytesIO(content)), session, described)
        values = session.run(None, {session.get_inputs()[0].name: inputs})
        outputs = {output.name: value[0] for output, value in zip(session.get_outputs(), values, strict=True)}
        best = int(outputs["scores"].argmax())
        return {
            "class": described["class_names"][best],
            "probability": float(outputs["probabilities"][best]),
            "unfamiliar": bool(outputs["unfamiliar"]),
            "calibrated": described["calibration"] is not None,
            # the classes that it may have, and whether to answer at all: None without a calibration
            "set": None
            if "in_set" not in outputs
            else [described["class_names"][k] for k in outputs["in_set"].nonzero()[0]],
            "answered": None if "answered" not in outputs else bool(outputs["answered"]),
            "looks_like": [
                {
                    "prototype": int(number),
                    "class": described["prototypes"][number]["class"],
                    "image": described["prototypes"][number]["image"],
                    "similarity": float(similarity),
                    "percentile": None if math.isnan(percentile) else float(percentile),
                }
                for number, similarity, percentile in zip(
                    outputs["nearest"], outputs["similarities"], outputs["percentiles"], strict=True
                )
            ],
        }

    @app.post("/explain")
    async def explain(request: Request) -> dict[str, Any]:
        """Explains the prediction for the image in the request's body."""
        content = b""
        async for part in request.stream():
            content += part
            if len(content) > MOST_BYTES:
                raise HTTPException(413, f"an image may have {MOST_BYTES:,} bytes at most")
        try:
            return await run_in_threadpool(answer, content)
        except (OSError, Image.DecompressionBombError) as error:
            raise HTTPException(422, f"this is no image that can be read: {error}") from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error

    if (folder / "prototypes").is_dir():
        app.mount("/prototypes", StaticFiles(directory=folder / "prototypes"))
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    uvicorn.run(make_app(arguments.folder), host="127.0.0.1", port=arguments.port)
