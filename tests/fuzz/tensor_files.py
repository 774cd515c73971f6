"""safetensors files with changed headers, read by everything that reads one."""

import random
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from stages.checkpoint.files import MODEL, RECORD, compute_file_digests, load_model, read_result_checkpoint
from stages.checkpoint.openlm import import_run
from stages.config import PretrainConfig
from stages.engines.command.run import CommandRun
from stages.engines.engine import FOLDER
from stages.errors import StageError
from stages.export.images import ImagePrefix
from stages.export.run import export_model
from stages.files import write_json
from stages.vision.specs import resolve_encoder_spec
from stages.vision.transformers_encoders import load_dinov2, load_siglip
from tests.fuzz.byte_changes import change_bytes
from tests.fuzz.campaign import Outcome, Verdict, ViolationError
from tests.fuzz.json_changes import Pairs, Raw, change_tree, load_pairs, render_json
from tests.stages.export.export_case import NORMED, PATCHES, make_run, request_for
from tests.stages.training.training_case import World, make_world, text_config
from tests.stages.vision.encoder_case import DINOV2, SIGLIP, dinov2_model, save, siglip_model

Reader = Callable[[Path], object]


class TensorFiles:
    """See `tests.fuzz.campaign.Program`."""

    name = "safetensors"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_run(folder / "run", NORMED, PATCHES)
        export_model(request_for(folder / "run", folder / "exported"))
        checkpoint = read_result_checkpoint(folder / "run")
        language = {name: part for name, part in checkpoint.read_weights().items() if not name.startswith("projector")}
        (folder / "openlm").mkdir()
        save_file(language, folder / "openlm" / "weights.safetensors")
        save(siglip_model(), folder / "siglip")
        save(dinov2_model(), folder / "dinov2")
        self._world: World = make_world(folder / "world")
        self._make_answer(folder)
        self._readers: dict[str, tuple[str, Reader]] = {
            "run": (f"{checkpoint.path.relative_to(folder / 'run')}/{MODEL}", read_run),
            "exported": ("vision/projector.safetensors", ImagePrefix.load),
            "openlm": ("weights.safetensors", lambda place: import_run(
                place / "weights.safetensors", place / "imported", heads=NORMED.heads, rotary_table="float32")),
            "siglip": ("model.safetensors", lambda place: load_siglip(resolve_encoder_spec(SIGLIP), place)),
            "dinov2": ("model.safetensors", lambda place: load_dinov2(resolve_encoder_spec(DINOV2), place)),
            "engine": (f"{FOLDER}/w.safetensors", self._read_answer),
        }  # fmt: skip
        for name, (_, read) in self._readers.items():
            place = folder / "tried"
            shutil.copytree(folder / name, place)
            read(place)
            shutil.rmtree(place)

    def _make_answer(self, folder: Path) -> None:
        """What a program of the user's own leaves behind: weights and an answer that names them."""
        config = text_config(steps=4)
        self._job = self._world.job("0" * 16, "pretrain", config)
        from stages.models.vlm import VLM

        assert isinstance(self._job.config, PretrainConfig)
        weights = VLM(self._job.config.model, None, None).collect_weights()
        place = folder / "engine" / FOLDER
        place.mkdir(parents=True)
        save_file(weights, place / "w.safetensors")
        write_json(
            place / "answer.json",
            {"format": 1, "key": self._job.key, "weights": "w.safetensors", "steps": 4, "tokens": 528},
        )

    def _read_answer(self, place: Path) -> object:
        from dataclasses import replace

        job = replace(self._job, run=place, checkpoints=place / "checkpoints")
        return CommandRun(job).collect_result(1.0)

    def run_case(self, dice: random.Random, folder: Path) -> Verdict:
        kind = dice.choice(sorted(self._readers))
        name, read = self._readers[kind]
        place = folder / kind
        shutil.copytree(self._folder / kind, place)
        content, change = change_tensors(dice, (place / name).read_bytes())
        (place / name).write_bytes(content)
        if kind == "run":  # the record of a checkpoint that was so from its beginning
            step = (place / name).parent
            write_json(step / RECORD, {"files": compute_file_digests(step)})
        try:
            read(place)
        except StageError as error:
            if len(str(error)) > 3000:
                raise ViolationError(f"a message of {len(str(error))} letters: {str(error)[:300]}") from error
            return Verdict(Outcome.REFUSED, f"{kind}, {change}")
        return Verdict(Outcome.PASSED, f"{kind}, {change}")


def read_run(place: Path) -> None:
    """A child's start, and an export. ViolationError if one takes what the other refuses."""
    refused: list[str] = []
    for read in (lambda: load_model(place), lambda: export_model(request_for(place, place.parent / "out"))):
        try:
            read()
        except StageError as error:
            refused.append(str(error))
    if len(refused) == 1 and "more" not in refused[0] and (place.parent / "out").exists():
        return  # an export reads no more than it needs
    if refused:
        raise StageError(refused[0])


def change_tensors(dice: random.Random, content: bytes) -> tuple[bytes, str]:
    """The file after a change, and the change's name."""
    size = struct.unpack("<Q", content[:8])[0]
    header, data = content[8 : 8 + size], content[8 + size :]
    kind = dice.random()
    if kind < 0.1:
        return change_bytes(dice, content), "bytes"
    if kind < 0.2:
        return change_bytes(dice, content[: 8 + size]) + data, "bytes of the header"
    if kind < 0.35:
        length = dice.choice(
            (0, 1, 7, size - 1, size + 1, size + 8, len(content), 10**8, 10**8 + 1, 2**31, 2**32, 2**63 - 1, 2**64 - 1)
        )
        return struct.pack("<Q", length) + header + data, "length of the header"
    tree = load_pairs(header)
    change = dice.choice(CHANGES)
    change(dice, tree)
    text = render_json(tree).encode("utf-8", "surrogatepass")
    if dice.random() < 0.8:
        text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data, change.__name__[1:]


def _pick(dice: random.Random, tree: Pairs) -> tuple[int, dict[str, Any]]:
    places = [number for number, (key, _) in enumerate(tree) if key != "__metadata__"]
    number = dice.choice(places)
    return number, dict(tree[number][1])


def _put(tree: Pairs, number: int, entry: Mapping[str, Any]) -> None:
    tree[number] = (tree[number][0], Pairs(entry.items()))


def _change_offsets(dice: random.Random, tree: Pairs) -> None:
    number, entry = _pick(dice, tree)
    first, last = entry["data_offsets"]
    entry["data_offsets"] = dice.choice(
        ([last, first], [first, last + 1], [first - 1, last], [first, 2**64 - 1], [-1, last], [first, first],
         [first + 4, last + 4], [first], [first, last, last], [], None, [str(first), last], [float(first), last],
         [2**63, 2**63 + last - first], [0, 0])
    )  # fmt: skip
    _put(tree, number, entry)


def _overlap(dice: random.Random, tree: Pairs) -> None:
    """Two names for the same bytes."""
    one, first = _pick(dice, tree)
    _, second = _pick(dice, tree)
    _put(
        tree,
        one,
        {
            **first,
            "data_offsets": second["data_offsets"],
            **({"shape": second["shape"]} if dice.random() < 0.5 else {}),
        },
    )


def _change_dtype(dice: random.Random, tree: Pairs) -> None:
    number, entry = _pick(dice, tree)
    names = (
        "F64",
        "F16",
        "BF16",
        "I64",
        "I8",
        "U8",
        "BOOL",
        "F8_E5M2",
        "F8_E4M3",
        "F4",
        "C64",
        "U64",
        "Q8",
        "",
        "f32",
        None,
        32,
    )
    entry["dtype"] = dice.choice(names)
    if dice.random() < 0.5 and entry["dtype"] in {"F16", "BF16", "F64"} and entry["shape"]:  # of as many bytes
        factor = {"F16": 2, "BF16": 2, "F64": 0.5}[entry["dtype"]]
        entry["shape"] = [*entry["shape"][:-1], int(entry["shape"][-1] * factor)]
    _put(tree, number, entry)


def _change_shape(dice: random.Random, tree: Pairs) -> None:
    number, entry = _pick(dice, tree)
    shape = list(entry["shape"])
    entry["shape"] = dice.choice(
        ([], [0], shape[::-1], [*shape, 1], [1] * 100 + shape, [2**32, 2**32], [2**63, 2], [2**64], [-1], [1.5], None,
         "8",         [shape],         [*shape[:-1], 0], [2**31, 2**31, 4], [0, 2**63], [1] * 5000)
    )  # fmt: skip
    _put(tree, number, entry)


def _rename(dice: random.Random, tree: Pairs) -> None:
    number, _ = _pick(dice, tree)
    key = tree[number][0]
    odd = ("", "layers.x.attention.weight", "layers.999999999.w", "layers.", "\0", "\ud800", "a" * 70_000, "\x1b[2J",
           f"model.{key}", f"module.{key}", "tok_embeddings.weight", tree[0][0], "__metadata__", "../x", "layers.²",
           f"{key} ",           "model." * 5000 + key)  # fmt: skip
    tree[number] = (dice.choice(odd), tree[number][1])


def _drop(dice: random.Random, tree: Pairs) -> None:
    number, _ = _pick(dice, tree)
    del tree[number]


def _add(dice: random.Random, tree: Pairs) -> None:
    _, entry = _pick(dice, tree)
    for number in range(dice.choice((1, 3, 2000))):
        tree.append((f"extra.{number}", Pairs({**entry, "shape": [0], "data_offsets": [0, 0]}.items())))


def _change_metadata(dice: random.Random, tree: Pairs) -> None:
    value: Any = dice.choice(
        (
            None,
            [],
            "x",
            Pairs(),
            Pairs([("format", 1)]),
            Pairs([("format", "tf")]),
            Pairs([("format", "\ud800")]),
            Raw("[" * 3000),
        )
    )
    tree[:] = [("__metadata__", value), *((key, part) for key, part in tree if key != "__metadata__")]


def _change_anything(dice: random.Random, tree: Pairs) -> None:
    for _ in range(dice.choice((1, 1, 2, 4))):
        changed = change_tree(dice, tree)
        tree[:] = changed if isinstance(changed, Pairs) else Pairs([("a", changed)])


CHANGES = (
    *(
        _change_offsets,
        _change_offsets,
        _overlap,
        _change_dtype,
        _change_dtype,
        _change_shape,
        _change_shape,
        _rename,
        _rename,
    ),
    *(_drop, _add, _change_metadata, _change_anything, _change_anything),
)
