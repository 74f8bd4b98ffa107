"""The allowlist: what a config may name, and what it may not, however it is spelled."""

import subprocess
import sys

import pytest

from plainloop.config.targets import Forbidden, authorize, locate

# Refused by their text: nothing is imported to find out.
_WORDS = """
    os.system os.popen os.execv os.remove posix.system nt.system subprocess.run subprocess.Popen
    subprocess.check_output builtins.eval builtins.exec builtins.__import__ builtins.open builtins.getattr eval exec
    open print pickle.loads pickle.load marshal.loads shelve.open dill.loads joblib.load cloudpickle.loads
    yaml.unsafe_load runpy.run_path runpy.run_module importlib.import_module importlib.reload pty.spawn pdb.run
    code.interact timeit.timeit cProfile.run ctypes.CDLL shutil.rmtree pathlib.Path socket.socket
    urllib.request.urlopen http.server.HTTPServer webbrowser.open multiprocessing.Process threading.Thread
    asyncio.create_subprocess_shell functools.partial functools.reduce operator.methodcaller operator.attrgetter
    types.FunctionType hydra.utils.call hydra.utils.instantiate hydra._internal.utils._locate numpy.load
    numpy.f2py.compile torch.load torch.save torch.hub.load torch.jit.load torch.utils.cpp_extension.load
    torch.utils.cpp_extension.load_inline torch.package.PackageImporter torch.distributed.rpc.rpc_sync
    torch.serialization.load torch.storage._load_from_bytes torch.compile torch.ops.load_library
    torchvision.io.read_file torchvision.datasets.utils.download_url torchvision.ops.nms timm_evil.create_model
    timmy.create_model torch.nnx.Linear torch.optimizer.SGD torchvision.models_.resnet18 torchmetrics2.Accuracy
    plainloop.run.run.run plainloop.system.storage.write_whole plainloop.config.build.build
    plainloop.commands.train.main
    plainloop.run_dir.environment.environment plainloop.run_dir.weights.load_weights plainloop my_package.Net
    torch.nn.__builtins__.eval torch.nn.Module.__init__.__globals__ torch.nn.modules.__loader__.load_module
    torch.nn.Linear.__class__.__base__.__subclasses__ torch.optim._functional.adam
    timm.models._hub.load_state_dict_from_hf .torch.nn.Linear torch..nn.Linear torch.nn.Linear. torch.nn.Linear()
    torch.nn.Linear;os.system ../os.system torch/nn/Linear tоrch.nn.Linear torch.nn.Lineаr timm.models.load_checkpoint
    timm.models.load_pretrained timm.models.push_to_hf_hub timm.models.set_pretrained_download_progress
"""
BY_NAME = [*_WORDS.split(), "torch.nn.Linear\n", " torch.nn.Linear"]
NO_TEXT = [None, 3, True, ["os.system"], {"_target_": "os.system"}, b"os.system"]

# Inside the allowlist by their text; the object behind is not.
ALIASES = [
    "torch.nn.modules.module.functools.partial",
    "torch.nn.modules.module.warnings.warn",
    "torch.nn.modules.module.OrderedDict",
    "torch.nn.modules.module.namedtuple",
    "torch.nn.functional.importlib.import_module",
    "torch.nn.functional.math.sqrt",
    "torch.nn.functional.boolean_dispatch",
    "torch.optim.optimizer.defaultdict",
    "torch.optim.optimizer.deepcopy",
    "torch.optim.swa_utils.deepcopy",
    "torch.optim.swa_utils.itertools.chain",
    "torch.optim.lr_scheduler.types.FunctionType",
    "torch.optim.lr_scheduler.partial",
    "timm.data.os.system",
    "timm.models.resnet.math.pow",
    "timm.models.resnet.partial",
    "torchvision.models.resnet.partial",
    "torchvision.models.resnet.torch.load",
    "torchvision.models.os.system",
    "torchvision.transforms.functional.sys.exit",
    "torch.nn.parallel.distributed.os.system",
    "torch.nn.utils.rnn",
    "torch.nn",
    "torch.optim.optimizer.Any",
]


@pytest.mark.parametrize("target", BY_NAME + NO_TEXT, ids=repr)
def test_what_is_outside_the_allowlist_is_refused_by_its_text(target: object) -> None:
    with pytest.raises(Forbidden):
        authorize(target)


def test_nothing_is_imported_to_refuse_by_text() -> None:
    program = (
        "import sys\nfrom plainloop.config.targets import Forbidden, locate\nbefore = set(sys.modules)\n"
        f"for target in {BY_NAME!r}:\n"
        "    try:\n        locate(target)\n        raise SystemExit(f'{target} was allowed')\n"
        "    except Forbidden:\n        pass\n"
        "raise SystemExit(len(set(sys.modules) - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": "src"})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("target", ALIASES)
def test_an_alias_that_leads_out_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match=r"outside the allowlist|neither a class|does not exist|does not build"):
        locate(target)


def test_without_the_look_at_the_object_an_alias_would_pass() -> None:
    """Negative control: by its text alone this one is inside."""
    assert authorize("torch.optim.swa_utils.deepcopy") == "torch.optim.swa_utils.deepcopy"


@pytest.mark.parametrize(
    "target",
    [
        "torch.optim.AdamW", "torch.optim.sgd.SGD", "torch.nn.Linear", "torch.nn.CrossEntropyLoss", "timm.create_model",
        "timm.optim.Lion", "timm.optim.Muon", "torchvision.models.resnet18", "torchvision.transforms.v2.RandomCrop",
        "plainloop.schedule.cosine", "plainloop.tasks.classification.Classification", "plainloop.data.digits.Digits",
    ],
)  # fmt: skip
def test_parts_are_found(target: str) -> None:
    assert locate(target).__name__ == target.rpartition(".")[2]


def test_a_package_of_ones_own_is_allowed_by_name(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_package.py").write_text("from os import getcwd\n\nclass Net: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Forbidden, match="allowlist"):
        locate("my_package.Net")
    assert locate("my_package.Net", ["my_package"]).__name__ == "Net"
    with pytest.raises(Forbidden):
        locate("my_package.getcwd", ["my_package"])  # what it imported is not its own
    with pytest.raises(Forbidden):
        locate("os.getcwd", ["my_package"])


def test_a_name_that_does_not_exist_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"torch\.optim has no 'AdamV'"):
        locate("torch.optim.AdamV")
    with pytest.raises(ValueError, match=r"no module 'torch\.optim\.sdg'"):
        locate("torch.optim.sdg.SGD")
