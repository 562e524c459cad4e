import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike import EmbeddingStore, LookalikeError, convert, explain, load
from lookalike.conversion.survey import survey
from lookalike.data import Batches, DataBundle, Preprocessing
from lookalike.editing import (
    EDITS,
    Add,
    Describe,
    Drop,
    Merge,
    Move,
    Pin,
    Rename,
    Restrict,
    Split,
    edit_from_dict,
    open_session,
    read_script,
    resolve,
    run_step,
    script_of,
)
from lookalike.editing.pictures import Pictures
from lookalike.editing.regions import region_mask
from lookalike.export.file import describe
from lookalike.export.plain import PlainModel
from tests.small import bright_images, small_network

NET = small_network()
DATA = bright_images(90)
MODEL = convert(NET, DATA, n_prototypes=3)


@pytest.fixture
def session():
    return MODEL.edit(DATA, who="a tester")


def tensors(model):
    return {name: tensor.clone() for name, tensor in model.prototypes.state_dict().items()} | {"images": model.images}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name].nan_to_num(-1), b[name].nan_to_num(-1)) for name in a)


def test_no_edit_changes_the_given_model(session):
    before = tensors(MODEL)
    session.drop(0)
    assert equal(tensors(MODEL), before)
    assert len(session.model.prototypes) == 8


def test_merging_gives_the_mean_of_all_samples_behind_both(session):
    z = MODEL.embed(DATA[0])
    held_out = set(session.judge.indices.tolist())
    rows = [i for i in range(90) if DATA[1][i] == 1 and i not in held_out]
    session.merge(3, 4, 5)  # all prototypes of the class: the mean of its samples
    assert torch.allclose(session.state.vectors[-1], z[rows].mean(0), atol=1e-6)
    assert session.state.labels.tolist().count(1) == 1


def test_splitting_clusters_the_samples_behind_one(session):
    session.merge(3, 4, 5)
    position = len(session.state) - 1
    session.split(position, 4)
    assert session.state.labels.tolist().count(1) == 4
    assert int(session.model.prototypes.counts[session.state.labels == 1].sum()) == 30


def test_a_moved_prototype_predicts_its_new_class(session):
    vector = session.state.vectors[0:1]
    session.move(0, "2")
    assert int(session.model.scores_of(vector).argmax()) == 2


def test_a_prototype_from_an_image_is_most_similar_to_it(session):
    session.add("1", image=DATA[0][0], title="a bright one")
    assert int(session.model.similarities(DATA[0][:1]).argmax()) == 9
    assert session.model.annotations.names[9] == "a bright one"


def test_a_restricted_prototype_depends_on_its_region_only(session):
    entry = session.restrict(2, (0, 0, 0.5, 0.5))
    image = MODEL.prototype_inputs()[2:3]
    blank = image.mean((2, 3), keepdim=True).expand_as(image).clone()
    blank[:, :, :4, :4] = image[:, :, :4, :4]
    assert torch.allclose(session.state.vectors[2], MODEL.embed(blank)[0])
    assert entry.to_edit().region == (0, 0, 0.5, 0.5)


def test_another_image_shows_a_prototype_and_no_decision_changes(session):
    farthest = int(MODEL.prototypes.nearest[4, -1])
    entry = session.show(4, farthest)
    model = session.model
    assert int(model.prototypes.nearest[4, 0]) == farthest
    assert model.prototypes.distances[4, 0] == MODEL.prototypes.distances[4, -1]
    assert entry.effect["n_changes"] == 0
    pixels = model.to_pixels(DATA[0][farthest : farthest + 1])[0]
    assert torch.equal(model.images[4, 0], pixels)


EDITS_TO_TRY = st.lists(
    st.one_of(
        st.builds(Drop, st.tuples(st.integers(0, 9))),
        st.builds(Split, st.integers(0, 9), st.integers(2, 3)),
        st.builds(Merge, st.tuples(st.integers(0, 9), st.integers(0, 9))),
        st.builds(Move, st.integers(0, 9), st.sampled_from(["0", "1", "2"])),
        st.builds(Add, st.sampled_from(["0", "2"]), st.none(), st.tuples(st.integers(0, 89))),
        st.builds(Rename, st.integers(0, 9), st.sampled_from(["<b>", "ü"])),
        st.just("undo"),
        st.just("redo"),
    ),
    max_size=8,
)


@settings(max_examples=8)
@given(EDITS_TO_TRY)
def test_any_edits_leave_a_model_as_if_surveyed_anew_and_undo_to_the_bit(edits):
    session = MODEL.edit(DATA, who="")
    before = tensors(MODEL)
    for edit in edits:
        try:
            session.undo() if edit == "undo" else session.redo() if edit == "redo" else session.do(edit)
        except LookalikeError:
            continue
    found = session.model.prototypes
    store = session.source.store
    anew = survey(found, session.model.similarity, store.embeddings, store.labels, n_nearest=found.nearest.shape[1])
    assert torch.equal(found.counts, anew.counts)
    assert torch.allclose(found.purity, anew.purity, equal_nan=True)
    assert torch.allclose(found.distances, anew.distances, atol=1e-5)
    predicted = session.model.scores_of(torch.from_numpy(store.embeddings[session.judge.indices])).argmax(1)
    assert torch.equal(session.predictions(), predicted)
    while session.history.head:
        session.undo()
    assert equal(tensors(session.model), before)


def test_the_effect_counts_what_changes(session):
    before = session.predictions().clone()
    entry = session.move(0, "1")
    after, labels = session.predictions(), session.judge.labels
    assert entry.effect["n_changes"] == int((before != after).sum()) > 0
    assert entry.effect["accuracy"][1]["value"] == pytest.approx(float((after == labels).float().mean()))
    assert entry.effect["lost"] == int(((before == labels) & (after != labels)).sum())
    assert entry.effect["part"] == "held-out training"


def test_validation_data_judge_and_nothing_is_held_out():
    x, y = bright_images(30)
    session = MODEL.edit(DATA, validation=(x, y))
    assert session.rename(0, "a").effect["n"] == 30
    assert session.judge.part == "validation"


def test_the_test_part_is_opened_on_purpose_and_counted(session):
    with pytest.raises(LookalikeError, match="there are no test data"):
        session.open_test()
    session = MODEL.edit(DATA, test=bright_images(30), who="me")
    session.drop(0)
    effect = session.open_test("release")
    assert (effect.part, effect.n) == ("test", 30)
    assert [(opening.who, opening.note, opening.number) for opening in session.history.openings] == [
        ("me", "release", 1)
    ]


def test_a_bundle_is_judged_on_its_test_part():
    x, y = bright_images(30)
    bundle = DataBundle("b", DATA, (x, y), ["0", "1", "2"], Preprocessing((8, 8), (8, 8)))
    assert MODEL.edit(bundle, validation=bundle).judge.labels.shape == (30,)
    assert MODEL.edit(bundle, test=bundle).open_test().n == 30
    assert len(MODEL.edit(bundle).source.labels) == 90


def test_no_edit_learns_from_samples_that_judge(session):
    judging = session.judge.indices.tolist()
    learned = [i for i in range(90) if i not in judging and DATA[1][i] == 0][:2]
    entry = session.add("0", samples=[*learned, judging[0]])
    assert torch.allclose(session.state.vectors[-1], MODEL.embed(DATA[0][learned]).mean(0), atol=1e-6)
    assert "from 2 training samples (left out, because edits are judged on them: 1)" in entry.sentence
    with pytest.raises(LookalikeError, match="no edit may learn from them"):
        session.add("0", samples=judging[:2])
    session.show(2, judging[0])
    with pytest.raises(LookalikeError, match=f"shown by training sample {judging[0]}, which edits are judged on"):
        session.restrict(2, (0, 0, 0.5, 0.5))


def test_no_look_or_label_of_another_session_is_overwritten(tmp_path):
    MODEL.edit().save(tmp_path / "m")
    first, second = (open_session(tmp_path / "m", network=NET, test=DATA) for _ in range(2))
    first.correct(4, "", "1", "0")
    first.save(tmp_path / "m", overwrite=True)
    second.open_test("why")
    with pytest.raises(LookalikeError, match="corrected labels that were made elsewhere meanwhile"):
        second.save(tmp_path / "m", overwrite=True)
    first.open_test("why")
    first.save(tmp_path / "m", overwrite=True)
    assert len(open_session(tmp_path / "m", network=NET).history.openings) == 1


def test_history_survives_saving_to_the_bit(session, tmp_path):
    session.split(0, 2, note="two kinds")
    session.rename(0, "<script>alert(1)</script>")
    session.undo()
    session.drop(1, note="starved")
    states = [tensors_of(snapshot) for snapshot in session.snapshots]
    session.save(tmp_path / "m")
    again = open_session(tmp_path / "m", DATA, network=NET)
    assert [entry.note for entry in again.history.entries] == ["", "two kinds", "", "starved"]
    assert all(equal(a, tensors_of(b)) for a, b in zip(states, again.snapshots, strict=True))
    assert equal(tensors(load(tmp_path / "m", NET)), tensors(session.model))
    again.go_to(2)
    again.save(tmp_path / "m", overwrite=True)
    assert load(tmp_path / "m", NET).annotations.names[0] == "<script>alert(1)</script>"
    with pytest.raises(LookalikeError, match="made elsewhere"):
        MODEL.edit(DATA).save(tmp_path / "m", overwrite=True)


def tensors_of(snapshot):
    return dict(snapshot.prototypes.state_dict()) | {"images": snapshot.images}


def test_a_saved_model_without_edits_loads_and_other_files_stay(tmp_path):
    MODEL.save(tmp_path / "m", extra_files={"log.txt": b"trained"})
    assert load(tmp_path / "m", NET).annotations is None
    session = open_session(tmp_path / "m", DATA, network=NET)
    session.drop(0)
    session.save(tmp_path / "m", overwrite=True)
    assert (tmp_path / "m" / "log.txt").read_bytes() == b"trained"


def test_without_data_prototypes_can_be_named_only():
    session = MODEL.edit()
    assert session.rename(0, "left").effect is None
    with pytest.raises(LookalikeError, match="needs the embeddings of the training data"):
        session.drop(1)


def test_stored_embeddings_are_enough_to_drop(session):
    store = session.source.store
    other = MODEL.edit(EmbeddingStore(store.embeddings, store.labels, store.indices))
    assert other.drop(0).number == 1
    with pytest.raises(LookalikeError, match="picture of training sample"):
        other.show(0, next(iter(set(range(90)) - set(MODEL.prototypes.nearest[:, :5].flatten().tolist()))))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Drop((0, 1, 2)), "class '0' would have no prototypes left"),
        (Drop((99,)), "prototype must be"),
        (Merge((0, 3)), "prototypes of '0' and '1' cannot be merged"),
        (Merge((0,)), "takes two prototypes"),
        (Move(0, "dog"), "no class is called 'dog'; there are: 0, 1, 2"),
        (Move(0, "0"), "is of class '0' already"),
        (Split(0, 1), "n must be"),
        (Add("0"), "either a vector or training samples"),
        (Add("0", samples=(90,)), "there is no training sample 90"),
        (Add("0", vector=(1.0,)), "has 1 dimensions"),
        (Rename(0, "a\nb"), "one line"),
        (Rename(0, 3), "one line of 1 to 200"),
        (Describe(0, 3), "a description is text, not 3"),
        (Restrict(0, (0, 0, 1)), "a region is left, top, right, bottom"),
        (Restrict(0, ("a", 0, 1, 1)), "a region is left, top, right, bottom"),
    ],
)
def test_impossible_edits_change_nothing(session, edit, message):
    with pytest.raises(LookalikeError, match=message):
        session.do(edit)
    assert session.history.head == 0
    assert len(session.snapshots) == 1


def test_a_pinned_prototype_stays(session):
    session.do(Pin(0))
    with pytest.raises(LookalikeError, match="is pinned; unpin it first"):
        session.drop(0)
    session.rename(0, "a name is allowed")
    session.pin(0, False)
    session.drop(0)


def test_other_data_are_refused():
    x, y = bright_images(60)
    with pytest.raises(LookalikeError, match="not those that the model was converted with"):
        MODEL.edit((x, y))


@pytest.mark.parametrize("name", list(EDITS))
def test_edits_round_trip_as_plain_values(name):
    examples = {
        "rename": {"prototype": 1, "title": None},
        "describe": {"prototype": 1, "description": "ö"},
        "pin": {"prototype": 1},
        "drop": {"prototypes": [1, 2]},
        "merge": {"prototypes": [1, 2]},
        "split": {"prototype": 1, "n": 3},
        "add": {"class_name": "0", "vector": [0.1, 2]},
        "move": {"prototype": 1, "class_name": "0"},
        "show": {"prototype": 1, "sample": 3},
        "restrict": {"prototype": 1, "region": [0, 0, 0.5, 1]},
        "erase": {"prototypes": [1, 2], "region": [0, 0, 0.5, 1], "vectors": [[0.5], [1.0]]},
    }
    edit = edit_from_dict({"edit": name, **examples[name]})
    assert edit_from_dict(json.loads(json.dumps(edit.to_dict()))) == edit


def test_a_script_repeats_a_session(session, tmp_path):
    session.split(0, 2, note="two kinds")
    session.restrict(1, (0, 0, 0.5, 0.5))
    session.add("1", image=DATA[0][3])
    session.show(2, 5)
    session.show(2, None)
    session.rename(0, "a")
    session.rename(0, None)
    (tmp_path / "edits.yaml").write_text(script_of(session))
    other = MODEL.edit(DATA)
    for number, step in enumerate(read_script(tmp_path / "edits.yaml"), 1):
        run_step(other, step, number)
    assert equal(tensors_of(other.snapshot), tensors_of(session.snapshot))
    assert other.history.entries[1].note == "two kinds"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drop: 3", "must be a list of edits"),
        ("- drop: [3]", "step 1 must name one edit"),
        ("- drap: {prototypes: [3]}", "did you mean 'drop'"),
        ("- !!python/object/apply:os.system [ls]", "is not YAML in line 1"),
        ("- [", "is not YAML"),
    ],
)
def test_bad_scripts_are_refused_in_one_line(text, message, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(LookalikeError, match=message) as refusal:
        read_script(tmp_path / "a.yaml")
    assert "\n" not in str(refusal.value)


def test_a_bad_step_is_named(session):
    with pytest.raises(LookalikeError, match=r"step 2 \(drop\): edit has an unknown entry 'prototype'"):
        run_step(session, {"drop": {"prototype": 3}}, 2)


def test_a_changed_history_is_refused(session, tmp_path):
    session.drop(0)
    session.save(tmp_path / "m")
    file = tmp_path / "m" / "edits.json"
    file.write_text(file.read_text().replace('"head": 1', '"head": 0'))
    with pytest.raises(LookalikeError, match=r"'edits.json' .* was altered"):
        open_session(tmp_path / "m", DATA, network=NET)


def test_sample_numbers_are_those_of_the_store(session):
    rows = np.random.default_rng(0).permutation(90)
    store = session.source.store
    shuffled = EmbeddingStore(store.embeddings[rows], store.labels[rows], store.indices[rows])
    a, b = MODEL.edit(DATA), MODEL.edit(DATA, embeddings=shuffled)
    a.add("0", samples=[6])
    b.add("0", samples=[6])
    assert torch.allclose(a.state.vectors[-1], b.state.vectors[-1])
    assert int(b.model.prototypes.nearest[-1, 0]) == 6


def test_an_update_says_that_it_keeps_no_names(session):
    session.rename(0, "left")
    with pytest.warns(UserWarning, match="names, descriptions and pins are not kept"):
        assert session.model.update(bright_images(30)).annotations is None


def test_names_are_shown_wherever_a_prototype_is_named(session, tmp_path):
    session.rename(4, "Ünlike <b>")
    session.describe(4, "bright on the right")
    model = session.model
    x = DATA[0][int(model.prototypes.nearest[4, 0])][None]
    said = explain(model, x)[0]
    assert said.likenesses[0].prototype == 4
    assert "prototype 4 of class '1', called 'Ünlike <b>' (bright on the right)" in said.sentence()
    assert "no. 4 · Ünlike <b>" in said.likenesses[0].caption()
    assert "'Ünlike <b>'" in repr(said)
    first = said.to_dict()["nearest"][0]
    assert (first["name"], first["description"], first["region"]) == ("Ünlike <b>", "bright on the right", None)
    texts = {text.get_text() for text in model.plot_gallery().texts}
    assert any("Ünlike <b>" in text for text in texts)
    model.save(tmp_path / "m")
    assert "Ünlike \\<b\\>: bright on the right" in (tmp_path / "m" / "README.md").read_text()
    exported = describe(model, PlainModel(model), pixels=False, images=False)["prototypes"]
    assert (exported[4]["name"], exported[4]["title"]) == ("1 · no. 4, 'Ünlike <b>'", "Ünlike <b>")
    assert exported[3]["name"] == "1 · no. 3"


def test_a_prototype_that_no_image_stands_behind_is_still_plain_json(session):
    far = tuple((session.state.vectors[0] + 1e3).tolist())
    session.do(Add("0", far))
    row = session.snapshot.prototypes.to_table()[-1]
    assert (row["count"], row["purity"], set(row["percentiles"])) == (0, None, {None})
    json.dumps(session.snapshot.prototypes.to_table(), allow_nan=False)


@pytest.mark.parametrize("side", [8, 16, 24, 32, 224])
def test_a_region_has_one_pixel_at_least(side):
    for region in ((0.97, 0, 1, 1), (0.998, 0, 1, 1), (0, 0.99, 1, 1), (0.999, 0.999, 1, 1), (0, 0, 0.001, 0.001)):
        mask = region_mask(region, "inside", side, side)
        assert mask.any()
        assert not mask.all()


def test_a_misspelt_argument_of_an_edit_is_told(session):
    region = [0, 0, 0.5, 0.5]
    for name, arguments in (
        ("erase", {"prototypes": [0], "region": region, "sied": "outside"}),
        ("restrict", {"prototype": 0, "region": region, "titel": "x"}),
    ):
        with pytest.raises(LookalikeError, match=f"{name} has no '(sied|titel)'; it takes prototype"):
            resolve(session, name, arguments)
    with pytest.raises(LookalikeError, match="an image or a vector, not both"):
        resolve(session, "add", {"label": 0, "image": "x.png", "vector": [0.0]})


def test_a_script_that_is_not_there_is_told(tmp_path):
    with pytest.raises(LookalikeError, match="does not exist"):
        read_script(tmp_path / "none.yaml")


def test_the_users_own_files_are_kept_with_the_model_or_saving_is_refused(tmp_path):
    MODEL.save(tmp_path / "m")
    (tmp_path / "m" / "images" / "notes.txt").write_text("mine")
    session = open_session(tmp_path / "m", DATA, network=NET)
    session.rename(0, "x")
    session.save(tmp_path / "m", overwrite=True)
    assert (tmp_path / "m" / "images" / "notes.txt").read_text() == "mine"
    (tmp_path / "m" / "weights.pt").symlink_to(tmp_path / "elsewhere.pt")
    session.rename(0, "y")
    with pytest.raises(LookalikeError, match=r"holds a link, 'weights\.pt'"):
        session.save(tmp_path / "m", overwrite=True)
    assert (tmp_path / "m" / "weights.pt").is_symlink()


def test_agreement_is_with_the_originals_classes(tmp_path):
    """Outputs in another order than the data's classes are the same classes; the effect says so, or nothing."""
    x, y = bright_images(90)
    names = ["c", "a", "b"]
    means = torch.stack([x[y == k].flatten(1).mean(0) for k in range(3)])
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.Linear(64, 3)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(64))
        net[2].weight.copy_(means - means.mean(0))
        net[2].bias.copy_(-(means - means.mean(0)) @ means.mean(0))
    order = [(k + 1) % 3 for k in range(3)]

    class Reordered(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.class_names = net, [names[k] for k in order]

        def forward(self, inputs):
            return self.net(inputs)[:, order]

    sems = [convert(made, (x, y), n_prototypes=2, class_names=names, progress=False) for made in (net, Reordered())]
    effects = [sem.edit((x, y)).drop(0).effect for sem in sems]
    agreements = [effect["agreement"][0]["value"] for effect in effects]
    assert agreements[0] == pytest.approx(agreements[1])
    assert agreements[0] > 0.5


def test_pictures_that_can_be_read_again_are_forgotten(monkeypatch):
    model = MODEL
    pictures = Pictures(Batches(DATA), model.value_range, model.preprocessing)
    first = pictures[3]
    monkeypatch.setattr("lookalike.editing.pictures._MOST_BYTES", 5 * first.nbytes)
    for sample in range(40):
        pictures[sample]
    assert len(pictures._known) == 5
    assert torch.equal(pictures[3], first)
    nearest = torch.tensor([[3, 4], [-1, -1]])
    shown = pictures.of(nearest, 2)
    assert torch.equal(shown[0, 0], first)
    assert shown[1].min() == 255  # a prototype without training images


def test_pictures_are_shown_while_others_are_read(monkeypatch):
    pictures = Pictures(Batches(DATA), MODEL.value_range, MODEL.preprocessing)
    monkeypatch.setattr("lookalike.editing.pictures._MOST_BYTES", 6 * pictures[0].nbytes)

    def look(start):
        for turn in range(60):
            pictures[(start + 7 * turn) % 90]
            pictures.of(torch.tensor([[(start + turn) % 90, (start + 3 * turn) % 90]]), 2)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(look, start) for start in range(4)]:
            done.result()
