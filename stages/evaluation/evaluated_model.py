"""The model under evaluation, with all that a task needs to ask it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from stages.data.prompts import PLAIN, PromptTemplate
from stages.data.tokenizer import TextTokenizer
from stages.distributed import SINGLE_PROCESS, Communicator, open_autocast
from stages.models.vlm import VLM


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedModel:
    """A model on its device, its tokenizer, and how it is run."""

    vlm: VLM
    tokenizer: TextTokenizer
    device: torch.device
    precision: str
    context: int
    """Longest sequence in tokens; what lies further back is cut off."""
    max_new_tokens: int
    template: PromptTemplate = PLAIN
    """How questions about images are put: as the model was fine-tuned."""
    start: tuple[int, ...] = ()
    """Token ids before every text and its image: as the model was fine-tuned."""
    peers: Communicator = SINGLE_PROCESS
    """The job's processes, each with a whole copy of the model; all are asked the same text tasks and share them."""

    @contextmanager
    def enter_inference(self) -> Iterator[None]:
        """Without gradients, in the precision of the evaluation."""
        with torch.inference_mode(), open_autocast(self.precision, self.device):
            yield
