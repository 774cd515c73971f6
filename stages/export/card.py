"""README.md of an export: what the model is, how it came about, how good it is, what it cost, how to load it.

Everything from a sweep file is written so that it is text in Markdown, whatever it holds.
"""

import json
from collections.abc import Iterable, Iterator, Sequence

from stages.config import LanguageModel, Vision
from stages.data.prompts import IMAGE_PLACEHOLDER
from stages.export.request import ModelFacts
from stages.export.tokenizer_files import TextSettings
from stages.export.weights import select_architecture
from stages.printable import escape_unprintable
from stages.vision.specs import resolve_encoder_spec

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


SAME_IDS = """`tokenizer.apply_chat_template` gives the token ids that it was fine-tuned with, except for a message that
holds a special token's name: there it gives the token, which no conversation of the fine-tune could hold.
"""
OTHER_IDS = """`tokenizer.apply_chat_template` gives other token ids than the fine-tune had. The fine-tune encoded each
question and each answer by itself, and this tokenizer begins each text that it encodes in its own way (with a blank).
These are the ids of the fine-tune:

```python
def encode_chat(turns):  # [(question, answer), ..., (question, None)]
    ids = {start}
    for number, (question, answer) in enumerate(turns):
        asked = {question}.replace("{{text}}", question.replace({mark}, "").strip())
        asked = {system} + asked if number == 0 else asked
        ids += tokenizer(asked, add_special_tokens=False).input_ids
        if answer is not None:
            said = {answer}.replace("{{text}}", answer.replace({mark}, "").strip())
            ids += [*tokenizer(said, add_special_tokens=False).input_ids, {end}]
    return ids
```
"""


def format_model_card(
    facts: ModelFacts,
    model: LanguageModel,
    vision: Vision | None,
    words: TextSettings,
    chat_is_exact: bool = True,
) -> str:
    """The card's text. `chat_is_exact`: the chat template gives the fine-tune's ids."""
    title = f"{facts.sweep} / {facts.cell}" + format_epochs(facts.epochs)
    parts = [
        FRONT.format(tags=", image-text" if vision else ""),
        f"# {escape_markdown(title)}\n",
        f"{describe_kind(facts, vision)} Key `{escape_markdown(facts.key)}`.\n",
        "## How to load\n\n" + format_loading(model, vision, words, chat_is_exact=chat_is_exact),
        "## Model\n\n" + format_table(("", ""), iter_model_rows(model, vision)),
        "## Data\n\n" + format_table(("stage", "data set", "kind", "revision", "share"), iter_data_rows(facts)),
        "## Recipe\n\n" + "\n".join(iter_recipe_parts(facts)),
        "## Scores\n\n" + format_scores(facts),
        "## Cost\n\n"
        + format_table(("hours", ""), [(name, format_number(hours)) for name, hours in facts.cost.items()]),
        "## Code\n\n"
        + format_table(("", ""), [("revision", facts.code_revision or "unknown"), *facts.versions.items()]),
        LICENCE,
    ]
    return "\n".join(parts)


def format_epochs(epochs: int | None) -> str:
    """As the end of a title; nothing for a model that was not fine-tuned."""
    return "" if epochs is None else f", {epochs} epoch{'s' * (epochs != 1)}"


def describe_kind(facts: ModelFacts, vision: Vision | None) -> str:
    """One sentence of what it is."""
    what = "language model with image input" if vision else "language model"
    tuned = "fine-tuned on conversations" if facts.stage == "finetune" else "pre-trained, not fine-tuned"
    return f"A decoder-only {what} of the OpenLM architecture, {tuned}."


def format_loading(model: LanguageModel, vision: Vision | None, words: TextSettings, *, chat_is_exact: bool) -> str:
    """Code that uses it, and what is exact."""
    exact = (
        "Its norms are LayerNorms in training; their means are taken out of the weights here, which is the same but "
        "for rounding. The single expert of `olmoe` gets every token."
        if model.qk_norm
        else "Its weights are those of the checkpoint, under other names."
    )
    lines = [
        f"transformers' own `{select_architecture(model)}` computes it: no remote code, no other package. {exact}\n"
    ]
    if model.rotary_table == "bfloat16":
        lines.append(
            "Its rotary frequencies are rounded to bfloat16, as in training; here the angles' sines are not.\n"
        )
    asked = json.dumps(words.example)
    lines.append(LOAD.format(prompt=asked, special="" if words.start else ", add_special_tokens=False"))
    if words.tokenizer is None:
        lines.append("No tokenizer is in this folder: the training named none. Take the one of the data.\n")
    elif words.prompt is not None:
        lines.append(SAME_IDS if chat_is_exact else format_encoding(words))
    if vision:
        encoders = ", ".join(f'Path("{escape_markdown(name)}")' for name in vision.weights if vision.frozen)
        lines.append(SEE.format(encoders=encoders, prompt=asked, start=", ".join(map(str, words.start))))
    return "\n".join(lines)


def format_encoding(words: TextSettings) -> str:
    """That a chat template's ids are not the fine-tune's, and code whose ids are."""
    prompt = {"system": "", **(words.prompt or {})}
    parts = {name: json.dumps(prompt[name]) for name in ("system", "question", "answer")}
    end = words.end_of_text
    return OTHER_IDS.format(start=list(words.start), end=end, mark=json.dumps(IMAGE_PLACEHOLDER), **parts)


def iter_model_rows(model: LanguageModel, vision: Vision | None) -> Iterator[tuple[object, ...]]:
    """Sizes, and how images come in."""
    yield "parameters", f"{model.weights:,}"
    yield from model.model_dump(mode="json").items()
    if vision is None:
        return
    spec = resolve_encoder_spec(vision.encoder)
    yield "vision encoder", f"{vision.encoder}, {'frozen' if vision.frozen else 'trained: its weights are in vision/'}"
    if vision.weights:
        yield "its weights", f"{', '.join(vision.weights)} (revision {vision.revision or 'not named'})"
    yield "image", f"{spec.image_size} x {spec.image_size} pixels, {vision.transform}, {spec.image_tokens} tokens"
    yield "projector", vision.projector


def iter_data_rows(facts: ModelFacts) -> Iterator[tuple[object, ...]]:
    """A row for each data set and stage."""
    for each in facts.data:
        share = "" if each.share is None else f"{100 * each.share:g} %"
        yield each.stage, each.name, each.kind, each.revision or "not named", share


def iter_recipe_parts(facts: ModelFacts) -> Iterator[str]:
    """The place in the grid, then what each job was set to."""
    if facts.axes:
        yield format_table(("axis", "value"), facts.axes.items())
    for title, settings in facts.recipe:
        yield f"### {escape_markdown(title)}\n\n" + format_table(("", ""), settings.items())


def format_scores(facts: ModelFacts) -> str:
    """Tasks, then the stable scores."""
    if not facts.scores:
        return "Not evaluated yet.\n"
    columns = ("task", "kind", "score", "stderr", "chance", "n")
    head = ("task", "kind", "score", "standard error", "chance", "examples")
    text = format_table(head, ([each.get(name) for name in columns] for each in facts.scores))
    stable = [(name, format_number(value)) for name, value in facts.stable_scores.items() if value is not None]
    return text + ("\n" + format_table(("over several tasks", ""), stable) if stable else "")


def format_table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; `none` where there is no row."""
    lines = [format_row(row) for row in rows]
    if not lines:
        return "none\n"
    return "\n".join([format_row(head), "|" + "---|" * len(head), *lines]) + "\n"


def format_row(row: Sequence[object]) -> str:
    """One line of a table."""
    return "| " + " | ".join(escape_markdown(format_value(value)) for value in row) + " |"


def format_value(value: object) -> str:
    """A value as text: numbers short, lists and objects as JSON."""
    if value is None:
        return ""
    if isinstance(value, float):
        return format_number(value)
    return value if isinstance(value, str) else json.dumps(value)


def format_number(value: float | None) -> str:
    """Up to four digits."""
    return "unknown" if value is None else f"{value:.4g}"


def escape_markdown(text: str) -> str:
    """On one line, and with no meaning in Markdown or HTML."""
    line = escape_unprintable(" ".join(text.split()))
    for mark in "\\`*<>|[]":
        line = line.replace(mark, "\\" + mark)
    return line
