import json

import pytest

from lookalike import LookalikeError
from lookalike.data import Preprocessing, load_data, with_corrections
from tests.cli.test_commands import mistake, run

HEAD = "sample,file_name,label,corrected\n"


@pytest.fixture
def bundle(image_folder):
    return load_data(str(image_folder), Preprocessing.square(8, mean=(0.5,) * 3, std=(0.5,) * 3))


def test_corrected_labels_replace_those_of_the_data(bundle, tmp_path):
    (tmp_path / "c.csv").write_text(f"{HEAD}0,elsewhere/00.png,ant,bee\n9,,bee,cat\n")
    before = bundle.train.labels.copy()
    corrected = with_corrections(bundle, tmp_path / "c.csv")
    assert [corrected.train.labels[row] for row in (0, 9)] == [1, 2]
    assert (corrected.train.labels != before).sum() == 2
    assert corrected.train[0][1] == 1
    assert (bundle.train.labels == before).all()
    assert corrected.train.fingerprint() != bundle.train.fingerprint()
    (tmp_path / "c.csv").write_text(f"{HEAD}0,elsewhere/00.png,ant,bee\n9,,bee,cat\n0,,ant,bee\n")
    assert with_corrections(bundle, tmp_path / "c.csv").notes == corrected.notes
    assert corrected.notes[-1] == "2 training labels corrected by 'c.csv'"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0,01.png,ant,bee", "sample 0 is '.*00.png' in these data, not '01.png'"),
        ("0,,bee,ant", "sample 0 is labelled 'ant' in these data, not 'bee'"),
        ("0,,ant,dog", "line 2: there is no class 'dog'"),
        ("24,,ant,bee", "no training sample '24'; there are 24"),
        ("-1,,ant,bee", "no training sample '-1'"),
        ("0,,ant,bee\n0,,ant,cat", "line 3: sample 0 should be 'cat' here and 'bee' in line 2; leave one of them out"),
    ],
)
def test_corrections_of_other_data_are_refused(bundle, tmp_path, row, message):
    (tmp_path / "c.csv").write_text(f"{HEAD}{row}\n")
    with pytest.raises(LookalikeError, match=message):
        with_corrections(bundle, tmp_path / "c.csv")


def test_other_tables_and_data_are_refused(bundle, tmp_path):
    (tmp_path / "c.csv").write_text("a,b\n1,2\n")
    with pytest.raises(LookalikeError, match="no column 'sample'"):
        with_corrections(bundle, tmp_path / "c.csv")


def test_what_the_studio_noted_goes_into_the_next_conversion(network_file, image_folder, tmp_path):
    network = ("--network", f"{network_file}:make")
    convert = ("convert", f"{network_file}:make", image_folder, "--n-prototypes", 2)
    (tmp_path / "c.csv").write_text(f"{HEAD}0,00.png,ant,bee\n")
    result = run(*convert, "-o", tmp_path / "m", "--corrections", tmp_path / "c.csv", "--json")
    assert "1 training label corrected by 'c.csv'" in json.loads(result.stdout)["notes"]
    (tmp_path / "e.yaml").write_text("- drop: {prototypes: [0]}\n")
    edit = ("edit", tmp_path / "m", tmp_path / "e.yaml", "--data", image_folder, *network)
    assert "not those that the model was converted with" in mistake(*edit)
    found = run(*edit, "--corrections", tmp_path / "c.csv", "--validation", image_folder, "--json")
    effect = json.loads(found.stdout)["log"][0]["effect"]
    assert (effect["part"], effect["n"]) == ("validation", 9)
