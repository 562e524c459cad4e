"""Hostile and damaged folders: saved models, and working folders of embeddings, clusters and trainings.

A saved model is loaded after one of the alterations of ``tools/fuzz_saved.py``. In the other folders files are
flipped, cut, emptied, swapped, removed or replaced by links and pipes; then the job that uses the folder runs. It ends
with the results of an undisturbed run, or is refused in one line: never with a traceback, and never with others.
"""

import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from tools import fuzz_saved
from tools.fire.pairs import finish, start
from tools.fire.results import Result, Shard
from tools.kill_anywhere import JOBS, Job, prepare, run, snapshot, trial, undisturbed, warm_up

_INTERRUPTED = {  # a job that goes on after a kill: the folder or file that it goes on from
    "convert with a working folder": "work",
    "train": "trained.training",
    "embed": "store",
    "evaluate": "parts.json",
}


def flip(path: Path, chance: random.Random) -> None:
    """Flips a bit."""
    content = bytearray(path.read_bytes())
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def cut(path: Path, chance: random.Random) -> None:
    """Cuts a file off."""
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content) + 1)])


def empty(path: Path, _chance: random.Random) -> None:
    """Empties a file."""
    path.write_bytes(b"")


def append(path: Path, chance: random.Random) -> None:
    """Appends bytes."""
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.choice([1, 64, 4096])))


def swap(path: Path, chance: random.Random) -> None:
    """Swaps a file with another one of its folder."""
    others = [other for other in path.parent.iterdir() if other.is_file() and other != path]
    if others:
        other = chance.choice(others)
        content = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)


def remove(path: Path, _chance: random.Random) -> None:
    """Removes a file."""
    path.unlink()


def replace_by_folder(path: Path, _chance: random.Random) -> None:
    """Puts a folder in a file's place."""
    path.unlink()
    path.mkdir()


def replace_by_link(path: Path, _chance: random.Random) -> None:
    """Puts a dangling link in a file's place."""
    path.unlink()
    path.symlink_to("nowhere")


def replace_by_pipe(path: Path, _chance: random.Random) -> None:
    """Puts a pipe in a file's place: whoever opens it waits for ever."""
    path.unlink()
    os.mkfifo(path)


Known = tuple[dict[str, str], int]  # an undisturbed job's results, and how many calls it makes
DAMAGES: list[Callable[[Path, random.Random], None]] = [
    flip, flip, flip, cut, cut, empty, append, swap, swap, remove, replace_by_folder, replace_by_link, replace_by_pipe,
]  # fmt: skip


def damage(folder: Path, chance: random.Random) -> str:
    """Damages a file of a folder, or the file that it is; returns what was done."""
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        return ""
    path, how = chance.choice(files), chance.choice(DAMAGES)
    how(path, chance)
    return f"{how.__name__} {path.relative_to(folder.parent)}"


def use_damaged(name: str, ready: Path, root: Path, chance: random.Random, known: dict[str, Known]) -> str | None:
    """Interrupts a job, damages what it left, and runs it again.

    Returns:
        What is wrong, or nothing; None if there was nothing to damage.
    """
    job: Job = JOBS[name]
    expected, n_calls = known[name]
    with trial(job, ready, root) as (folder, arguments):
        run(arguments, folder, chance.randint(n_calls // 3, n_calls - 1))
        target = folder / _INTERRUPTED[name]
        hidden = sorted(folder.glob(f".{target.name}*")) + sorted(folder.glob(f"{target.name}.*"))
        target = target if target.exists() else next(iter(hidden), target)
        done = damage(target, chance) if target.exists() else ""
        if not done:
            return None
        code, printed = finish(*start(arguments))
        if code == 0:
            after = snapshot_of_results(folder)
            names = sorted(n for n in expected if after.get(n) != expected[n])
            return f"{name}: {done}: it ended with other {', '.join(names[:4])}" if names else ""
        if code != 2 or "Traceback" in printed:
            return f"{name}: {done}: it ended with {code}: {printed[-500:]}"
        return ""


def snapshot_of_results(folder: Path) -> dict[str, str]:
    """Returns a fingerprint of each file that is no working file."""
    return {name: value for name, value in snapshot(folder).items() if not name.startswith(("work/", ".", "parts"))}


def run_models(result: Result, shard: Shard, number: int, place: Path) -> None:
    """Loads altered models."""
    torch.set_num_threads(1)
    models = fuzz_saved.make_models(place / "models")
    for trial_number in range(shard.index, number, shard.count):
        if shard.over:
            return
        chance = random.Random(f"{shard.seed}/{trial_number}")
        model = chance.choice(models)
        folder = place / f"{model.name}-{trial_number}"
        shutil.copytree(model, folder)
        try:
            done = fuzz_saved.alter(folder, chance)
        except Exception as error:  # the first alteration left nothing for the second
            done = f"half done: {error}"
        answer, _, memory = fuzz_saved.in_child(lambda folder=folder: fuzz_saved.use(folder))
        good = answer.startswith(("refused", "works")) and memory <= fuzz_saved.MEMORY
        result.add("" if good else f"model {trial_number} ({done}): {answer[-400:]}")
        shutil.rmtree(folder, ignore_errors=True)


def run_folders(result: Result, shard: Shard, number: int, root: Path) -> None:
    """Runs jobs on damaged working folders."""
    warm_up()
    ready = prepare(root)
    known: dict[str, Known] = {}
    for name in _INTERRUPTED:
        if shard.over:
            return
        _, n_calls = undisturbed(JOBS[name], ready, root)
        with trial(JOBS[name], ready, root) as (folder, arguments):
            run(arguments, folder, traced=False)
            known[name] = snapshot_of_results(folder), n_calls
    done, attempt = 0, shard.index
    wanted = len(range(shard.index, number, shard.count))
    while done < wanted and not shard.over:
        chance = random.Random(f"{shard.seed}/{attempt}/folder")
        message = use_damaged(list(known)[attempt // shard.count % len(known)], ready, root, chance, known)
        if message is not None:
            result.add(message and f"folder {attempt}, {message}")
            done += 1
        attempt += shard.count


def run_part(shard: Shard) -> Result:
    """Half of the trials are saved models, half are working folders."""
    result = Result("folders")
    with tempfile.TemporaryDirectory() as place:
        root = Path(place).resolve()
        run_models(result, shard, shard.number // 2, root)
        run_folders(result, shard, shard.number - shard.number // 2, root)
    return result
