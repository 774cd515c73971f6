"""Evaluation on one CPU thread beside lm-eval's HFLM and transformers' generate, on the same weights; and its start.

    python benchmarks/evaluate.py [--rows FILE] [--documents 100] [--repeat 3] [--bf16] [--start]

`--rows`: JSON lines with query, choices, gold; without it four-choice questions of random words. The model has no
qk-norm, so that StableLM of transformers expresses it exactly. The sides take turns; CPU seconds are the least of the
repetitions. HFLM needs accelerate. `--start`: a job's CPU seconds up to its first request, and nothing else.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
END = "<|endoftext|>"
CONTEXT = 1_024
SHAPES = {"8.9M": (256, 8, 4, 4_096), "79M": (512, 8, 4, 50_432)}
BATCHES = (1, 16, 64)


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--shape", choices=list(SHAPES), default="8.9M")
    parser.add_argument("--start", action="store_true")
    options = parser.parse_args()
    if options.start:
        start(options.repeat)
        return
    import torch

    from stages.processor import describe_processor

    torch.set_num_threads(1)
    print(describe_processor())
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = read_rows(options.rows, options.documents)
        write_tokenizer(folder / "tokenizer.json", rows, SHAPES[options.shape][3])
        sides = Sides(folder, options.shape, "bf16" if options.bf16 else "fp32")
        choices(sides, rows, options.repeat)
        generation(sides, options.repeat)


def read_rows(path: Path | None, count: int) -> list[dict[str, Any]]:
    """Four-choice questions."""
    if path is not None:
        lines = path.read_text(encoding="utf-8").splitlines()[:count]
        return [json.loads(line) for line in lines]
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 8))) for _ in range(2_000)]

    def text(low: int, high: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(low, high)))

    return [{"query": text(12, 40), "choices": [text(2, 10) for _ in range(4)], "gold": 0} for _ in range(count)]


def write_tokenizer(path: Path, rows: list[dict[str, Any]], vocabulary: int) -> None:
    """A byte-level BPE of the questions themselves."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=min(4_096, vocabulary), special_tokens=[END], show_progress=False)
    tokenizer.train_from_iterator((row["query"] + " ".join(row["choices"]) for row in rows), trainer)
    tokenizer.save(str(path))


class Sides:
    """The same weights in our model and in transformers', and each as lm-eval drives it."""

    def __init__(self, folder: Path, shape: str, precision: str) -> None:
        import torch

        from stages.config import LanguageModel
        from stages.data.tokenizer import TextTokenizer
        from stages.evaluation.evaluated_model import EvaluatedModel
        from stages.models.linear import pack_weights, set_matmul_backend
        from stages.models.vlm import VLM
        from tests.stages.evaluation.transformers_model import fast_tokenizer, stablelm

        width, layers, heads, vocabulary = SHAPES[shape]
        torch.manual_seed(0)
        model = LanguageModel(d_model=width, layers=layers, heads=heads, vocabulary=vocabulary, qk_norm=False)
        self.vlm = VLM(model).eval()
        self.precision = precision
        self.theirs = stablelm(self.vlm.lm, CONTEXT)
        if precision == "bf16":
            self.theirs = self.theirs.bfloat16()
        set_matmul_backend(self.vlm, "onednn")
        if precision == "fp32":
            pack_weights(self.vlm)
        self.tokenizer = fast_tokenizer(folder / "tokenizer.json", END)
        self.subject = EvaluatedModel(
            vlm=self.vlm,
            tokenizer=TextTokenizer(folder / "tokenizer.json", vocabulary),
            device=torch.device("cpu"),
            precision=precision,
            context=CONTEXT,
            max_new_tokens=64,
        )


def choices(sides: Sides, rows: list[dict[str, Any]], repeat: int) -> None:
    """The table of 100 four-choice documents."""
    from stages.evaluation.text import block_network

    with block_network():
        from lm_eval.models.huggingface import HFLM

        from stages.evaluation.language_model import LMEvalModel

        ours = LMEvalModel(sides.subject)
        contenders: dict[str, Callable[[], Any]] = {"ours": partial(score, ours, rows)}
        for size in BATCHES:
            hflm = HFLM(pretrained=sides.theirs, tokenizer=sides.tokenizer, batch_size=size, max_length=CONTEXT)
            contenders[f"HFLM, batch size {size}"] = partial(score, hflm, rows)
        times, results = taking_turns(contenders, repeat)
    print(f"\n{len(rows)} documents, {sum(len(row['choices']) for row in rows)} requests, {sides.precision}")
    print(f"{'':24} {'CPU s':>7} {'documents/CPU s':>16} {'ours is faster by':>18} {'largest difference':>19}")
    expected = results["ours"]
    for name, seconds in times.items():
        off = max(abs(a[0] - b[0]) for a, b in zip(expected, results[name], strict=True))
        ratio = seconds / times["ours"]
        print(f"{name:24} {seconds:7.2f} {len(rows) / seconds:16.1f} {ratio:18.2f} {off:19.2e}")


def score(model: Any, rows: list[dict[str, Any]]) -> list[tuple[float, bool]]:
    """What lm-eval asks of a model for four-choice questions."""
    from lm_eval.api.instance import Instance

    requests = [
        Instance(request_type="loglikelihood", doc=row, arguments=(row["query"], " " + choice), idx=i)
        for row in rows
        for i, choice in enumerate(row["choices"])
    ]
    found: list[tuple[float, bool]] = model.loglikelihood(requests, disable_tqdm=True)
    return found


def generation(sides: Sides, repeat: int, prompts: int = 32, prompt: int = 64, new: int = 64) -> None:
    """The table of greedy tokens."""
    import torch

    from stages.models.generation import generate_greedy

    tokens = torch.randint(1, 1_000, (prompts, prompt), generator=torch.Generator().manual_seed(0))

    def ours() -> list[list[int]]:
        with sides.subject.enter_inference():
            return generate_greedy(sides.vlm, tokens.tolist(), max_new_tokens=new, stop_token=-1, batch_size=prompts)

    def theirs() -> list[list[int]]:
        with torch.inference_mode():
            mask = torch.ones_like(tokens)
            found = sides.theirs.generate(tokens, attention_mask=mask, max_new_tokens=new, do_sample=False)
        rows: list[list[int]] = found[:, prompt:].tolist()
        return rows

    times, results = taking_turns({"ours": ours, "transformers": theirs}, repeat)
    pairs = zip(results["ours"], results["transformers"], strict=True)
    same = sum(a == b for a, b in pairs)
    print(f"\n{prompts} prompts of {prompt} tokens, {new} new tokens each; {same} answers equal, {sides.precision}")
    for name, seconds in times.items():
        speed = prompts * new / seconds
        print(f"{name:24} {seconds:7.2f} CPU s {speed:10,.0f} tokens/CPU s {seconds / times['ours']:8.2f}")


FIRST_REQUEST = """
import os, sys, time
from stages import __main__ as program
from stages.models import likelihood
def first(*_):
    print(time.process_time(), flush=True)
    os._exit(0)
assert likelihood.compute_batch_likelihoods
likelihood.compute_batch_likelihoods = first
sys.exit(program.main([sys.argv[1]]))
"""
"""A stage process that ends where the model would be asked for the first time."""


def start(repeat: int) -> None:
    """A job with one text task: from the start of its process to its first request."""
    from stages.demo.text import VOCABULARY
    from tests.stages.evaluation.small_model import make_small_run, write_job

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = read_rows(None, 100)
        write_tokenizer(folder / "tokenizer.json", rows, VOCABULARY)
        task = {
            "task": "t", "dataset_path": "json", "dataset_kwargs": {"data_files": "t.jsonl"}, "test_split": "test",
            "output_type": "multiple_choice", "doc_to_text": "{{query}}", "doc_to_choice": "choices",
            "doc_to_target": "gold", "metric_list": [{"metric": "acc"}],
        }  # fmt: skip
        (folder / "t.yaml").write_text(json.dumps(task))  # JSON is YAML
        (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        make_small_run(folder / "parent")
        config = {"tasks": "tasks", "tokenizer": {"name": "words"}, "text_tasks": [{"name": "t"}]}
        data = {"tasks": folder, "words": folder / "tokenizer.json"}
        job = write_job(folder / "job", config=config, data=data, parent=folder / "parent")
        command = [sys.executable, "-c", FIRST_REQUEST, str(job)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        seconds = [
            float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
            for _ in range(repeat)
        ]
    print(f"start to first request: {min(seconds):.2f} CPU s (the others up to {max(seconds):.2f})")


def taking_turns(
    contenders: dict[str, Callable[[], Any]], repeat: int
) -> tuple[dict[str, float], dict[str, list[Any]]]:
    """The least CPU seconds of each, and what it gave."""
    times: dict[str, float] = {}
    results: dict[str, list[Any]] = {}
    for _ in range(repeat):
        for name, run in contenders.items():
            before = time.process_time()
            results[name] = run()
            times[name] = min(times.get(name, float("inf")), time.process_time() - before)
    return times, results


if __name__ == "__main__":
    main()
