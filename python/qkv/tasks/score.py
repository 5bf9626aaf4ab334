"""How likely a model finds texts: log probabilities of their tokens, and perplexities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qkv.errors import Error
from qkv.tasks.score_runs import Progress, Score, perplexity_of, score_in_order, score_masked
from qkv.tasks.score_texts import Item, Text, ids_of, item_of

if TYPE_CHECKING:
    from qkv.model import Model

__all__ = ["Score", "Text", "perplexity", "score"]


def score(model: Model, texts: Sequence[Text | tuple[Text, Text]], progress: Progress | None = None) -> list[Score]:
    """See `Model.score`."""
    if isinstance(texts, str | bytes) or not hasattr(texts, "__iter__"):
        raise Error(f"score: expected a list of texts or (context, text) pairs, not {type(texts).__name__}")
    _check_head(model, "score")
    if model.is_causal:
        items = [item_of(model, text, f"score: texts[{i}]") for i, text in enumerate(texts)]
        return score_in_order(model, items, progress)
    return score_masked(model, list(texts), progress)


def perplexity(
    model: Model, text: Text, stride: int | None = None, window: int | None = None, progress: Progress | None = None
) -> float:
    """See `Model.perplexity`."""
    _check_head(model, "perplexity")
    if model.encoder or not model.is_causal:
        raise Error("perplexity: only a decoder reads a text from its beginning to its end; see score()")
    most = model.context_length
    window = most if window is None else window
    if window is None:
        raise Error("perplexity: this model's context has no end: give a window, in tokens")
    if type(window) is not int or not 2 <= window <= (most or window):
        raise Error(f"perplexity: window is {window!r}; expected 2 to {most or 'any number of'} tokens")
    stride = max(1, window // 2) if stride is None else stride
    if type(stride) is not int or not 1 <= stride <= window:
        raise Error(f"perplexity: stride is {stride!r}; expected 1 to the window's {window} tokens")
    ids = ids_of(model, text, "perplexity: the text")
    if len(ids) < 2:
        raise Error(
            f"perplexity: the text has {len(ids)} tokens; the first has nothing before it: expected two or more"
        )
    items, scored = [], 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        if (start := max(scored - begin, 1)) < end - begin:
            items.append(Item("perplexity: the text", ids[begin:end], start))
        scored = end
        if end == len(ids):
            break
    found = score_in_order(model, items, progress)
    return perplexity_of(math.fsum(s.total for s in found), sum(len(s.logprobs) for s in found))


def _check_head(model: Model, what: str) -> None:
    if "logits" not in model.program.outputs or model.program.rows("logits") != "logits":
        raise Error(f"{what}: this model has no head that predicts tokens: there is nothing to score")
