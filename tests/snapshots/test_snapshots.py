"""Snapshots show what a conversion at that moment would give, and leave the training as it was."""

import csv
import types
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from lookalike import LookalikeError, LookalikeWarning, convert
from lookalike.snapshots import take_snapshot
from tests.small import bright_images, small_network


def test_a_snapshot_is_a_conversion_and_touches_nothing(net, blobs, untouched):
    x, y = blobs
    with untouched(net):
        snapshot = take_snapshot(net, (x, y), (x[:30], y[:30]), n_prototypes=2)
    model = convert(net, (x, y), 2, progress=False)
    torch.testing.assert_close(snapshot.model.prototypes.vectors, model.prototypes.vectors)
    assert snapshot.accuracy == float((model.predict(x[:30]) == y[:30]).float().mean())
    assert snapshot.ghosting == float((model.prototypes.counts == 0).float().mean())
    assert snapshot.gallery.dtype == np.uint8
    assert snapshot.gallery.shape[2] == 3


@pytest.fixture
def lightning():
    return pytest.importorskip("lightning.pytorch")


def trained(lightning, tmp_path, loggers, **options):
    from lookalike.snapshots import SnapshotCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = small_network().train().requires_grad_(True)

        def training_step(self, batch, _):
            x, y = batch
            return nn.functional.cross_entropy(self.net(x), y)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.05)

    x, y = bright_images(60)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 30)
    callback = SnapshotCallback((x, y), (x, y), **{"network": "net", "options": {"n_prototypes": 2}, **options})
    trainer = lightning.Trainer(
        max_epochs=4, accelerator="cpu", logger=loggers, callbacks=[callback], default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    module = Module()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", category=UserWarning, message=".*num_workers|.*log_every_n_steps|.*log interval"
        )
        trainer.fit(module, loader)
    return module, callback


def test_the_callback_logs_every_second_epoch_and_training_is_the_same_without_it(lightning, tmp_path):
    logger = lightning.loggers.CSVLogger(tmp_path, version="with")
    torch.manual_seed(0)
    module, callback = trained(lightning, tmp_path, logger, every=2)
    assert list(callback.snapshots) == [2, 4]
    with (tmp_path / "lightning_logs" / "with" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [4, 8]
    assert float(rows[1]["prototypes/accuracy"]) == pytest.approx(callback.snapshots[4].accuracy)
    torch.manual_seed(0)
    other, _ = trained(lightning, tmp_path, False, every=9)
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_snapshot_that_fails_does_not_stop_the_training(lightning, tmp_path):
    with pytest.warns(LookalikeWarning, match=r"no snapshot after epoch 4: a Module has no module 'nothing'"):
        _, callback = trained(lightning, tmp_path, False, every=4, network="nothing")
    assert callback.snapshots == {}


def test_any_error_of_a_snapshot_or_a_logger_is_a_warning(lightning, monkeypatch):
    from lookalike.snapshots import SnapshotCallback, callback

    def raise_(error):
        def fail(*_, **__):
            raise error

        return fail

    data = bright_images(30)
    taking = SnapshotCallback(data, data, options={"n_prototypes": 1})
    working, broken = types.SimpleNamespace(), types.SimpleNamespace(log_metrics=raise_(OSError("no connection")))
    logged = []
    working.log_metrics = lambda figures, step: logged.append(step)
    trainer = types.SimpleNamespace(current_epoch=0, is_global_zero=True, loggers=[broken, working], global_step=5)
    with pytest.warns(LookalikeWarning, match="no snapshot after epoch 1: OSError: no connection"):
        taking.on_train_epoch_end(trainer, small_network())
    assert list(taking.snapshots) == [1]
    assert logged == [5]  # the other logger has it
    monkeypatch.setattr(callback, "take_snapshot", raise_(RuntimeError("out of memory")))
    with pytest.warns(LookalikeWarning, match="there is no snapshot after epoch 1: RuntimeError: out of memory"):
        taking.on_train_epoch_end(trainer, small_network())


def test_options_that_no_snapshot_could_use_are_refused_before_the_training(lightning):
    from lookalike.snapshots import SnapshotCallback

    data = bright_images(30)
    with pytest.raises(LookalikeError, match=r"options of a SnapshotCallback are those of convert: .*n_prototype'"):
        SnapshotCallback(data, data, options={"n_prototype": 2})
    with pytest.raises(LookalikeError, match="n_prototypes"):
        SnapshotCallback(data, data, options={"n_prototypes": 0})


def test_galleries_go_to_the_loggers_that_take_images(net, blobs):
    """Each is given them by the method that its documentation names."""
    from lookalike.snapshots.callback import log_snapshot

    snapshot, said = take_snapshot(net, blobs, blobs, n_prototypes=1), []

    def logger(**parts):
        return types.SimpleNamespace(log_metrics=lambda figures, step: said.append((sorted(figures)[0], step)), **parts)

    def record(*args, **options):
        said.append((*args, *options.values()))

    tensorboard = logger(experiment=types.SimpleNamespace(add_image=record))
    wandb = logger(experiment=None, log_image=record)
    mlflow = logger(experiment=types.SimpleNamespace(log_image=record), run_id="r")
    plain = logger(experiment=None)
    for one in (tensorboard, wandb, mlflow, plain):
        log_snapshot(one, snapshot, 7)
    pictures = [said[1][1], said[3][1][0], said[5][1]]
    assert all(picture is snapshot.gallery for picture in pictures)
    assert said[1][0] == said[3][0] == "prototypes/gallery"
    assert len(said) == 7
    assert said[-1] == ("prototypes/accuracy", 7)
