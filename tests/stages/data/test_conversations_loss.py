"""What of a conversation carries loss: every token of the answers and their ends, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.data.conversations import Conversations
from stages.data.packing import join_documents
from stages.data.prompts import TEMPLATES
from stages.data.sample import NO_LOSS, BadSampleError
from stages.data.tokenizer import TextTokenizer, check_tokenizer
from stages.errors import DataError
from stages.vision.image_input import ImageInput
from tests.stages.data.tokenizer_kinds import KINDS

IMAGE_TOKENS = 4
UNKNOWN = {"unk_token": "<unk>"}


class Blank:
    """Pictures without content."""

    image_tokens = IMAGE_TOKENS

    def read(self, where: str, content: Callable[[], bytes]) -> ImageInput:  # noqa: ARG002 - a reader's form
        return ImageInput(where)


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    return TextTokenizer(KINDS[request.param](path), 400, literal=True)


TEXT = st.text("abcXYZ 019.,?<>/|[]é", min_size=1, max_size=12).filter(lambda text: bool(text.strip()))
TURNS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4)


def record(turns: list[tuple[str, str]], *, image: bool) -> dict[str, Any]:
    values = [value for pair in turns for value in pair]
    if image:
        values[0] = f"<image>\n{values[0]}"
    talk = [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]
    return {"id": "1", "conversations": talk, **({"image": "x.png"} if image else {})}


def opened(folder: Path, tokenizer: TextTokenizer, prompt: str, records: list[Any]) -> Conversations:
    (folder / "talk.json").write_text(json.dumps(records))
    (folder / "x.png").write_bytes(b"")
    start = tokenizer.start_of_text
    return Conversations(
        "talk", folder, tokenizer=tokenizer, images=Blank(), max_length=4096, template=TEMPLATES[prompt], start=start
    )


@given(turns=TURNS, image=st.booleans(), prompt=st.sampled_from(sorted(TEMPLATES)))
@settings(max_examples=60, deadline=None)
def test_every_answer_token_and_no_other_carries_loss(
    tokenizer: TextTokenizer,
    tmp_path_factory: pytest.TempPathFactory,
    turns: list[tuple[str, str]],
    image: bool,
    prompt: str,
) -> None:
    template = TEMPLATES[prompt]
    source = opened(tmp_path_factory.mktemp("talk"), tokenizer, prompt, [record(turns, image=image)])
    document = source.read_document(0, 0)
    assert document is not None
    sequence = join_documents([document], source=0)
    # each position's own token, written down without the code under test
    tokens: list[int] = [*tokenizer.start_of_text, *([-1] * IMAGE_TOKENS if image else [])]
    learned = [False] * len(tokens)
    for number, (question, answer) in enumerate(turns):
        asked = tokenizer.encode(template.format_question(question, first=number == 0))
        answered = [*tokenizer.encode(template.format_answer(answer)), tokenizer.end_of_text]
        tokens += asked + answered
        learned += [False] * len(asked) + [True] * len(answered)
    assert sequence.length == len(tokens) - 1
    expected = [token if is_answer else NO_LOSS for token, is_answer in zip(tokens, learned, strict=True)][1:]
    assert sequence.targets.tolist() == expected
    assert sequence.tokens.tolist() == [max(0, token) for token in tokens[:-1]]
    assert sequence.target_count == sum(learned)
    assert sequence.image_starts == ((len(tokenizer.start_of_text),) if image else ())
    # an end comes only where an answer ends, whatever the texts say
    ends = np.count_nonzero(np.asarray(document.tokens) == tokenizer.end_of_text)
    assert ends == len(turns)


def test_tokenizers_with_a_start_of_text_begin_with_it_before_the_image(tmp_path: Path) -> None:
    found = {
        name: TextTokenizer(make(tmp_path / f"{name}.json"), 400, literal=True).start_of_text
        for name, make in KINDS.items()
    }
    assert found == {"byte-level": (), "word-piece": (1,), "unigram": (1,)}


def test_names_of_special_tokens_in_a_text_stay_text(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    check_tokenizer(tokenizer, TEMPLATES["pure"])
    name = tokenizer.end_of_text_name
    source = opened(tmp_path, tokenizer, "pure", [record([(f"what {name}", f"is {name} it")], image=False)])
    if tokenizer.end_of_text in tokenizer.encode(f"is {name} it"):
        # a vocabulary that makes the token of its name all the same: the conversation is left out, and counted
        with pytest.raises(BadSampleError, match="holds a special token's name"):
            source.read_document(0, 0)
    else:
        document = source.read_document(0, 0)
        assert document is not None
        assert list(document.tokens).count(tokenizer.end_of_text) == 1


def test_a_tokenizer_that_cannot_write_what_it_reads_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    poor = Tokenizer(models.WordLevel({"</s>": 0, "<unk>": 1, "Red": 2}, **UNKNOWN))
    poor.pre_tokenizer = pre_tokenizers.Whitespace()
    poor.save(str(tmp_path / "poor.json"))
    with pytest.raises(DataError, match=r"poor\.json: text does not come back from tokens: 'In: What"):
        check_tokenizer(TextTokenizer(tmp_path / "poor.json", 400, literal=True), TEMPLATES["pure"])
    nameless = Tokenizer(models.WordLevel({"<unk>": 0}, **UNKNOWN))
    nameless.save(str(tmp_path / "nameless.json"))
    with pytest.raises(DataError, match="no end-of-text token; it needs one of"):
        TextTokenizer(tmp_path / "nameless.json", 400, literal=True)
