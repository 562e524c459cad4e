"""The weights of a linear head as prototypes."""

import pytest
import torch
from torch import nn

from lookalike import Encoder, LookalikeError, convert, embed, evaluate, load


def test_the_scores_are_those_of_the_classifier(net, blobs, tmp_path, untouched):
    x, y = blobs
    with untouched(net):
        model = convert(net, blobs, level="head", n_images=2)
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), net(x))
    weight = net.get_submodule(model.encoder.head_name).weight
    assert torch.equal(model.prototypes.vectors, weight)
    # the nearest images of a weight are those with the largest product, of its class
    products = model.embed(x) @ weight.detach().T
    for k in range(3):
        best = torch.nonzero(y == k)[:, 0][products[y == k, k].argmax()]
        assert int(model.prototypes.nearest[k, 0]) == int(best)
    assert model.images.shape[:2] == (3, 2)
    model.save(tmp_path / "model")
    assert torch.equal(load(tmp_path / "model", model=net)(x), model(x))
    card = evaluate(model, blobs, train=blobs, only=("faithfulness", "transparency", "diversity")).to_dict()
    assert card["agreement"] == 1
    assert {"ghosting", "diversity"} <= set(card)


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, images, labels):
        self.rows = list(zip(images, labels.tolist(), strict=True))

    def __iter__(self):
        return iter(self.rows)


def test_data_whose_images_cannot_be_read_again_are_taken(net, blobs):
    """From a stream no sample can be read by its number, and a store has no images: nothing is there to check."""
    expected = convert(net, blobs, level="head", progress=False)
    encoder = Encoder(net, blobs[0][:2])
    for network, data in ((net, Stream(*blobs)), (encoder, embed(encoder, blobs, progress=False))):
        model = convert(network, data, level="head", progress=False)
        assert torch.equal(model.prototypes.vectors, expected.prototypes.vectors)
        assert torch.equal(model.prototypes.nearest, expected.prototypes.nearest)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_head_in_another_precision_is_taken(net, blobs, dtype):
    assert len(convert(net.to(dtype), blobs, level="head", progress=False).prototypes) == 3


@pytest.mark.parametrize("changed", ["flipped", "negative", "scaled"])
def test_a_head_whose_weights_do_not_give_the_answers_is_refused(changed, blobs):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU())
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            scores = self.head(self.features(x))
            return {"flipped": scores.flip(1), "negative": -scores, "scaled": 9 * scores}[changed]

    with pytest.raises(LookalikeError, match="the weights of the head 'head' do not give the classifier's answers"):
        convert(Net().eval(), blobs, level="head", progress=False)


def test_other_heads_and_options_are_refused(blobs):
    x, y = blobs
    deep = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 5))
    with pytest.raises(LookalikeError, match="the head's weights are not those of the data's classes"):
        convert(deep, blobs, level="head")
    with pytest.raises(LookalikeError, match="one prototype per class, under the dot product"):
        convert(deep, blobs, n_prototypes=3, level="head")
    with pytest.raises(LookalikeError, match="this classifier has no head"):
        convert(deep, blobs, level="head", head="output")
    single = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1))
    with pytest.raises(LookalikeError, match="an output per class"):
        convert(single, (x[y < 2], y[y < 2]), level="head")


def test_a_head_with_a_sigmoid_for_each_class_is_taken(blobs):
    """Its probabilities do not sum to one, so that a softmax of its scores says nothing of it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3), nn.Sigmoid()).eval()
    model = convert(net, blobs, level="head", progress=False)
    assert model.encoder.outputs.kind == "sigmoids"
    with torch.no_grad():
        torch.testing.assert_close(model(blobs[0]).sigmoid(), net(blobs[0]))
