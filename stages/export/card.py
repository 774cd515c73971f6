"""README.md of an export: what the model is, how it came about, how good it is, what it cost, how to load it.

Everything from a sweep file is written so that it is text in Markdown, whatever it holds.
"""

import json
from collections.abc import Iterable, Iterator, Sequence

from stages.config import LanguageModel, Vision
from stages.export.request import Facts
from stages.export.tokenizer_files import Words
from stages.export.weights import architecture_name
from stages.vision.specs import encoder_spec

FRONT = """---
library_name: transformers
pipeline_tag: text-generation
license: # to be filled in
tags: [openlm{tags}]
---
"""
LICENCE = """## Licence

To be filled in by whoever publishes this model. What the licences of the data sets and of the vision encoder ask for
holds for it too; nothing here says what they are.
"""
LOAD = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file lies
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = tokenizer({prompt}, return_tensors="pt"{special})
print(tokenizer.decode(model.generate(**ids, max_new_tokens=32)[0]))
```
"""
SEE = """With an image, in two steps; `stages.export.images` is of the project that trained the model:

```python
import torch
from pathlib import Path
from stages.export.images import ImagePrefix

prefix = ImagePrefix.load(Path(folder), encoders=[{encoders}])
image = prefix([Path("photo.jpg").read_bytes()]).to(model.dtype)
embed = model.get_input_embeddings()
start = torch.tensor([{start}], dtype=torch.long)[None]
question = tokenizer({prompt}, return_tensors="pt", add_special_tokens=False).input_ids
inputs = torch.cat((embed(start), image, embed(question)), dim=1)
print(tokenizer.decode(model.generate(inputs_embeds=inputs, max_new_tokens=32)[0]))
```
"""


def model_card(facts: Facts, model: LanguageModel, vision: Vision | None, words: Words) -> str:
    """The card's text."""
    title = f"{facts.sweep} / {facts.cell}" + epochs_text(facts.epochs)
    parts = [
        FRONT.format(tags=", image-text" if vision else ""),
        f"# {plain(title)}\n",
        f"{kind(facts, vision)} Key `{plain(facts.key)}`.\n",
        "## How to load\n\n" + loading(model, vision, words),
        "## Model\n\n" + table(("", ""), model_rows(model, vision)),
        "## Data\n\n" + table(("stage", "data set", "kind", "revision", "share"), data_rows(facts)),
        "## Recipe\n\n" + "\n".join(recipe_parts(facts)),
        "## Scores\n\n" + scores(facts),
        "## Cost\n\n" + table(("hours", ""), [(name, number(hours)) for name, hours in facts.cost.items()]),
        "## Code\n\n" + table(("", ""), [("revision", facts.code_revision or "unknown"), *facts.versions.items()]),
        LICENCE,
    ]
    return "\n".join(parts)


def epochs_text(epochs: int | None) -> str:
    """As the end of a title; nothing for a model that was not fine-tuned."""
    return "" if epochs is None else f", {epochs} epoch{'s' * (epochs != 1)}"


def kind(facts: Facts, vision: Vision | None) -> str:
    """One sentence of what it is."""
    what = "language model with image input" if vision else "language model"
    tuned = "fine-tuned on conversations" if facts.stage == "finetune" else "pre-trained, not fine-tuned"
    return f"A decoder-only {what} of the OpenLM architecture, {tuned}."


def loading(model: LanguageModel, vision: Vision | None, words: Words) -> str:
    """Code that uses it, and what is exact."""
    exact = (
        "Its norms are LayerNorms in training; their means are taken out of the weights here, which is the same but "
        "for rounding. The single expert of `olmoe` gets every token."
        if model.qk_norm
        else "Its weights are those of the checkpoint, under other names."
    )
    lines = [f"transformers' own `{architecture_name(model)}` computes it: no remote code, no other package. {exact}\n"]
    if model.rotary_table == "bfloat16":
        lines.append(
            "Its rotary frequencies are rounded to bfloat16, as in training; here the angles' sines are not.\n"
        )
    asked = json.dumps(words.example)
    lines.append(LOAD.format(prompt=asked, special="" if words.start else ", add_special_tokens=False"))
    if words.tokenizer is None:
        lines.append("No tokenizer is in this folder: the training named none. Take the one of the data.\n")
    if vision:
        encoders = ", ".join(f'Path("{plain(name)}")' for name in vision.weights if vision.frozen)
        lines.append(SEE.format(encoders=encoders, prompt=asked, start=", ".join(map(str, words.start))))
    return "\n".join(lines)


def model_rows(model: LanguageModel, vision: Vision | None) -> Iterator[tuple[object, ...]]:
    """Sizes, and how images come in."""
    yield "parameters", f"{model.weights:,}"
    yield from model.model_dump(mode="json").items()
    if vision is None:
        return
    spec = encoder_spec(vision.encoder)
    yield "vision encoder", f"{vision.encoder}, {'frozen' if vision.frozen else 'trained: its weights are in vision/'}"
    if vision.weights:
        yield "its weights", f"{', '.join(vision.weights)} (revision {vision.revision or 'not named'})"
    yield "image", f"{spec.image_size} x {spec.image_size} pixels, {vision.transform}, {spec.image_tokens} tokens"
    yield "projector", vision.projector


def data_rows(facts: Facts) -> Iterator[tuple[object, ...]]:
    """A row for each data set and stage."""
    for each in facts.data:
        share = "" if each.share is None else f"{100 * each.share:g} %"
        yield each.stage, each.name, each.kind, each.revision or "not named", share


def recipe_parts(facts: Facts) -> Iterator[str]:
    """The place in the grid, then what each job was set to."""
    if facts.axes:
        yield table(("axis", "value"), facts.axes.items())
    for title, settings in facts.recipe:
        yield f"### {plain(title)}\n\n" + table(("", ""), settings.items())


def scores(facts: Facts) -> str:
    """Tasks, then the stable scores."""
    if not facts.scores:
        return "Not evaluated yet.\n"
    columns = ("task", "kind", "score", "stderr", "chance", "n")
    head = ("task", "kind", "score", "standard error", "chance", "examples")
    text = table(head, ([each.get(name) for name in columns] for each in facts.scores))
    stable = [(name, number(value)) for name, value in facts.stable_scores.items() if value is not None]
    return text + ("\n" + table(("over several tasks", ""), stable) if stable else "")


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; `none` where there is no row."""
    lines = [row_text(row) for row in rows]
    if not lines:
        return "none\n"
    return "\n".join([row_text(head), "|" + "---|" * len(head), *lines]) + "\n"


def row_text(row: Sequence[object]) -> str:
    """One line of a table."""
    return "| " + " | ".join(plain(shown(value)) for value in row) + " |"


def shown(value: object) -> str:
    """A value as text: numbers short, lists and objects as JSON."""
    if value is None:
        return ""
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, str) else json.dumps(value)


def number(value: float | None) -> str:
    """Up to four digits."""
    return "unknown" if value is None else f"{value:.4g}"


def plain(text: str) -> str:
    """On one line, and with no meaning in Markdown or HTML."""
    line = " ".join(text.split())
    for mark in "\\`*<>|[]":
        line = line.replace(mark, "\\" + mark)
    return line
