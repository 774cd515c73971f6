"""Exports one finished run: reads its checkpoint, writes the folder."""

from pathlib import Path

from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor

from stages.checkpoint.files import MODEL, Checkpoint, result_checkpoint
from stages.config import LanguageModel, Vision
from stages.data.prompts import template_of
from stages.data.tokenizer import TextTokenizer
from stages.errors import DamagedInputError
from stages.export.architecture import transformers_config
from stages.export.card import model_card
from stages.export.folder import check_place, new_folder
from stages.export.images import write_images
from stages.export.request import Request
from stages.export.tokenizer_files import Words, write_text_files
from stages.export.weights import DTYPES, write_weights
from stages.files import write_json
from stages.models.vlm import ENCODER_PREFIX, PROJECTOR_PREFIX


def export(request: Request) -> Path:
    """Writes the folder and returns it.

    DamagedInputError for a checkpoint that does not hold, DataError for a tokenizer that does not fit, ConfigError for
    a folder that is another's, StorageError for a full disk; then everything is as before.
    """
    out = Path(request.out)
    check_place(out)  # before gigabytes are read
    checkpoint = result_checkpoint(Path(request.run), request.facts.key)
    model, vision = shapes_of(checkpoint, request.facts.key)
    words = words_of(request, checkpoint, model)
    with new_folder(out, {**request.facts.identity(), "dtype": request.dtype}) as folder:
        with safe_open(checkpoint.path / MODEL, framework="pt") as source:
            write_weights(source, model, folder, DTYPES[request.dtype])
        config = transformers_config(model, context=request.context, end_of_text=words.end_of_text, dtype=request.dtype)
        write_json(folder / "config.json", config)
        write_text_files(words, folder, context=request.context)
        if vision is not None:
            write_images(folder, model, vision, image_weights(checkpoint), words.start)
        (folder / "README.md").write_text(model_card(request.facts, model, vision, words), encoding="utf-8")
    return out


def shapes_of(checkpoint: Checkpoint, key: str) -> tuple[LanguageModel, Vision | None]:
    """What the checkpoint holds; DamagedInputError if it does not say it as this version does."""
    state = checkpoint.state
    try:
        vision = Vision.model_validate(state["vision"]) if state["vision"] else None
        return LanguageModel.model_validate(state["model"]), vision
    except (KeyError, ValidationError) as error:
        message = f"{checkpoint.path}: not a model of this version: {' '.join(str(error).split())}"
        raise DamagedInputError(message, damaged_key=key) from error


def words_of(request: Request, checkpoint: Checkpoint, model: LanguageModel) -> Words:
    """Its tokenizer, and the prompt of a fine-tuned model."""
    tokenizer = TextTokenizer(Path(request.tokenizer), model.vocabulary) if request.tokenizer else None
    tuned = request.facts.stage == "finetune"
    return Words(tokenizer, template_of(checkpoint.state).state() if tuned else None)


def image_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Projector and trained encoder, of all weights of the checkpoint."""
    with safe_open(checkpoint.path / MODEL, framework="pt") as source:
        names = [name for name in source.keys() if name.startswith((PROJECTOR_PREFIX, ENCODER_PREFIX))]  # noqa: SIM118
        return {name: source.get_tensor(name) for name in names}
