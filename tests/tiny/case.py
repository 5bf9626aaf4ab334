"""A tiny random model of transformers, and what it gives for some token ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

LENGTHS = (1, 2, 17, 63, 64, 65, 190)


@dataclass(frozen=True, eq=False)
class Case:
    """
    Attributes:
        model, config: classes of transformers.
        options: of the configuration.
    """

    model: str
    config: str
    options: dict[str, Any] = field(default_factory=dict)
    lengths: tuple[int, ...] = LENGTHS

    @property
    def generates(self) -> bool:
        return self.model.endswith(("LMHeadModel", "ForCausalLM"))

    @property
    def has_logits(self) -> bool:
        """With a head of any kind; compared by hidden states otherwise."""
        return self.generates or "For" in self.model

    def make(self) -> Any:
        """The model in float32. Weights are larger than usual, so that scores differ clearly and attention is sharp."""
        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**{"initializer_range": 0.15} | self.options)
        model = getattr(transformers, self.model)(config).eval()
        with torch.no_grad():
            for _name, p in model.named_parameters():
                if p.ndim == 1:  # biases and norm weights start as 0 and 1: give every element its own value
                    p.add_(0.1 * torch.randn_like(p))
        return model

    def decoder_sequences(self) -> list[list[int]] | None:
        """What the decoder reads, where an encoder reads `sequences`."""
        return None

    def arguments(self) -> dict[str, Any]:
        """Of `logits` and `hidden_states`, beside the sequences."""
        targets = self.decoder_sequences()
        return {} if targets is None else {"decoder_ids": targets}

    def sequences(self) -> list[list[int]]:
        """Token ids of mixed lengths."""
        config = getattr(transformers, self.config)(**self.options)
        rng = np.random.default_rng(1)
        ids = [rng.integers(0, config.vocab_size, n) for n in self.lengths]
        # nothing is padded; transformers takes the token for padding wherever it is
        return [np.where(i == config.pad_token_id, (i + 1) % config.vocab_size, i).tolist() for i in ids]


@cache
def expected(case: Case) -> list[NDArray[np.float32]]:
    """What transformers gives for `case.sequences()`: logits, or hidden states where there is no head."""
    model = case.make()
    results = []
    sequences = case.sequences()
    for ids, target in zip(sequences, case.decoder_sequences() or [None] * len(sequences), strict=True):
        decoder = {} if target is None else {"decoder_input_ids": torch.tensor([target])}
        with torch.no_grad():
            output = model(torch.tensor([ids]), **decoder)
        results.append((_logits(output) if case.has_logits else output.last_hidden_state)[0].numpy())
    return results


def _logits(output: Any) -> torch.Tensor:
    if "start_logits" in output:
        return torch.stack((output.start_logits, output.end_logits), -1)
    return output.prediction_logits if "prediction_logits" in output else output.logits
