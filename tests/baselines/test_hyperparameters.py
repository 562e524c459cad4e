import pytest

from lookalike import LookalikeError
from lookalike.baselines import METHODS, hyperparameters
from lookalike.baselines.loop import learning_rate_at
from lookalike.baselines.phases import is_last, n_epochs, phase_at
from lookalike.data import DATASETS


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("dataset", [*DATASETS, "a-folder-of-mine"])
@pytest.mark.parametrize("preset", ["paper", "reference-code"])
def test_every_method_has_phases_on_every_data_set(method, dataset, preset):
    options = hyperparameters(method, dataset, preset)
    plan = METHODS[method](options).phases()
    assert n_epochs(plan) >= options.epochs
    assert all(phase.epochs > 0 and phase.losses for phase in plan)


def test_the_papers_values():
    mnist = hyperparameters("blackbox", "mnist")
    assert (mnist.network, mnist.pretrained, mnist.batch_size) == ("torchvision:resnet34", True, 128)
    assert (mnist.optimiser, mnist.learning_rate, mnist.momentum, mnist.epochs) == ("sgd", 0.001, 0.5, 10)
    assert hyperparameters("blackbox", "cifar10").augment
    assert hyperparameters("protopnet", "cifar10").epochs == 35
    assert hyperparameters("protovae", "cifar10").epochs == 60
    assert hyperparameters("protovae", "mnist").own["divergence"] == 1
    assert hyperparameters("protovae", "svhn").own["divergence"] == 100
    celeba = hyperparameters("flint", "celeba")
    assert (celeba.n_prototypes, celeba.momentum, celeba.image_size) == (20, 0.9, 224)


def test_presets_differ_where_paper_and_code_do():
    paper, code = (hyperparameters("blackbox", "svhn", preset) for preset in ("paper", "reference-code"))
    assert (paper.learning_rate, paper.schedule) == (0.001, "constant")
    assert (code.learning_rate, code.schedule, code.final_learning_rate) == (0.01, "cosine", 0.0001)


def test_what_is_given_overrules_the_data_sets_values():
    found = hyperparameters("protopnet", "digits", given={"epochs": 3, "learning_rate": 1, "clustering": 0.5})
    assert (found.epochs, found.learning_rate, found.own["clustering"]) == (3, 1.0, 0.5)
    assert found.to_dict()["clustering"] == 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 3}, "protopnet has no hyper-parameter 'epoch'; there are network"),
        ({"epochs": 2.5}, "epochs must be like 15, not 2.5"),
        ({"pretrained": 1}, "pretrained must be like True, not 1"),
        ({"epochs": 0}, "epochs must be a number above 0, not 0"),
        ({"embedding_dim": -1}, "embedding_dim must be a number above 0"),
        ({"schedule": "steps"}, "schedule must be one of constant, cosine"),
    ],
)
def test_mistakes_are_named(given, message):
    with pytest.raises(LookalikeError, match=message):
        hyperparameters("protopnet", "mnist", given=given)


def test_unknown_methods_and_presets_are_named():
    with pytest.raises(LookalikeError, match="no method is called 'datasets'"):
        hyperparameters("datasets", "mnist")
    with pytest.raises(LookalikeError, match="no preset is called 'mine'; there are paper, reference-code"):
        hyperparameters("flint", "mnist", "mine")


def test_protopnets_phases_in_the_paper():
    plan = METHODS["protopnet"](hyperparameters("protopnet", "mnist")).phases()
    told = [(phase.name, phase.epochs, phase.push) for phase in plan]
    assert told == [("warm", 5, False), ("joint", 5, True), ("joint", 5, True), ("last layer", 5, False)]
    assert plan[0].trains == ("add-on", "prototypes")
    assert plan[-1].trains == ("classifier",)
    assert set(plan[-1].still) == {"backbone", "add-on", "prototypes"}
    assert plan[1].losses == {"cross_entropy": 1.0, "clustering": 0.8, "separation": 0.08}
    assert plan[-1].losses == {"cross_entropy": 1.0, "sparsity": 0.004}


def test_protopnet_pushes_before_its_last_layer_however_short_it_is():
    for epochs in (1, 3, 5, 6, 10, 11, 35):
        options = hyperparameters("protopnet", "mnist", given={"epochs": epochs})
        plan = METHODS["protopnet"](options).phases()
        assert plan[-2].push
        assert n_epochs(plan[:-1]) == epochs


def test_flints_losses_come_one_after_the_other():
    plan = METHODS["flint"](hyperparameters("flint", "mnist")).phases()
    on = [set(phase_at(plan, epoch - 1).losses) for epoch in range(1, 11)]
    first = {"cross_entropy", "input_fidelity"}
    assert on[:2] == [first] * 2
    assert on[2:4] == [first | {"output_fidelity", "conciseness"}] * 2
    assert on[4:] == [first | {"output_fidelity", "conciseness", "entropy", "diversity"}] * 6


def test_epochs_are_found_in_their_phases():
    plan = METHODS["protopnet"](hyperparameters("protopnet", "mnist")).phases()
    assert [is_last(plan, epoch) for epoch in range(20)] == [epoch in (4, 9, 14, 19) for epoch in range(20)]
    with pytest.raises(LookalikeError, match="there is no epoch 20; the training has 20"):
        phase_at(plan, 20)


def test_learning_rates():
    rise = hyperparameters("blackbox", "digits", given={"epochs": 4, "learning_rate": 0.3, "warm_up": 2})
    assert [learning_rate_at(rise, epoch) for epoch in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.15])
    assert learning_rate_at(rise, 4) == 0.3  # the last layer's
    flat = hyperparameters("blackbox", "mnist")
    assert {learning_rate_at(flat, epoch) for epoch in range(10)} == {0.001}
    code = hyperparameters("blackbox", "mnist", "reference-code")
    assert learning_rate_at(code, 0) == 0.01
    assert 0.0001 < learning_rate_at(code, 9) < 0.0005
