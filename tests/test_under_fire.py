"""A short run of the campaign: one seed, a few trials of each part."""

import random
import sys

import pytest
from tools.fire import disks, folders, interrupts, kills
from tools.fire.results import Result, Shard, table
from tools.kill_anywhere import JOBS, prepare, undisturbed

from tests.interruptions import interrupt
from tests.small import small_network

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="traces system calls")


def test_shards_share_the_trials_out():
    trials = [trial for index in range(3) for trial in Shard(10, index=index, count=3).trials()]
    assert sorted(trials) == list(range(10))
    assert Shard(10, seconds=-1).over


def test_the_table_counts_what_broke():
    result = Result("kills")
    result.add("")
    result.add("it lost a file")
    assert table([result]).splitlines()[1].split() == ["kills", "2", "1", "1"]


def test_a_model_that_a_call_leaves_changed_is_seen():
    """The watch has eyes, for the second interruption too."""
    net = small_network()
    _, done, changed = interrupt(
        lambda: net.train(not net.training), net, 3, instructions=False, chance=random.Random(0), twice=True
    )
    assert done + len(changed) >= 3
    assert any("modes" in line for line in changed)


@pytest.mark.slow
def test_interruptions_change_nothing():
    result = interrupts.run(Shard(15, seconds=6))
    assert result.tried >= 5
    assert result.broke == []


@pytest.mark.slow
@LINUX
@pytest.mark.skipif(not disks.CAN_FILL, reason="takes system calls away")
def test_a_full_disk_loses_nothing(tmp_path):
    ready = prepare(tmp_path)
    disks.prepare_more(ready)
    for job in (disks.MORE_JOBS["evaluate over an old card"], JOBS["save over an old model"]):
        expected, _ = undisturbed(job, ready, tmp_path)
        assert not disks.fill_and_repeat(job, ready, tmp_path, 1, expected)


@LINUX
def test_kills_and_damaged_folders_hold(tmp_path):
    assert kills.run(Shard(3, seconds=4)).broke == []
    result = Result("folders")
    folders.run_models(result, Shard(6, seed=1), 6, tmp_path)
    assert result.tried == 6
    assert result.broke == []
