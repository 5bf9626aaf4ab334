"""What stands on top of a model and makes its "logits". `architectures` of config.json says which head a checkpoint
has, e.g. BertForTokenClassification; where it names none of these, what is there: a language model's head, that of
question answering, or none.

| head | rows of "logits" |
|---|---|
| language model, masked or not | "logits": those that a run wants, [vocab_size] |
| sequence classification | "sequences", [labels] |
| token classification | "tokens", [labels] |
| question answering | "tokens", [2]: an answer's start and end |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from qkv.checkpoint import Config as BaseConfig
from qkv.checkpoint import Param, TensorSource, Weights
from qkv.errors import CheckpointError, UnsupportedArchitecture
from qkv.graph import Graph, Tensor

Kind = Literal["language model", "sequences", "tokens", "question"]

# How the names of transformers' classes end.
_KINDS: dict[str, Kind] = {
    "ForCausalLM": "language model",
    "LMHeadModel": "language model",
    "ForMaskedLM": "language model",
    "ForPreTraining": "language model",
    "ForSequenceClassification": "sequences",
    "ForTokenClassification": "tokens",
    "ForQuestionAnswering": "question",
}


@dataclass
class Head(BaseConfig):
    """What config.json says about the head; transformers has two labels by default."""

    architectures: list[str] | None = None
    id2label: dict[str, Any] | None = None
    num_labels: int = 2
    is_causal: bool = True

    @staticmethod
    def of(checkpoint: TensorSource) -> Head:
        return Head.from_dict(checkpoint.config, str(checkpoint.path / "config.json"))

    @property
    def kind(self) -> Kind | None:
        """None: not said."""
        named = [kind for name in self.architectures or () for end, kind in _KINDS.items() if name.endswith(end)]
        return named[0] if named else None

    @property
    def labels(self) -> list[str]:
        """Of the classes, by number; empty where there are none to tell apart."""
        if self.kind not in ("sequences", "tokens"):
            return []
        if self.id2label is None:
            most = 2**16
            self.require(self.num_labels <= most, f"num_labels is {self.num_labels} without id2label; at most {most}")
            return [f"LABEL_{i}" for i in range(self.num_labels)]
        numbers = [str(i) for i in range(len(self.id2label))]
        self.require(
            bool(numbers) and set(numbers) == set(self.id2label),
            f"the keys of id2label are {', '.join(list(self.id2label)[:8])}; expected the numbers of all labels from 0",
        )
        return [str(self.id2label[number]) for number in numbers]


def is_language_model(root: Weights, head: Weights) -> bool:
    """Whether the checkpoint has a language model's head: `architectures` names one, or no other and the weight of
    `head` is there."""
    kind = Head.of(root.checkpoint).kind
    return kind == "language model" or (kind is None and "weight" in head)


def bias(size: int, *scopes: Weights) -> Param:
    """The bias of a masked language model's decoder, in the first of some scopes that has one: checkpoints differ."""
    return next((scope for scope in scopes if "bias" in scope), scopes[0]).param("bias", (size,))


def summary(g: Graph, x: Tensor, dense: Weights, function: str) -> Tensor:
    """Of each sequence: a dense layer of its first token, and the layer's activation."""
    return g.activate(g.linear(g.pool(x, "first"), dense, x.width, bias=True), function)


def pooler(g: Graph, x: Tensor, dense: Weights) -> Tensor | None:
    """BERT's summary, which becomes "pooler_output"; None where the checkpoint has none."""
    if "weight" not in dense:
        return None
    pooled = summary(g, x, dense, "tanh")
    g.output("pooler_output", pooled)
    return pooled


def encoder(g: Graph, root: Weights, x: Tensor, first: Callable[[], Tensor | None], classifier: Weights) -> None:
    """The head of an encoder that classifies sequences, tokens or answers; nothing where the checkpoint has none.

    first: makes what `classifier` reads of each sequence."""
    head = Head.of(root.checkpoint)
    if head.kind == "sequences":
        summarised = first()
        if summarised is None:
            raise CheckpointError(f"{root.checkpoint.path} has no pooler, which its classifier of sequences reads")
        _classify(g, summarised, classifier, len(head.labels))
    else:
        _classify_tokens(g, x, head, root["classifier"], root["qa_outputs"])


def decoder(
    g: Graph,
    root: Weights,
    x: Tensor,
    lm: Weights,
    vocab_size: int,
    *,
    bias: Weights | None = None,
    soft_cap: float | None = None,
) -> None:
    """The head of a decoder: a language model's, or one that classifies sequences, by their last token, tokens or
    answers; nothing where the checkpoint has none.

    lm: scope of the language model's matrix, which is that of the token embeddings where both are tied.
    bias: scope of its bias, if it has one.
    soft_cap: of its scores."""
    head = Head.of(root.checkpoint)
    if not head.is_causal:  # some models of embeddings
        raise UnsupportedArchitecture(f"{head.where}: is_causal is false: attention to later tokens is not supported")
    if is_language_model(root, lm):
        logits = g.logits(x, lm, vocab_size, bias=bias.param("bias", (vocab_size,)) if bias else None)
        g.output("logits", g.soft_cap(logits, soft_cap) if soft_cap else logits)
    elif head.kind == "sequences":
        _classify(g, g.pool(x, "last"), root["score"], len(head.labels), bias=False)
    else:
        classifier = root["classifier" if "classifier" in root else "score"]  # of GPT-2 and of LLaMA, and their kin
        _classify_tokens(g, x, head, classifier, root["qa_outputs"])


def _classify_tokens(g: Graph, x: Tensor, head: Head, classifier: Weights, answers: Weights) -> None:
    if head.kind == "tokens":
        _classify(g, x, classifier, len(head.labels))
    elif head.kind == "question" or (head.kind is None and "weight" in answers):
        _classify(g, x, answers, 2)


def _classify(g: Graph, x: Tensor, w: Weights, classes: int, *, bias: bool = True) -> None:
    g.output("logits", g.scores(x, w, classes, bias=w.param("bias", (classes,)) if bias else None))
