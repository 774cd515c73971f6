"""A pre-norm vision transformer made of transformers' blocks, cut off where its features are taken."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from stages.encoder_spec import EncoderSpec


class VisionTransformer(nn.Module):
    """Normalisation, patch embedding, positions, blocks: the patches after the last of the blocks, without a norm.

    That is the second to last block of the published network (Prismatic's choice): what follows it is not here.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        spec: EncoderSpec,
        patch_embedding: nn.Conv2d,
        positions: Tensor,
        prefix: Tensor | None,
        blocks: Iterable[nn.Module],
    ) -> None:
        """`positions` (I, F) are added to the patches, `prefix` (P, F) stands before them (class and registers)."""
        super().__init__()
        # not in checkpoints: constants of the encoder
        self.register_buffer("mean", torch.tensor(spec.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(spec.std)[:, None, None], persistent=False)
        self.patch_embedding = patch_embedding
        self.positions = nn.Parameter(positions.detach().clone())
        self.prefix = nn.Parameter(prefix.detach().clone()) if prefix is not None else None
        self.blocks = nn.ModuleList(blocks)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, S, S), uint8, to features (N, I, F); pixels that fill no patch are cut off."""
        x = (pixels.float() / 255 - self.mean) / self.std
        x = self.patch_embedding(x).flatten(2).transpose(1, 2) + self.positions
        if self.prefix is not None:
            x = torch.cat((self.prefix.expand(len(x), -1, -1), x), dim=1)
        for block in self.blocks:
            x = block(x, None)  # no mask
        return x[:, len(self.prefix) :] if self.prefix is not None else x
