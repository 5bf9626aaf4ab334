"""The config and the tensors of models/transformer.py, which are qkv's own. The config is made of the arguments of
torch.nn.Transformer:

    model_type "transformer", d_model, nhead, num_encoder_layers, num_decoder_layers, dim_feedforward,
    activation ("relu"), layer_norm_eps (1e-5), norm_first (false), bias (true: of linear layers and norms)

and of what that class leaves to its users:

    vocab_size, target_vocab_size (vocab_size): of the two tables of embeddings
    scale_embeddings (true): they are multiplied by sqrt(d_model)
    sinusoids ("interleaved"): sin and cos of a frequency side by side as in the paper, or "concatenated"
    max_positions (1024), position_offset (0): the first token has the position of that number
    final_norm (norm_first): a norm behind the last layer, which torch.nn.Transformer has whatever norm_first is
    share_embeddings (false): one table for source and target
    tie_output (true): the output layer is the target's table
    decoder_start_token_id, eos_token_id

Tensors: transformer.* as in the state_dict of torch.nn.Transformer, source_embedding.weight, target_embedding.weight
(not if shared), output.weight (not if tied), and output.bias if there is one.
"""

from __future__ import annotations

from dataclasses import dataclass

from qkv.checkpoint import Config as BaseConfig
from qkv.errors import UnsupportedArchitecture
from qkv.models.sinusoids import check_table


@dataclass
class Config(BaseConfig):
    ZERO_OK = frozenset({"position_offset"})

    vocab_size: int
    d_model: int
    nhead: int
    num_encoder_layers: int
    num_decoder_layers: int
    dim_feedforward: int
    target_vocab_size: int | None = None
    activation: str = "relu"
    layer_norm_eps: float = 1e-5
    norm_first: bool = False
    bias: bool = True
    scale_embeddings: bool = True
    sinusoids: str = "interleaved"
    max_positions: int = 1024
    position_offset: int = 0
    final_norm: bool | None = None
    share_embeddings: bool = False
    tie_output: bool = True
    decoder_start_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def check(self) -> None:
        self.require_divisible("d_model", "nhead")
        check_table(self, "max_positions", "d_model")
        check_table(self, "position_offset", "d_model")
        self.target_vocab_size = self.target_vocab_size or self.vocab_size
        self.require(
            not self.share_embeddings or self.target_vocab_size == self.vocab_size,
            f"share_embeddings, but vocab_size is {self.vocab_size} and target_vocab_size {self.target_vocab_size}",
        )
        if self.sinusoids not in ("interleaved", "concatenated"):
            raise UnsupportedArchitecture(f"{self.where}: sinusoids {self.sinusoids!r}: interleaved or concatenated")
        if self.final_norm is None:
            self.final_norm = self.norm_first

    @property
    def context_length(self) -> int:
        return self.max_positions
