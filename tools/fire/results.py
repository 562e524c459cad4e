"""What came of a part of the campaign."""

import time
from dataclasses import dataclass, field


@dataclass
class Shard:
    """Which part of the trials a process does.

    Attributes:
        number: How many trials the part has in all shards together.
        seed: Of all of them.
        index: This shard, from 0.
        count: How many shards there are.
        seconds: After so many no further trial begins.
    """

    number: int
    seed: int = 0
    index: int = 0
    count: int = 1
    seconds: float = float("inf")
    started: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() - self.started > self.seconds

    def trials(self, of: int | None = None) -> range:
        """Returns the numbers of this shard's trials."""
        return range(self.index, self.number if of is None else of, self.count)


@dataclass
class Result:
    """Trials of one part.

    Attributes:
        part: Its name.
        tried: How many trials there were.
        broke: What is wrong, a line for each trial that broke.
    """

    part: str
    tried: int = 0
    broke: list[str] = field(default_factory=list)

    def add(self, message: str) -> None:
        """Adds a trial; an empty message is a good one."""
        self.tried += 1
        if message:
            self.broke.append(message)
            print(f"{self.part}: {message}", flush=True)


def table(results: list[Result]) -> str:
    """Returns how many trials were tried, held and broke."""
    lines = [f"{'part':<16}{'tried':>8}{'held':>8}{'broke':>8}"]
    lines += [f"{r.part:<16}{r.tried:>8,}{r.tried - len(r.broke):>8,}{len(r.broke):>8,}" for r in results]
    return "\n".join(lines)
