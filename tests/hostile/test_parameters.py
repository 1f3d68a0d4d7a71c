"""Parameters of `evaluate` and of notebook 20 that are misspelt, of another kind or out of their range."""

import nbformat
import papermill
import pytest
import torch
from nbclient.exceptions import CellExecutionError
from papermill.exceptions import PapermillExecutionError

from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.parameters import PARAMETERS, check_parameters
from fsdlib.measure.run import evaluate
from fsdlib.measure.segmenters import FreeSegDiff
from fsdlib.models import ModelSet, load_models
from fsdlib.project import NOTEBOOKS
from fsdlib.recipe import PAPER
from fsdlib.world.scenes import write_scenes

NOTEBOOK = NOTEBOOKS / "20_evaluate.ipynb"
DEFAULTS: dict = {}
for cell in nbformat.read(NOTEBOOK, 4).cells:
    if "parameters" in cell.metadata.get("tags", []):
        exec(cell.source, {}, DEFAULTS)

INT = "give an int, {} or more"
OF_A_RUN = [
    *[("seed", value, INT.format(0)) for value in (-1, 1.5, "1", None, True)],
    *[("limit", value, INT.format(1)) for value in (-1, 2.0, "8", True)],
    *[("batch_size", value, INT.format(1)) for value in (0, -4, 2.5, "4", None, True)],
    *[("threads", value, INT.format(1)) for value in (0, -1, "two")],
    *[("workers", value, INT.format(1)) for value in (0, -1, 0.5)],
    *[("replace", value, "give True or False") for value in ("no", "yes", 0, 1, None)],
    *[("engine", value, "choose local or ray") for value in ("spark", "", None, 2)],
    *[("shard", value, "write i/n") for value in ("2/2", "1", "-1/2", "0/0", "", "a/b", "0/2/3", "¹/²", None, 0.5)],
    *[("tolerated_failures", value, "give a share, 0 to 1") for value in (-0.1, 1.1, float("nan"), "0.1", None, True)],
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset("scenes", write_scenes(tmp_path_factory.mktemp("scenes"), val=4, side=96))


@pytest.fixture
def unloadable(monkeypatch):
    """A method whose models must not be asked for."""

    def load(models):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(ModelSet, "load", load)
    return FreeSegDiff(ModelSet("mini", "cpu"), PAPER)


@pytest.mark.parametrize("name, value, said", OF_A_RUN)
def test_evaluate_refuses_it_before_anything_is_read_or_written(dataset, unloadable, tmp_path, name, value, said):
    """parameters of `evaluate` of another type or out of range -> refused with the value, nothing loaded or written"""
    with pytest.raises(ValueError, match=said) as refused:
        evaluate(dataset, unloadable, tmp_path / "run", **{name: value})
    assert repr(value) in str(refused.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("shard, limit, batches", [("2/3", None, 2), ("7/8", None, 2), ("1/2", 2, 1)])
def test_a_shard_without_work_is_refused(dataset, unloadable, tmp_path, shard, limit, batches):
    """a shard beyond the batches that there are -> refused with their number"""
    with pytest.raises(
        ValueError, match=f"shard {shard} has nothing to do, since there are {batches} batches: take fewer"
    ):
        evaluate(dataset, unloadable, tmp_path / "run", limit, batch_size=2, shard=shard)


# ------------------------------------------------------------------------------------------------- the notebook


def test_what_is_checked_are_the_notebooks_parameters_and_its_defaults_pass():
    """the parameters that notebook 20 has -> all are checked, and its defaults pass"""
    assert DEFAULTS.keys() == PARAMETERS.keys()
    check_parameters(DEFAULTS)


@pytest.mark.parametrize(
    "name, value, said",
    [
        # what papermill makes of -p limit eight, -p vocabulary None, -r batch_size 4
        ("limit", "eight", "limit is 'eight': give a whole number"),
        ("limit", -1, "limit is -1: give an int, 1 or more"),
        ("vocabulary", None, "vocabulary is None: give text; papermill takes it as text with -r vocabulary"),
        ("classes", 2024, "classes is 2024: give text; papermill takes it as text with -r classes"),
        ("batch_size", "4", "batch_size is '4': give a whole number"),
        ("seed", True, "seed is True: give a whole number"),
        ("replace", "no", "replace is 'no': give True or False"),
        ("centre_crops", 1, "centre_crops is 1: give True or False"),
        ("tolerated_failures", "1%", "tolerated_failures is '1%': give a number"),
        ("tolerated_failures", 2, "tolerated_failures is 2: give a share, 0 to 1"),
        ("threads", 0, "threads is 0: give an int, 1 or more"),
        ("workers", 0, "workers is 0: give an int, 1 or more"),
        ("shard", "8/8", "shard is '8/8': write i/n"),
        ("engine", "spark", "no engine is called 'spark': choose local or ray"),
        ("models", "sd99", "no model set is called 'sd99': choose one of mini"),
        ("captioner", "gpt", "no captioner is called 'gpt': choose one of mini"),
        ("clip", "siglip", "no clip is called 'siglip': choose one of mini"),
        ("backbone", "sam", "no backbone is called 'sam': choose one of scenes-mae"),
        (
            "backbone",
            "dino",
            "the recipe's features, unet, do not read the backbone 'dino': change them to features=network",
        ),
        (
            "backbone",
            "sd3",
            "the recipe's features, unet, do not read the backbone 'sd3': change them to features=transformer",
        ),
        ("changes", "features=network", "features=network needs a backbone to read: load them with backbone= one of"),
        ("recipe", "worst", "no recipe is called 'worst': choose one of paper, best"),
        ("changes", "clusters.count=many", "clusters.count='many' does not fit recipe 'paper'"),
        ("changes", "cluster.count=8", "there is no option 'cluster"),
        ("changes", "refinement", "the change 'refinement' has no value"),
        ("changes", "{", "are no JSON"),
        ("vocabulary", "shut", "choose one of open, closed, given, oracle"),
        ("device", "cdua", "there is no device 'cdua': write cpu, cuda"),
        ("device", "cuda:99", "device is 'cuda:99' and PyTorch finds . GPUs: take another, or cpu"),
    ],
)
def test_the_notebook_refuses_it_in_one_sentence(name, value, said):
    """parameters of notebook 20 misspelt, of another type or out of range -> refused in one sentence"""
    with pytest.raises(ValueError, match=said) as refused:
        check_parameters(DEFAULTS | {name: value})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("changes", ["features=network", '{"features": {"kind": "network", "layer": -2}}'])
def test_a_backbone_and_features_that_read_it_are_taken(changes):
    """a backbone with features=network, as words or as JSON -> taken"""
    check_parameters(DEFAULTS | dict(backbone="scenes-mae-untrained", changes=changes))


@pytest.mark.parametrize(
    "name, nearest",
    [("batchsize", "batch_size"), ("recipes", "recipe"), ("sede", "seed"), ("treads", "threads"), ("x", "models")],
)
def test_an_unknown_parameter_is_refused_with_the_nearest_one(name, nearest):
    """a parameter that the notebook has not -> refused with the nearest that it has"""
    said = f"no parameter {name!r}: the nearest that it has is " + ("" if name == "x" else f"{nearest!r}")
    with pytest.raises(ValueError, match=said):
        check_parameters(DEFAULTS | dict(In=["", "limit = 8", f"# Parameters\nlimit = 2\n{name} = 3\n"]))


def test_names_of_other_cells_are_no_parameters():
    """names of other cells -> no parameters, and nothing is refused"""
    check_parameters(DEFAULTS | dict(In=["import os\nx = 1", "# Parameters\nlimit = 2\n", "y = 2  # Parameters"]))


def test_a_device_that_this_machine_lacks_may_be_that_of_rays_workers():
    """a GPU that only Ray's workers may have -> taken"""
    check_parameters(DEFAULTS | dict(device=f"cuda:{torch.cuda.device_count()}", engine="ray"))


@pytest.mark.parametrize("device, said", [("cdua", "there is no device 'cdua'"), ("cuda:99", "PyTorch finds")])
def test_the_library_refuses_such_a_device_too(device, said):
    """a device that is none or not here, to the library -> refused in one sentence"""
    with pytest.raises(ValueError, match=said):
        load_models("mini", device=device, dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("given, said", [(dict(batchsize=2), "'batch_size'"), (dict(seed=-1), "seed is -1")])
def test_papermill_stops_at_the_check(tmp_path, given, said):
    """an unknown and an impossible parameter by papermill -> it stops at the check, and nothing is written"""
    with pytest.raises((PapermillExecutionError, CellExecutionError), match=said):
        papermill.execute_notebook(
            NOTEBOOK, tmp_path / "out.ipynb", given | dict(output=str(tmp_path / "run")), progress_bar=False
        )
    assert not (tmp_path / "run").exists()
