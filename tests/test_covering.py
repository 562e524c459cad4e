"""Which tests tools/covering.py gives a line, where coverage is installed (extra ``mutation``)."""

import json
import textwrap

import pytest

pytest.importorskip("coverage")

from coverage import CoverageData
from tools import covering
from tools.covering import Covering, reach

SOURCE = textwrap.dedent(
    """\
    LIMIT = 3


    @cache
    def f(a, b=LIMIT):
        if (
            a > b
        ):
            return g(
                a,
                b,
            )
        return b


    class C:
        size = 2

        def h(self):
            with self:
                return 1
    """
)
MODULE, F, H = range(1, 22), range(6, 14), range(20, 22)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (1, [MODULE]),  # runs when the module is imported
        (4, [F, MODULE]),  # so do decorators and defaults: who calls the function counts
        (5, [F, MODULE]),
        (7, [range(6, 9), F, MODULE]),  # a condition, without what it guards
        (11, [range(9, 13), F, MODULE]),  # a statement of several lines
        (13, [range(13, 14), F, MODULE]),
        (17, [MODULE]),
        (20, [range(20, 21), H, MODULE]),
    ],
)
def test_a_change_is_reached_by_its_statement_then_its_function_then_its_module(line, expected):
    assert list(reach(SOURCE, line)) == expected


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    package, folder = tmp_path / "package", tmp_path / "covering"
    (package / "metrics").mkdir(parents=True)
    folder.mkdir()
    module = package / "metrics/m.py"
    module.write_text(SOURCE)
    monkeypatch.setattr(covering, "PACKAGE", package)
    data = CoverageData(str(folder / "coverage.sqlite"))
    for context, lines in {
        "": [1, 4, 5, 16, 17, 19],
        "tests/metrics/test_m.py::test_one[1-2]|run": [6, 7, 13],
        "tests/test_far.py::TestFar::test_two|run": [6, 7, 9],
        "tests/metrics/test_shared.py::test_three|setup": [20, 21],
    }.items():
        data.set_context(context)
        data.add_lines({str(module): lines})
    data.write()
    cases = [
        ("tests.metrics.test_m", "test_one[1-2]", "tests/metrics/test_m.py", 2),
        ("tests.test_far.TestFar", "test_two", "tests/test_far.py", 1),
        ("tests.metrics.test_shared", "test_three", "tests/metrics/test_shared.py", 1),
        ("tests.metrics.test_shared", "test_four", "tests/metrics/test_shared.py", 3),
    ]
    rows = "".join(f'<testcase classname="{c}" name="{n}" file="{f}" time="{t}"/>' for c, n, f, t in cases)
    (folder / "junit.xml").write_text(f"<testsuites><testsuite>{rows}</testsuite></testsuites>")
    (folder / "sources.json").write_text(json.dumps({"metrics/m.py": covering._digest(module)}))
    return Covering(folder), module


ONE, FAR = "tests/metrics/test_m.py::test_one[1-2]", "tests/test_far.py::TestFar::test_two"
SHARED = {"tests/metrics/test_shared.py::test_three", "tests/metrics/test_shared.py::test_four"}


def test_tests_of_a_line_are_those_that_ran_it(recorded):
    record, _ = recorded
    assert record.tests_of("metrics/m.py", 13) == {ONE}
    assert record.tests_of("metrics/m.py", 9) == {FAR}
    assert record.tests_of("metrics/m.py", 6) == {ONE, FAR}
    assert record.tests_of("metrics/m.py", 5) == {ONE, FAR}  # the function's own line
    assert record.tests_of("metrics/m.py", 20) == SHARED  # all that may use what the fixture made
    assert record.tests_of("metrics/m.py", 1) == {ONE, FAR} | SHARED


def test_the_tests_of_the_room_come_first_and_files_stay_together(recorded):
    record, _ = recorded
    names = {ONE, FAR} | SHARED
    three, four = "tests/metrics/test_shared.py::test_three", "tests/metrics/test_shared.py::test_four"
    assert record.in_order(names, "metrics/m.py", 100) == [three, four, ONE, FAR]
    assert record.in_order(names, "metrics/m.py", 3) == [three, ONE]
    assert record.in_order(names, "metrics/m.py", 0.5) == [three]  # at least one


def test_a_module_that_has_changed_since_is_refused(recorded):
    record, module = recorded
    module.write_text(SOURCE + "\n")
    with pytest.raises(SystemExit, match=r"m\.py has changed .* run python tools/covering\.py again"):
        record.tests_of("metrics/m.py", 1)
