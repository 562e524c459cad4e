"""``lookalike push``."""

from typing import Annotated

import typer

from lookalike.cli.console import guarded, out, print_json, print_line
from lookalike.cli.options import Json, Network, SavedModel, open_model, pick_device


@guarded
def push(
    model: SavedModel,
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the Hugging Face Hub.")],
    no_images: Annotated[
        bool, typer.Option("--no-images", metavar="", help="Upload no pixel of any training image.")
    ] = False,
    no_names: Annotated[
        bool, typer.Option("--no-names", metavar="", help="Upload no file name of any training image.")
    ] = False,
    licence: Annotated[str | None, typer.Option(help="Licence of the model, such as apache-2.0.")] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Who sees a new repository; else the owner's default.")
    ] = None,
    network: Network = None,
    json: Json = False,
) -> None:
    """Upload a converted model to the Hugging Face Hub; load it again as hub:OWNER/NAME."""
    converted, _ = open_model(model, network, pick_device("cpu"))
    address = converted.push_to_hub(repo, images=not no_images, names=not no_names, licence=licence, private=private)
    if json:
        print_json({"repository": repo, "commit": address, "images": not no_images and converted.images is not None})
        return
    print_line(f"Uploaded to {address}")
    if converted.images is not None and not no_images:
        out.print("The training images that show its prototypes were uploaded too; --no-images leaves them out.")
    if converted.training_names and not no_names:
        out.print("The file names of these images were uploaded too; --no-names leaves them out.")
    out.print(f"Use it as hub:{repo}, in Python and in every command.", style="dim", markup=False)
