import warnings

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch user knows

from stages.config import LanguageModel
from stages.models.attention import attend, build_attention_mask, build_block_mask, compute_unfused_attention
from stages.models.openlm import DecoderBlock, OpenLM, build_rotary_table

DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2, -1], [0] * 10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])


def test_a_position_looks_backwards_within_its_document() -> None:
    mask = build_attention_mask(DOCUMENTS, "sdpa")
    assert isinstance(mask, Tensor)
    for row in range(3):
        for query in range(10):
            for key in range(10):
                same = DOCUMENTS[row, query] == DOCUMENTS[row, key]
                assert mask[row, 0, query, key] == (key <= query and bool(same))


def test_flex_attention_gives_what_sdpa_gives() -> None:
    torch.manual_seed(0)
    queries, keys, values = (torch.randn(3, 2, 10, 16) for _ in range(3))
    expected = attend(queries, keys, values, build_attention_mask(DOCUMENTS, "sdpa"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is slow without a compiler
        attended = attend(queries, keys, values, build_attention_mask(DOCUMENTS, "flex"))
    torch.testing.assert_close(attended, expected, rtol=1e-4, atol=1e-5)


def pack_rows(length: int, *rows: tuple[int, ...]) -> Tensor:
    """Documents of these lengths in each row, with padding behind them."""
    numbers = [[number for number, size in enumerate(row) for _ in range(size)] for row in rows]
    return torch.tensor([row + [-1] * (length - len(row)) for row in numbers])


@pytest.mark.parametrize(
    "documents",
    [
        pack_rows(512, (512,), (128, 384), (100, 60, 300, 52), (1,) * 512),
        pack_rows(300, (129, 171), (300,), (10, 20), (256,), (255, 1, 1)),
        pack_rows(2048, (743, 760), (2048,), (760, 740, 548)),
        DOCUMENTS,
    ],
)
def test_blocks_of_flex_attention_are_those_of_torch(documents: Tensor) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (documents[row, query] == documents[row, key])

    batch, length = documents.shape
    wanted = create_block_mask(visible, batch, None, length, length, device="cpu")
    found = build_block_mask(documents)
    assert found.shape == wanted.shape
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    for counts, numbers in (("kv_num_blocks", "kv_indices"), ("full_kv_num_blocks", "full_kv_indices")):
        mine, theirs = getattr(found, numbers), getattr(wanted, numbers)
        used = torch.arange(mine.shape[-1]) < getattr(found, counts)[..., None]
        assert torch.equal(mine[used], theirs[used]), numbers


def test_flex_attention_over_several_blocks_gives_what_sdpa_gives() -> None:
    torch.manual_seed(0)
    documents = pack_rows(300, (129, 171), (300,), (10, 20))
    queries, keys, values = (torch.randn(3, 2, 300, 16) for _ in range(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is slow without a compiler
        attended = attend(queries, keys, values, build_attention_mask(documents, "flex"))
    expected = attend(queries, keys, values, build_attention_mask(documents, "sdpa"))
    torch.testing.assert_close(attended, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_a_block_is_traced_whole_by_the_compiler(masked: bool) -> None:
    torch.manual_seed(0)
    config = LanguageModel(d_model=32, layers=1, heads=2, vocabulary=50)
    block = DecoderBlock(config, 0)
    x = torch.randn(3, 10, 32)
    cos, sin = build_rotary_table(10, 16, x.device)
    mask = build_attention_mask(DOCUMENTS, "sdpa") if masked else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler about itself
        traced = torch.compile(block, backend="eager", fullgraph=True)
        found = traced(x, (cos[:, None], sin[:, None]), mask, None)
    assert torch.equal(found, block(x, (cos[:, None], sin[:, None]), mask, None))


def test_packed_documents_have_the_logits_that_they_have_alone() -> None:
    torch.manual_seed(0)
    model = OpenLM(LanguageModel(d_model=32, layers=2, heads=2, vocabulary=50))
    tokens = torch.randint(0, 50, (1, 10))
    packed = model(tokens, mask=build_attention_mask(DOCUMENTS[:1], "sdpa"))
    # rotary positions are relative: a document further back sees itself as at the beginning
    torch.testing.assert_close(packed[:, 3:7], model(tokens[:, 3:7]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["causal", "packed"])
def test_whole_attention_in_bfloat16_is_as_near_to_the_exact_one_as_the_fused_kernel(kind: str) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(3, 2, 10, 16).bfloat16() for _ in range(3)]
    gradient = torch.randn(3, 2, 10, 16).bfloat16()
    mask = build_attention_mask(DOCUMENTS, "sdpa") if kind == "packed" else None
    assert mask is None or isinstance(mask, Tensor)

    def figures(whole: bool, dtype: torch.dtype) -> list[Tensor]:
        given = q, k, v = [x.to(dtype).requires_grad_() for x in inputs]
        if whole:
            attended = compute_unfused_attention(q, k, v, mask)
        else:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return [attended.detach(), *torch.autograd.grad(attended, given, gradient.to(dtype))]

    exact = figures(False, torch.float64)
    ours, fused = figures(True, torch.bfloat16), figures(False, torch.bfloat16)
    for one, other, expected in zip(ours, fused, exact, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one - expected).norm() < 1.5 * (other - expected).norm()


def test_a_position_behind_a_cache_is_attended_to_as_ever_in_bfloat16() -> None:
    torch.manual_seed(0)
    queries, keys, values = torch.randn(1, 2, 1, 16), torch.randn(1, 2, 9, 16), torch.randn(1, 2, 9, 16)
    attended = attend(queries.bfloat16(), keys.bfloat16(), values.bfloat16(), None)
    assert attended.dtype == torch.bfloat16
    expected = F.scaled_dot_product_attention(queries, keys, values)
    torch.testing.assert_close(attended.float(), expected, rtol=0.05, atol=0.02)
