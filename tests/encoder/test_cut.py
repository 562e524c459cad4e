import threading

import pytest
import torch
from torch import nn

from lookalike._core.errors import LookalikeError
from lookalike.encoder import Encoder
from lookalike.encoder.calls import call
from lookalike.encoder.head import find_head, named_outputs
from tests.architectures import ARCHITECTURES, DictOutput, TupleOutput, TwoInputs, make, plain_cnn
from tests.versions import compiled


def own_output(encoder, model, x):
    with torch.no_grad():
        outputs = dict(named_outputs(call(model, x)))
    return outputs[encoder.output_key] if encoder.output_key in outputs else next(iter(outputs.values()))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_head_of_the_embedding_equals_the_models_own_output(name, untouched):
    model, x = make(name)
    with untouched(model):
        encoder = Encoder(model, x)
        expected = own_output(encoder, model, x)
        with torch.no_grad():
            features = encoder.features(x)
            embedding = encoder(x)
            torch.testing.assert_close(encoder.head(features), expected)
            torch.testing.assert_close(encoder.scores(x), expected)
            both, scores = encoder.embed_and_score(x)
    torch.testing.assert_close(both, embedding)
    torch.testing.assert_close(scores, expected)
    assert embedding.shape == (2, encoder.embedding_dim)
    assert encoder.n_outputs == 7
    assert encoder.head_weight.shape == (7, encoder.embedding_dim)
    if features.ndim == 2:  # all but the convolutional head: the embedding is what the head takes
        torch.testing.assert_close(embedding, features)
    else:
        torch.testing.assert_close(embedding, features.flatten(2).mean(2))


def test_it_embeds_in_eval_mode_and_gives_every_module_its_own_mode_back(net, untouched):
    x = torch.randn(4, 1, 8, 8)
    with untouched(net):
        encoder = Encoder(net, x)
        first, second = encoder(x), encoder(x)
        torch.testing.assert_close(first, second)  # dropout would differ, batch norm would learn
        encoder.train()
        encoder.eval()


def test_an_exception_in_the_middle_leaves_no_trace(net, untouched):
    encoder = Encoder(net, torch.randn(2, 1, 8, 8))
    with untouched(net):
        for run in (encoder, encoder.features, encoder.embed_and_score, encoder.scores):
            with pytest.raises(RuntimeError):
                run(torch.randn(2, 5, 8, 8))
        for head in (None, "6"):
            with pytest.raises(LookalikeError, match=r"cannot run inputs of shape \(5, 8, 8\): .* 5 channels"):
                Encoder(net, torch.randn(2, 5, 8, 8), head=head)
        with pytest.raises(RuntimeError):
            encoder.head(torch.randn(2, 3))


def test_the_forward_pass_ends_at_the_head(net):
    class Trap(nn.Linear):
        calls = 0

        def forward(self, x):
            Trap.calls += 1
            return super().forward(x)

    net[6] = Trap(24, 3)
    encoder = Encoder(net, torch.randn(2, 1, 8, 8))
    before = Trap.calls
    encoder(torch.randn(2, 1, 8, 8))
    assert Trap.calls == before


def test_gradients_flow(net):
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    Encoder(net, x.detach())(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_frozen_and_gradient_free_models_are_cut_too():
    class Sealed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = plain_cnn().requires_grad_(False)

        @torch.no_grad()
        def forward(self, x):
            return self.net(x)

    assert Encoder(Sealed(), torch.randn(2, 3, 16, 16)).head_name == "net.7"


@pytest.mark.parametrize("tail", [nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid(), nn.Identity()])
def test_what_follows_the_head_is_part_of_its_reading(tail):
    model = nn.Sequential(plain_cnn(), tail).eval()
    x = torch.randn(3, 3, 16, 16)
    encoder = Encoder(model, x)
    assert encoder.head_name == "0.7"
    with torch.no_grad():
        torch.testing.assert_close(encoder.head(encoder(x)), model(x))


def test_tuples_and_mappings_of_inputs():
    model = TwoInputs().eval()
    image, scale = torch.randn(3, 3, 16, 16), torch.rand(3)
    for inputs in ((image, scale), {"image": image, "scale": scale}):
        encoder = Encoder(model, inputs)
        with torch.no_grad():
            torch.testing.assert_close(encoder.head(encoder(inputs)), model(image, scale))


def test_outputs_can_be_chosen():
    x = torch.randn(2, 3, 16, 16)
    assert find_head(DictOutput(), x) == ("net.7", "probabilities")
    assert find_head(TupleOutput(), x) == ("head", 1)
    assert Encoder(TupleOutput(), x, output=1).output_key == 1
    with pytest.raises(LookalikeError, match="no output 'scores'; it has 'probabilities'"):
        find_head(DictOutput(), x, "scores")


def test_two_heads_are_ambiguous_and_the_candidates_are_listed():
    class Distilled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = plain_cnn()[:-1]
            self.head, self.head_dist = nn.Linear(12, 7), nn.Linear(12, 7)

        def forward(self, x):
            z = self.body(x)
            return (self.head(z) + self.head_dist(z.flip(1))) / 2

    x = torch.randn(2, 3, 16, 16)
    with pytest.raises(LookalikeError, match="'head', 'head_dist'"):
        Encoder(Distilled(), x)
    assert Encoder(Distilled(), x, head="head").embedding_dim == 12

    class TwoTasks(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.a, self.b = plain_cnn()[:-1], nn.Linear(12, 7), nn.Linear(12, 4)

        def forward(self, x):
            z = self.body(x)
            return {"species": self.a(z), "colour": self.b(z)}

    with pytest.raises(LookalikeError, match="'species' comes from 'a'; output 'colour' comes from 'b'"):
        Encoder(TwoTasks(), x)
    assert Encoder(TwoTasks(), x, output="colour").head_name == "b"


class Adapted(nn.Module):
    """A linear layer with an adapter of rank 2, as LoRA leaves it; with an activation it is no linear layer."""

    def __init__(self, between=None):
        super().__init__()
        self.base, self.down, self.up = nn.Linear(12, 7), nn.Linear(12, 2, bias=False), nn.Linear(2, 7, bias=False)
        self.between = between or nn.Identity()

    @property
    def weight(self):  # as peft has it: not what the layer computes
        return self.base.weight

    def forward(self, z):
        return self.base(z) + self.up(self.between(self.down(z)))


class Bare(nn.Module):
    """A linear layer of its owner's making, without a module of torch's in it."""

    def __init__(self):
        super().__init__()
        self.matrix, self.shift = nn.Parameter(torch.randn(12, 7)), nn.Parameter(torch.randn(7))

    def forward(self, z):
        return z @ self.matrix + self.shift


class LowRank(nn.Linear):
    """A subclass that computes something else than its weight says."""

    def __init__(self):
        super().__init__(12, 7)
        self.a, self.b = nn.Parameter(torch.randn(7, 2)), nn.Parameter(torch.randn(2, 12))

    def forward(self, z):
        return nn.functional.linear(z, self.weight + self.a @ self.b, self.bias)


@pytest.mark.parametrize("head", [Adapted, Bare, LowRank])
def test_a_module_that_computes_an_affine_map_is_a_head(head, untouched):
    torch.manual_seed(0)
    model, x = nn.Sequential(plain_cnn()[:-1], nn.Sequential(nn.Dropout(), head())).eval(), torch.randn(2, 3, 16, 16)
    with untouched(model):
        encoder = Encoder(model, x)
    assert (encoder.head_name, encoder.embedding_dim, encoder.outputs.kind) == ("1.1", 12, "logits")
    with torch.no_grad():
        z = encoder(x)
        torch.testing.assert_close(encoder.head(z), model(x))
        slope = model[1](z) - model[1](torch.zeros_like(z))
        torch.testing.assert_close(z @ encoder.head_weight.T, slope)


def test_an_adapter_with_an_activation_is_no_single_linear_head():
    model, x = nn.Sequential(plain_cnn()[:-1], Adapted(nn.ReLU())), torch.randn(2, 3, 16, 16)
    with pytest.raises(LookalikeError, match=r"'1\.base', '1\.up'"):
        Encoder(model, x)
    assert Encoder(model, x, head="1").head_weight is None


def test_two_heads_on_the_same_vector_have_one_embedding():
    class Distilled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = plain_cnn()[:-1]
            self.head, self.head_dist = nn.Linear(12, 7), nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 7))

        def forward(self, x):
            z = self.body(x)
            return (self.head(z) + self.head_dist(z)) / 2

    model, x = Distilled().eval(), torch.randn(2, 3, 16, 16)
    for encoder in (Encoder(model, x), Encoder(model, x, head="head_dist")):
        assert encoder.embedding_dim == 12
        with torch.no_grad():
            torch.testing.assert_close(encoder(x), model.body(x))
            torch.testing.assert_close(encoder.head(encoder(x)), model(x))
    assert Encoder(model, x).head_name == "head"


def test_no_head_is_told_and_an_embedding_network_needs_none():
    body = plain_cnn()[:-1]
    x = torch.randn(2, 3, 16, 16)
    with pytest.raises(LookalikeError, match="no linear or 1×1 convolution layer produced"):
        Encoder(body, x)
    encoder = Encoder(body, x, head="output")
    assert (encoder.head_name, encoder.embedding_dim, encoder.n_outputs) == (None, 12, None)
    torch.testing.assert_close(encoder(x), body.eval()(x))
    with pytest.raises(LookalikeError, match="without a head"):
        encoder.scores(x)
    with pytest.raises(LookalikeError, match="no module 'fc'; its last linear and 1×1 layers are '7'"):
        Encoder(plain_cnn(), x, head="fc")


def test_a_hidden_linear_layer_is_not_taken_for_the_head():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(4, 6)
            self.weight = nn.Parameter(torch.randn(6, 6))

        def forward(self, x):
            return torch.relu(self.hidden(x)) @ self.weight

    with pytest.raises(LookalikeError, match="no linear or 1×1"):
        Encoder(Functional(), torch.randn(2, 4))


def test_a_container_can_be_the_head():
    model, x = make("torchvision-small_vgg_bn")
    encoder = Encoder(model, x, head="classifier")
    assert encoder.embedding_dim == 16 * 7 * 7
    with torch.no_grad():
        torch.testing.assert_close(encoder.head(encoder(x)), model(x))


def test_a_linear_head_on_tokens_averages_the_tokens():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 4)

        def forward(self, x):
            return self.head(x).mean(1)

    x = torch.randn(2, 5, 6)
    encoder = Encoder(Tokens(), x)
    torch.testing.assert_close(encoder(x), x.mean(1))


def test_a_head_that_runs_twice_is_refused():
    class Flipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = plain_cnn()

        def forward(self, x):
            return (self.net(x) + self.net(x.flip(-1))) / 2

    with pytest.raises(LookalikeError, match="runs 2 times in a forward pass"):
        Encoder(Flipped(), torch.randn(2, 3, 16, 16))


def test_rows_at_the_head_must_be_samples():
    class Crops(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = plain_cnn()

        def forward(self, x):
            return self.net(x.flatten(0, 1)).view(len(x), -1, 7).mean(1)

    with pytest.raises(LookalikeError, match="2 samples give 10 rows at the head"):
        Encoder(Crops(), torch.randn(2, 5, 3, 16, 16), head="net.7")


def test_a_one_dimensional_convolution_head_is_averaged_over_positions():
    model = nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Conv1d(6, 3, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    x = torch.randn(4, 2, 20)
    encoder = Encoder(model, x)
    assert encoder.embedding_dim == 6
    torch.testing.assert_close(encoder(x), encoder.features(x).mean(2))


def test_wrappers_of_training_are_taken_off_and_scripts_refused():
    x = torch.randn(2, 3, 16, 16)
    net = plain_cnn()
    for wrapped in (nn.DataParallel(net), compiled(net)):
        encoder = Encoder(wrapped, x)
        assert encoder.model is net
        assert encoder.head_name == "7"
    with pytest.raises(LookalikeError, match="scripted or traced network"):
        Encoder(torch.jit.trace(net.eval(), x), x)


def test_threads_do_not_meet():
    model = plain_cnn().eval()
    inputs = [torch.full((1, 3, 16, 16), float(i)) for i in range(4)]
    encoder = Encoder(model, inputs[0])
    expected = [encoder(x) for x in inputs]
    failures = []

    def work(i):
        failures.extend(i for _ in range(50) if not torch.equal(encoder(inputs[i]), expected[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_probe_tells_computations_apart():
    torch.manual_seed(0)
    first, second = plain_cnn(), plain_cnn()
    second.load_state_dict(first.state_dict())
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(Encoder(first, x).probe(), Encoder(second, x).probe())
    second[0].stride = (1, 1)
    assert (Encoder(first, x).probe() - Encoder(second, x).probe()).norm() > 1e-3
