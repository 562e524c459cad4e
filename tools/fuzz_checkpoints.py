"""Reads thousands of damaged checkpoints, each in a process with little memory and time: no traceback, no hang.

    python tools/fuzz_checkpoints.py --files 2000 --seed 0

Genuine files of every kind are damaged: bits flipped, bytes cut, repeated or replaced by extreme numbers, opcodes
of pickles exchanged, archives put together again with a damaged pickle. Each must be read or refused in one line.
"""

import argparse
import io
import json
import multiprocessing
import pickle
import random
import resource
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save as save_safetensors
from torch import nn

from lookalike._core.errors import LookalikeError
from lookalike.encoder import read_checkpoint
from lookalike.encoder.weights import choose_weights, load_fit

MOST_SECONDS = 20.0
MOST_BYTES = 2 << 30
EXTREMES = (b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x01" + bytes(7))
OPCODES = b"()0123acdeghijlopqrstu}]\x80\x81\x82\x85\x86\x87\x88\x8a\x8c\x8d\x8e\x90\x92\x93\x94\x95\x96RQbNKJGXB."


def network() -> nn.Module:
    """Returns the network that the weights are of."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 5))


NETWORK = network()


def originals() -> dict[str, bytes]:
    """Returns a genuine file of every kind."""
    net = network()
    state = net.state_dict()
    training = {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, path=Path("x")),
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "optimizer": torch.optim.AdamW(net.parameters()).state_dict(),
        "state_dict_ema": state,
        "classes": ["cat", "dog"],
    }

    def saved(content: object, *, zipped: bool = True) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
        return buffer.getvalue()

    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    return {
        "zip": saved(state),
        "training": saved(training),
        "whole": saved(net),
        "legacy": saved(state, zipped=False),
        "legacy whole": saved(net, zipped=False),
        "pickle": pickle.dumps(state),
        "arrays": pickle.dumps(arrays, 2),
        "text pickle": pickle.dumps(arrays, 0),
        "safetensors": save_safetensors(state),
        "index": json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}).encode(),
    }


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Returns a file that was damaged in one to four ways."""
    if data[:2] == b"PK" and chance.random() < 0.6:
        return _rezipped(data, chance)
    return _spoiled(data, chance)


def _spoiled(data: bytes, chance: random.Random, opcodes: bool = False) -> bytes:
    content = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if not content:
            break
        at = chance.randrange(len(content)) if chance.random() < 0.5 else chance.randrange(min(len(content), 600))
        kind = chance.randrange(7)
        if opcodes or kind == 0:
            content[at] = chance.choice(OPCODES)
        elif kind == 1:
            content[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del content[at:]
        elif kind == 3:
            extreme = chance.choice(EXTREMES)
            content[at : at + len(extreme)] = extreme
        elif kind == 4:
            part = content[at : at + chance.randrange(1, 200)]
            content[at:at] = part * chance.choice((1, 2, 50))
        elif kind == 5:
            del content[at : at + chance.randrange(1, 50)]
        else:
            content[at:at] = chance.randbytes(chance.randrange(1, 30))
    return bytes(content)


def _rezipped(data: bytes, chance: random.Random) -> bytes:
    """Puts an archive together again, with a damaged entry and right checksums."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in entries if name.endswith("data.pkl"))
    if chance.random() < 0.2:
        name = chance.choice(list(entries))
    entries[name] = _spoiled(entries[name], chance, opcodes=chance.random() < 0.3)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return buffer.getvalue()


def outcome_of(path: Path) -> str:
    """Reads a file and says how it went."""
    try:
        load_fit(NETWORK, choose_weights(read_checkpoint(path), NETWORK).fit, "the weights")
    except LookalikeError as error:
        return "refused" if "\n" not in str(error) else "more than a line"
    except BaseException as error:
        return f"TRACEBACK {type(error).__name__}"
    return "read"


def _child(files: list[Path], results: "multiprocessing.connection.Connection") -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    for path in files:
        started = time.monotonic()
        outcome = outcome_of(path)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        results.send((outcome, time.monotonic() - started, peak))


def outcomes(files: list[Path]) -> Iterator[tuple[Path, str, float, int]]:
    """Reads files in child processes, with a limit of time for each; one that dies or hangs is replaced."""
    context = multiprocessing.get_context("fork")
    start = 0
    while start < len(files):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(files[start:], sender), daemon=True)
        child.start()
        sender.close()
        while start < len(files):
            try:
                answer = receiver.recv() if receiver.poll(MOST_SECONDS) else ("HANG", MOST_SECONDS, 0)
            except EOFError:
                answer = ("KILLED", 0.0, 0)
            yield files[start], *answer
            start += 1
            if answer[0] in ("HANG", "KILLED"):
                break
        child.kill()
        child.join()
        receiver.close()


def fuzz(number: int, seed: int, folder: Path, say: Callable[[str], None]) -> int:
    """Damages and reads files; returns how many went wrong."""
    chance = random.Random(seed)
    kinds = originals()
    files, kind_of = [], {}
    for i in range(number):
        kind = list(kinds)[i % len(kinds)]
        path = folder / f"{i:05d}.pth"
        path.write_bytes(damaged(kinds[kind], chance))
        files.append(path)
        kind_of[path] = kind
    table: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    slowest, largest, wrong = 0.0, 0, 0
    for path, outcome, seconds, peak in outcomes(files):
        table[kind_of[path]][outcome] += 1
        slowest, largest = max(slowest, seconds), max(largest, peak)
        if outcome not in ("read", "refused"):
            wrong += 1
            say(f"{outcome}: {kind_of[path]}, {path.name} of seed {seed}")
    say(f"{'kind':14} {'read':>6} {'refused':>8} {'wrong':>6}")
    for kind, counts in table.items():
        others = counts.total() - counts["read"] - counts["refused"]
        say(f"{kind:14} {counts['read']:6} {counts['refused']:8} {others:6}")
    say(f"{number} files: {wrong} wrong; the slowest took {slowest:.1f} s; at most {largest / 2**20:.0f} MiB")
    return wrong


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="keep the damaged files in this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        sys.exit(1 if fuzz(arguments.files, arguments.seed, folder, print) else 0)


if __name__ == "__main__":
    main()
