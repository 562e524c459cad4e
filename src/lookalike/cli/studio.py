"""``lookalike studio``."""

import signal
from typing import Annotated

import typer

from lookalike.cli.console import guarded, print_json, print_line, say
from lookalike.cli.edit import EditedData, Validation, Who, open_for_editing
from lookalike.cli.options import Corrections, Device, Json, Labels, Network, OnError, SavedModel


@guarded
def studio(
    model: SavedModel,
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="The folder or data set that the model was converted with.")
    ],
    validation: Validation = None,
    labels: Labels = None,
    corrections: Corrections = None,
    on_error: OnError = "stop",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", metavar="", help="Only print the address, and open no browser.")
    ] = False,
    who: Who = None,
    network: Network = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Open a page on this machine to look at a model, change its prototypes, and undo."""
    from lookalike.studio import Desk, StudioServer

    say("Embedding the training data…")
    session = open_for_editing(
        model, EditedData(data, validation, labels, corrections, on_error), network=network, device=device, who=who
    )
    with StudioServer(Desk(session, model), port) as server:
        if json:
            print_json({"address": server.address})
        else:
            print_line(f"Studio: {server.address}")
            print_line("The address is a key: whoever has it can change the model. Ctrl-C stops; all edits are saved.")
        if not no_browser:
            import webbrowser

            webbrowser.open(server.address)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            say("Stopped; all edits are saved.")
