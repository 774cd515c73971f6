"""Compiled blocks compute what eager ones do: alone, on two processes, with recomputation, at any shape."""

import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stages.checkpoint.files import read_result_checkpoint
from stages.config import LanguageModel
from stages.distributed import DistributedContext
from stages.errors import ConfigError
from stages.job_file import JobFile, Settings
from stages.models.openlm import OpenLM
from stages.models.vlm import VLM
from stages.training import parallel
from stages.training.parallel import (
    configure_compiler,
    configure_kernels,
    find_missing_build_tool,
    prepare_block,
    resolve_compile,
    select_packed_attention,
)
from tests.stages.ranks import RankServer
from tests.stages.training.training_case import (
    CONTEXT,
    MODEL,
    SMOOTH_ADAMW,
    World,
    assert_equal_moments,
    assert_equal_weights,
    image_config,
    make_world,
    result_of,
    run_here,
    text_config,
)

# of the compiler about itself
pytestmark = pytest.mark.filterwarnings("ignore")

TRACED = "aot_eager"
"""All of the compiler but its code generation, which takes a minute of CPU for these shapes."""
CONFIG = image_config(3, optimizer=SMOOTH_ADAMW, batch_sequences=8)
ROWS = 3 * CONTEXT
"""Positions of a pass: passes of three, two and one rows, of text and of packed captions."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def eager(world: World) -> JobFile:
    return world.run("eager", "pretrain", CONFIG, micro_batch_tokens=ROWS)


@pytest.fixture(scope="module")
def server() -> Iterator[RankServer]:
    server = RankServer()
    yield server
    server.close()


@pytest.fixture
def compiler() -> Iterator[None]:
    """A compiler without memory of earlier tests, that says so where it gives up on a function."""
    import torch._dynamo

    torch._dynamo.reset()
    torch.compiler.set_default_backend(TRACED)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=8, optimize_ddp=True):
        yield
    torch.compiler.set_default_backend(None)


def assert_like(job: JobFile, one: JobFile) -> None:
    """Weights and moments are equal to within rounding: see `training_case.ROUNDING`."""
    mine, theirs = read_result_checkpoint(job.run), read_result_checkpoint(one.run)
    assert_equal_weights(mine.read_weights(), theirs.read_weights())
    assert_equal_moments(mine.read_moments(), theirs.read_moments())
    assert result_of(job)["loss"] == pytest.approx(result_of(one)["loss"], rel=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_compiled_run_has_the_numbers_of_an_eager_one(
    world: World, eager: JobFile, compiler: None, recompute: bool
) -> None:
    job = world.run(
        f"one-{recompute}",
        "pretrain",
        CONFIG,
        compile=True,
        activation_checkpointing=recompute,
        micro_batch_tokens=ROWS,
    )
    assert_like(job, eager)


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "recompute"), [("ddp", True), ("fsdp", True)])
def test_two_compiled_processes_have_the_numbers_of_one_eager_one(
    world: World, server: RankServer, eager: JobFile, parallel: str, recompute: bool
) -> None:
    job = world.job(
        f"{parallel}-{recompute}", "pretrain", CONFIG,
        parallel=parallel, compile=True, activation_checkpointing=recompute, micro_batch_tokens=ROWS,
    )  # fmt: skip
    ranks = server.start(job, 2, backend=TRACED)
    assert ranks.wait() == [0, 0], ranks.output()
    assert_like(job, eager)


@pytest.mark.slow
def test_generated_code_has_the_numbers_of_an_eager_run(
    world: World, compiler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    # for a CPU it generates C++; a machine that cannot build it takes the same way up to there
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    builds = shutil.which("g++") is not None and headers.is_file()
    torch.compiler.set_default_backend("inductor" if builds else TRACED)
    config = text_config(2, optimizer=SMOOTH_ADAMW, model={**MODEL, "layers": 1})
    assert_like(world.run("code", "pretrain", config, compile=True), world.run("no-code", "pretrain", config))
    assert bool(list(tmp_path.rglob("*.cpp"))) == builds


def test_lengths_and_rows_take_no_graph_each(compiler: None) -> None:
    from torch._dynamo.utils import counters

    counters.clear()
    torch.manual_seed(0)
    model = OpenLM(LanguageModel(d_model=32, layers=2, heads=2, vocabulary=50))
    plain = OpenLM(model.config)
    plain.load_state_dict(model.state_dict())
    configure_compiler()
    for block in model.layers:
        prepare_block(block, recompute=False, compiled=True)
    for rows, length in [(8, 12), (5, 20), (3, 33), (1, 1), (7, 14), (2, 50), (6, 21), (4, 30), (1, 1)]:
        x = torch.randn(rows, length, 32, requires_grad=True)
        torch.testing.assert_close(model.compute_hidden(x), plain.compute_hidden(x), rtol=1e-5, atol=1e-5)
    # of the first shape and of all others, for both layers; an empty pass takes none
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


GPU = torch.device("cuda", 0)


def test_auto_compiles_on_a_gpu_where_kernels_can_be_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def resolve(device: torch.device, given: object = "auto") -> bool:
        return resolve_compile(Settings.model_validate({"compile": given}), DistributedContext(device))

    monkeypatch.setattr(parallel, "find_missing_build_tool", lambda: "")
    assert [resolve(GPU), resolve(GPU, False), resolve(torch.device("cpu")), resolve(torch.device("cpu"), True)] == [
        True, False, False, True,
    ]  # fmt: skip
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(parallel, "find_missing_build_tool", lambda: "there is no C compiler")
    assert not resolve(GPU)
    assert capsys.readouterr().err == "settings.compile is auto: nothing is compiled, as there is no C compiler\n"
    assert resolve(GPU, True)


def test_what_a_gpus_kernels_cannot_be_built_without_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert find_missing_build_tool() == "the package triton is not installed"
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert find_missing_build_tool().startswith("there is no C compiler")
    monkeypatch.setenv("CC", "clang-19")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    assert find_missing_build_tool() == f"{tmp_path} lacks Python.h (Debian's package is python3-dev)"
    (tmp_path / "Python.h").touch()
    assert find_missing_build_tool() == ""


@pytest.mark.parametrize(("capability", "missing", "width", "kernel"), [
    ((8, 0), "", 16, "flex"), ((9, 0), "", 24, "flex"), ((7, 5), "", 64, "sdpa"), ((8, 0), "a compiler", 64, "sdpa"),
    ((9, 0), "", 12, "sdpa"),  # torch: "embedding dimension ... must be at least 16"
])  # fmt: skip
def test_packed_captions_go_through_flex_attention_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], missing: str, width: int, kernel: str
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: capability)
    monkeypatch.setattr(parallel, "find_missing_build_tool", lambda: missing)
    assert select_packed_attention(GPU, width) == kernel
    assert select_packed_attention(torch.device("cpu"), width) == "sdpa"


def test_flex_attention_is_refused_for_narrow_heads() -> None:
    vlm = VLM(LanguageModel(d_model=32, layers=1, heads=4, vocabulary=50))
    with pytest.raises(ConfigError, match=r"flex, which takes heads of 16 or wider, and this model has 8 "):
        configure_kernels(vlm, Settings(attention="flex"), GPU, compiled=False)


def test_flex_attention_is_refused_on_a_cpu(world: World) -> None:
    job = world.job("flex", "pretrain", CONFIG, attention="flex")
    with pytest.raises(ConfigError, match=r"settings\.attention is flex, which has no gradients on a CPU"):
        run_here(job)
