import json

import numpy as np
import pytest

from lookalike._core.errors import LookalikeError
from lookalike.data import Preprocessing, load_data, load_folder
from lookalike.data.layouts import read_layout
from tests.data.layout_folders import make_folder

SMALL = Preprocessing.square(8)
FILES = ["1.png", "2.png", "3.png", "4.png"]


def read(root, table, name="labels.csv", files=FILES, labels=...):
    """Makes a folder of images with a table in it, and returns how it is understood."""
    make_folder(root, *files)
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(table if isinstance(table, bytes) else table.encode())
    return read_layout(root, name if labels is ... else labels)


def labelled(part):
    return {file.name: int(label) for file, label in zip(part.files, part.labels, strict=True)}


PLAIN = "file,label\n1.png,ant\n2.png,bee\n3.png,ant\n4.png,bee\n"


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (PLAIN, "labels.csv"),
        (PLAIN.replace(",", "\t"), "labels.tsv"),
        (PLAIN.replace(",", ";").replace("\n", "\r\n"), "labels.csv"),
        ("\ufeff" + PLAIN, "excel.csv"),
        (PLAIN.replace(",", "\t").encode("utf-16"), "excel.txt"),
        (PLAIN.replace("file,label", "Image ID,Class Name").replace(".png", ""), "labels.csv"),
        (PLAIN.replace("file,label", "id_code,diagnosis").replace(".png", ""), "train.csv"),
        (PLAIN.replace("file,label\n", ""), "no-header.csv"),
        (PLAIN.replace("file,label\n", "").replace(",", " "), "list.txt"),
        ("lesion,image_id,dx,dx_type\nx,1,ant,h\ny,2,bee,h\nz,3,ant,h\nw,4,bee,h\n", "HAM_metadata.csv"),
        ("image,ant,bee\n1,1.0,0.0\n2,0,1\n3,1,0\n4,0,1\n", "one-hot.csv"),
        ("image,label,class\n1,0,ant\n2,1,bee\n3,0,ant\n4,1,bee\n", "numbers-and-names.csv"),
        ('image,label,note\n1,ant,"a, b\nc"\n2,bee,\n3,ant,\n4,bee,\n', "quoted.csv"),
        (PLAIN.replace("1.p", "root/1.p").replace("2.png", "./2.PNG").replace("3.p", "/data/root/3.p"), "paths.csv"),
        (json.dumps({f"{i}.png": ["bee", "ant"][i % 2] for i in range(1, 5)}), "labels.json"),
        ("\n".join(json.dumps({"file_name": f"{i}", "label": ["bee", "ant"][i % 2]}) for i in range(1, 5)), "a.jsonl"),
    ],
)  # fmt: skip
def test_usual_tables_are_read(tmp_path, table, name):
    layout = read(tmp_path / "root", table, name)
    assert (layout.kind, layout.class_names, layout.test) == ("table", ["ant", "bee"], None)
    assert labelled(layout.train) == {"1.png": 0, "2.png": 1, "3.png": 0, "4.png": 1}
    assert not layout.passed_over


def test_numbers_are_classes_in_their_own_order(tmp_path):
    layout = read(tmp_path, "file,label\n1.png,10\n2.png,9\n3.png,1\n4.png,9\n")
    assert layout.class_names == ["1", "9", "10"]


def test_whole_numbers_that_pandas_writes_with_a_dot_are_the_same_classes(tmp_path):
    layout = read(tmp_path, "file,label\n1.png,10.0\n2.png,9.0\n3.png,\n4.png,1.0\n")
    assert layout.class_names == ["1", "9", "10"]
    other = read(tmp_path / "b", "file,label\n1.png,10.5\n2.png,9.0\n4.png,1.0\n")
    assert set(other.class_names) == {"10.5", "9.0", "1.0"}


def test_a_column_or_the_folders_tell_the_parts(tmp_path):
    told = read(
        tmp_path / "a", "file,label,split\n1.png,ant,train\n2.png,bee,Training\n3.png,ant,test\n4.png,bee,val\n"
    )
    assert (labelled(told.train), labelled(told.test)) == ({"1.png": 0, "2.png": 1}, {"3.png": 0})
    assert told.passed_over.counts == {"extra_part": 1}
    files = ["train/1.png", "train/2.png", "test/3.png"]
    table = "file_name,label\ntrain/1.png,ant\ntrain/2.png,bee\ntest/3.png,bee\n"
    by_folder = read(tmp_path / "b", table, files=files)
    assert (labelled(by_folder.train), labelled(by_folder.test)) == ({"1.png": 0, "2.png": 1}, {"3.png": 1})


def test_hugging_face_metadata_are_found(tmp_path):
    table = "file_name,label\n1.png,ant\n2.png,bee\n3.png,ant\n4.png,bee\n"
    assert read(tmp_path / "a", table, "metadata.csv", labels=None).class_names == ["ant", "bee"]
    root = make_folder(tmp_path / "b", "train/1.png", "train/2.png", "test/1.png")
    (root / "test" / "metadata.jsonl").write_text('{"file_name": "1.png", "label": "bee"}\n')
    layout = read(root, table.replace("3.png,ant\n4.png,bee\n", ""), "train/metadata.csv", files=[], labels=None)
    assert (labelled(layout.train), labelled(layout.test)) == ({"1.png": 0, "2.png": 1}, {"1.png": 1})
    captions = "file_name,text\n1.png,a cat\n"
    folders = read(tmp_path / "c", captions, "metadata.csv", files=["ant/1.png", "bee/1.png"], labels=None)
    assert folders.kind == "classes"


def test_rows_and_images_without_a_partner_are_counted(tmp_path):
    layout = read(tmp_path, "file,label\n1.png,ant\n2.png,bee\n2.png,bee\n3.png,\n9.png,bee\n")
    assert labelled(layout.train) == {"1.png": 0, "2.png": 1}
    assert layout.passed_over.to_dict() == {
        "unlabelled": {"count": 2, "examples": ["3.png", "4.png"]},
        "missing_file": {"count": 1, "examples": ["9.png"]},
        "no_label": {"count": 1, "examples": ["3.png"]},
        "repeated_row": {"count": 1, "examples": ["2.png"]},
    }


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "file,label\n1.png,ant\n2.png,bee\n1.png,bee\n",
            "line 4 of .* gives '1.png' as 'bee', and an earlier line as 'ant'",
        ),
        ("file,label\n7.png,ant\n8.png,bee\n", "no file of the table .*, such as '7.png', is in the folder"),
        ("file,label\ntest/1.png,ant\ntest/2.png,bee\n", "no file of the table .*, such as 'test/1.png'"),
        ("file,label\n../labels/1.png,ant\n/etc/2.png,bee\n", "no file of the table"),
        ("image,label,category\n1,a,x\n2,b,x\n3,c,y\n", "two columns of classes, 'label' and 'category'; say which"),
        ("image,colour\n1,red\n2,blue\n", "no column of classes, only 'image', 'colour'; name it 'label', .*:COLUMN"),
        (
            "photograph_no,label\n1,a\n2,b\n",
            "no column of files, only 'photograph_no', 'label'; name the column 'file_name'",
        ),
        ("image,mel,nv\n1,1,1\n2,0,1\n", r"line 2 of .* has 2 classes \(mel, nv\); an image has one class"),
        ("file,label,split\n1.png,a,train\n2.png,b,x\n", "line 3 of .* has the part 'x'; write 'train', 'test'"),
        ("file,label,split\n1.png,a,test\n2.png,b,test\n", "has no training images"),
        ("file,label,split\n1.png,a,train\n2.png,b,train\n3.png,c,test", "has classes that the training folder does"),
        ("file,label\n1.png,a,b\n2.png,b\n", "line 2 of .* has 3 cells and the first line 2"),
        ("file,label\n1.png,ant\n2.png,ant\n", "has one class only, 'ant'"),
        ("file,label\n1.png,caf\xe9\n".encode("latin-1"), "is not UTF-8 text .* save it as CSV with UTF-8"),
        (b"file,label\n1.png,a\x00\n", "is not text"),
        (b"PK\x03\x04", "is a spreadsheet or an archive: save it as CSV"),
        (b"PAR1", "is a Parquet file: save it as CSV"),
        (b"", "is empty"),
        ("file,label\n", "names no files: it has a header and no rows"),
        ("file,label\n1.png,\n", "no file of the table .*, such as '1.png', has a class in it"),
        ('{"file_name": "1.png", "label": ["a", "b"]}\n', r"line 1 of .* has the class .*; an image has one class"),
        ('{"file_name": "1.png"\n', "line 1 of .* is not JSON"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_understood_are_refused(tmp_path, table, message):
    with pytest.raises(LookalikeError, match=message) as caught:
        read(tmp_path, table)
    assert "\n" not in str(caught.value)


def test_a_file_that_may_be_two_is_refused(tmp_path):
    with pytest.raises(LookalikeError, match=r"names '1\.png', which may be 'x/1.png' or 'y/1.png': give the path"):
        read(tmp_path, "file,label\n1.png,ant\n2.png,bee\n", files=["x/1.png", "y/1.png", "x/2.png"])


def test_the_column_of_classes_can_be_named(tmp_path):
    table = "image,label,category\n1,a,x\n2,b,x\n3,c,y\n"
    assert read(tmp_path / "a", table, labels="labels.csv:category").class_names == ["x", "y"]
    with pytest.raises(LookalikeError, match="has no column 'kind', only 'image', 'label', 'category'"):
        read(tmp_path / "b", table, labels="labels.csv:kind")
    with pytest.raises(LookalikeError, match=r"the table of labels 'nowhere\.csv' does not exist"):
        read(tmp_path / "c", table, labels="nowhere.csv")


def test_a_table_makes_a_data_set(tmp_path):
    root = make_folder(tmp_path / "images", *(f"deep/{i}.png" for i in range(10)))
    table = tmp_path / "labels.csv"
    table.write_text("id,class\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(10)))
    bundle = load_folder(root, SMALL, labels=table)
    assert (np.bincount(bundle.train.labels).tolist(), np.bincount(bundle.test.labels).tolist()) == ([4, 4], [1, 1])
    assert load_data(root, SMALL, labels=str(table)).fingerprint() == bundle.fingerprint()
    with pytest.raises(LookalikeError, match="'digits' is a dataset with its own labels"):
        load_data("digits", labels=table)


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(LookalikeError, match="is a folder: give the file of the table"):
        read_layout(tmp_path, tmp_path)
