"""Nothing is unpickled and no text is run as code, in the source and in a process that does the whole job."""

import ast
import subprocess
import sys

import pytest

from fsdlib.project import PACKAGE, ROOT

# modules whose reading runs code, and calls that do
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
CALLS = {"eval", "exec", "compile", "torch.load", "numpy.load", "np.load", "pd.read_pickle", "os.system", "os.popen"}


def offences(source):
    """What a module does that could run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield node.module
        elif isinstance(node, ast.Call):
            options = {(option.arg, ast.unparse(option.value)) for option in node.keywords}
            # PyTorch's reader of tensors alone builds nothing else, whatever the file asks for
            tensors_alone = ast.unparse(node.func) == "torch.load" and ("weights_only", "True") in options
            if ast.unparse(node.func) in CALLS and not tensors_alone:
                yield ast.unparse(node.func)
            for option in node.keywords:
                if (option.arg, ast.unparse(option.value)) in {
                    ("trust_remote_code", "True"),
                    ("shell", "True"),
                    ("allow_pickle", "True"),
                    ("use_safetensors", "False"),
                }:
                    yield f"{option.arg}={ast.unparse(option.value)}"


def test_the_search_finds_what_it_looks_for():
    """lines that unpickle or run text, and one that reads tensors alone, to the search itself -> all found but the last"""
    for source in ("import pickle", "from joblib import load", "torch.load(path)", "eval(text)", "f(shell=True)"):
        assert list(offences(source)), source
    assert list(offences("torch.load(path, weights_only=False)"))
    assert not list(offences("torch.load(path, weights_only=True)"))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_can_run_what_it_reads(path):
    """every module's source -> no pickle, eval, exec, torch.load of objects, shell or trust_remote_code in it"""
    assert not list(offences(path.read_text()))


WHOLE_JOB = """
import sys
from pathlib import Path
found = []
sys.addaudithook(lambda event, given: found.append(given) if event == "pickle.find_class" else None)
import pickle
class Seen: pass
pickle.loads(pickle.dumps(Seen()))
assert found, "the hook does not see what is unpickled"
found.clear()
from fsdlib import Vocabulary, get_recipe, load_models, segment
from fsdlib.world.scenes import scene_of_split
segment(scene_of_split("val", 1).image, load_models("mini", device="cpu"), get_recipe("best"), ["cat", "dog"])
print(sorted(set(found)))
"""


@pytest.mark.slow
def test_a_picture_is_segmented_from_files_without_unpickling_anything():
    """models loaded and a picture segmented, under the interpreter's audit -> nothing is unpickled"""
    done = subprocess.run([sys.executable, "-c", WHOLE_JOB], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
