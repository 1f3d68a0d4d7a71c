"""The report of what the newest versions change and break."""

import newest

RESULTS = """<testsuites><testsuite>
<testcase classname="tests.test_words" name="test_nouns"/>
<testcase classname="tests.test_clip" name="test_crops"><failure message="assert 1 == 2&#10;more">trace</failure></testcase>
<testcase classname="" name="tests/test_models.py"><error message="ImportError: gone">trace</error></testcase>
<testcase classname="tests.test_lab" name="test_slider"><skipped message="no browser"/></testcase>
</testsuite></testsuites>"""


def test_versions_that_differ_or_are_new_are_named():
    constraints = "# exact\nopen_clip_torch==3.3.0\nnumpy==2.4.6\nunused==1.0\n"
    installed = {"numpy": "2.4.6", "open-clip-torch": "3.4.0", "surprise": "0.1"}
    assert newest.differing(constraints, installed) == [
        ("open-clip-torch", "3.3.0", "3.4.0"),
        ("surprise", "none", "0.1"),
    ]


def test_what_broke_is_named_with_why():
    failed = [("tests.test_clip::test_crops", "assert 1 == 2"), ("tests/test_models.py", "ImportError: gone")]
    assert newest.broken(RESULTS) == (4, failed)


def environment(folder, version):
    site = folder / "lib" / "python3.12" / "site-packages" / f"numpy-{version}.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text(f"Metadata-Version: 2.1\nName: numpy\nVersion: {version}\n")
    return folder


def test_the_report_says_what_broke_and_what_is_newer(tmp_path):
    (tmp_path / "newest.xml").write_text(RESULTS)
    assert newest.main(environment(tmp_path / "venv", "99.0"), tmp_path) == 1
    written = (tmp_path / "newest.md").read_text()
    assert "2 of 4 tests passed" in written and "- `tests.test_clip::test_crops`: assert 1 == 2" in written
    assert "| numpy | " in written and " | 99.0 |" in written


def test_there_is_a_report_where_nothing_could_be_installed(tmp_path):
    (tmp_path / "newest.log").write_text("Collecting torch\nERROR: no version of torch fits\n")
    assert newest.main(tmp_path / "missing", tmp_path) == 1
    assert "No test ran" in (tmp_path / "newest.md").read_text()
    assert "no version of torch fits" in (tmp_path / "newest.md").read_text()


def test_all_well_is_no_error(tmp_path):
    (tmp_path / "newest.xml").write_text('<testsuite><testcase classname="a" name="b"/></testsuite>')
    assert newest.main(tmp_path / "missing", tmp_path) == 0
    assert "1 of 1 tests passed" in (tmp_path / "newest.md").read_text()
