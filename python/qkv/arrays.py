"""A checkpoint, opened: token ids in, hidden states, logits and attention weights out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from qkv.attentions import AttentionWeights, Layers
from qkv.batches import TokenIds, as_sequences, cut
from qkv.checkpoint import Config, SentenceModules
from qkv.errors import Error
from qkv.graph import Lowered
from qkv.runner import Runner
from qkv.source import Source

if TYPE_CHECKING:
    from tokenizers import Tokenizer


# [heads, tokens, keys] of each sequence and layer
Weights = list[list[NDArray[np.float32]]]


class ArrayModel(Runner):
    """What a model does with token ids; `Model` says what it does with text, and has the attributes."""

    def __init__(
        self,
        *,
        model_type: str,
        config: Config,
        lowered: Lowered,
        tokenizer: Tokenizer | None,
        sentence_modules: SentenceModules,
        labels: list[str],
        generation_config: dict[str, Any],
        dtype: str,
        nbytes: int,
        num_threads: int,
        kv_cache_bytes: int | None = None,
    ) -> None:
        self._name = f"<qkv.Model {model_type} {dtype} {nbytes / 1e6:.1f} MB>"
        context_length: int | None = config.context_length  # type: ignore[attr-defined]
        super().__init__(self._name, lowered, num_threads, context_length, kv_cache_bytes)
        self.model_type = model_type
        self.config = config
        self.tokenizer = tokenizer
        self.sentence_modules = sentence_modules
        self.labels = labels
        self.generation_config = generation_config
        self.dtype = dtype
        self.nbytes = nbytes
        self.vocab_size: int = config.vocab_size  # type: ignore[attr-defined]
        self.hidden_size = lowered.program.width("hidden_states")

    def __repr__(self) -> str:
        return self._name

    @overload
    def hidden_states(
        self,
        batch: Sequence[TokenIds],
        token_type_ids: Sequence[TokenIds] | None = None,
        *,
        decoder_ids: Sequence[TokenIds] | None = None,
        all_layers: bool = False,
        return_attentions: Literal[False] = False,
    ) -> list[NDArray[np.float32]]: ...
    @overload
    def hidden_states(
        self,
        batch: Sequence[TokenIds],
        token_type_ids: Sequence[TokenIds] | None = None,
        *,
        decoder_ids: Sequence[TokenIds] | None = None,
        all_layers: bool = False,
        return_attentions: Literal[True] | Sequence[int],
    ) -> tuple[list[NDArray[np.float32]], Weights]: ...
    def hidden_states(
        self,
        batch: Sequence[TokenIds],
        token_type_ids: Sequence[TokenIds] | None = None,
        *,
        decoder_ids: Sequence[TokenIds] | None = None,
        all_layers: bool = False,
        return_attentions: Layers = False,
    ) -> list[NDArray[np.float32]] | tuple[list[NDArray[np.float32]], Weights]:
        """The last hidden state of every token: for each sequence of ids a float32 array [tokens, hidden_size].

        With `all_layers` those of the embeddings and of each layer: [layers + 1, tokens, hidden_size].

        Sequences may differ in length; nothing is padded.

        Args:
            decoder_ids: for a model with an encoder and a decoder, which reads `batch` with the encoder: as many
                sequences for the decoder, whose hidden states these are.
            return_attentions: True, or a list of layers: returns `(hidden_states, attentions)`, where attentions[s][i]
                is what tokens of sequence s give to tokens in the i-th of these layers: the softmax, a float32 array
                [heads, tokens, tokens], 0 where a token does not look. These take 4 heads tokens^2 bytes for every
                layer and sequence: 50 MB a layer for 12 heads and 1024 tokens.

        Raises:
            qkv.Error: an id is out of range, a sequence is longer than the model allows, there is no such layer, or
                `decoder_ids` are not what the model needs.
        """
        sequences, source = self._read(batch, decoder_ids)
        outputs = _numbered(self.program.outputs, "hidden_states") if all_layers else ["hidden_states"]
        arrays, weights = self._run_rows(outputs, sequences, source, token_type_ids, return_attentions)
        rows = cut(np.stack(arrays), sequences, axis=1) if all_layers else cut(arrays[0], sequences)
        return rows if weights is None else (rows, weights)

    @overload
    def logits(
        self,
        batch: Sequence[TokenIds],
        token_type_ids: Sequence[TokenIds] | None = None,
        *,
        decoder_ids: Sequence[TokenIds] | None = None,
        return_attentions: Literal[False] = False,
    ) -> list[NDArray[np.float32]]: ...
    @overload
    def logits(
        self,
        batch: Sequence[TokenIds],
        token_type_ids: Sequence[TokenIds] | None = None,
        *,
        decoder_ids: Sequence[TokenIds] | None = None,
        return_attentions: Literal[True] | Sequence[int],
    ) -> tuple[list[NDArray[np.float32]], Weights]: ...
    def logits(
        self,
        batch: Sequence[TokenIds],
        token_type_ids: Sequence[TokenIds] | None = None,
        *,
        decoder_ids: Sequence[TokenIds] | None = None,
        return_attentions: Layers = False,
    ) -> list[NDArray[np.float32]] | tuple[list[NDArray[np.float32]], Weights]:
        """What the model's head makes of each sequence, a float32 array:

        - of a language model [tokens, vocab_size]: scores of the token that follows each token or, masked, is there;
        - of token classification [tokens, labels]; of sequence classification [labels], zeros for an empty sequence;
        - of question answering [tokens, 2]: scores of the answer's first token and of its last.

        Args:
            decoder_ids: as in `hidden_states`; an encoder and decoder that classify texts find both in `batch`.
            return_attentions: as in `hidden_states`.

        Raises:
            qkv.Error: an id is out of range, a sequence is too long, there is no such layer, the model has no head, or
                `decoder_ids` are not what the model needs.
        """
        self._check_output("logits")
        if self.encoder is not None and self.program.rows("logits") == "sequences":
            if decoder_ids is not None:
                raise Error("logits: this model classifies texts, which its decoder reads again: leave out decoder_ids")
            decoder_ids = [self.config.classified_ids(s) for s in as_sequences(batch, "token_ids")]  # type: ignore[attr-defined]
        sequences, source = self._read(batch, decoder_ids)
        arrays, weights = self._run_rows(["logits"], sequences, source, token_type_ids, return_attentions)
        rows = self._of_sequences("logits", arrays[0], sequences)
        return rows if weights is None else (rows, weights)

    def pooler_output(
        self, batch: Sequence[TokenIds], token_type_ids: Sequence[TokenIds] | None = None
    ) -> NDArray[np.float32]:
        """What BERT's pooler makes of each sequence's first token: float32 [sequences, hidden_size]; zeros for an
        empty sequence.

        Raises:
            qkv.Error: an id is out of range, a sequence is too long, or the checkpoint has no pooler.
        """
        self._check_output("pooler_output")
        sequences = as_sequences(batch, "token_ids")
        arrays, _ = self._run_rows(["pooler_output"], sequences, None, token_type_ids, False)
        rows = self._of_sequences("pooler_output", arrays[0], sequences)
        return np.stack(rows) if rows else np.empty((0, self.hidden_size), np.float32)

    def encoder_hidden_states(
        self, batch: Sequence[TokenIds], *, all_layers: bool = False
    ) -> list[NDArray[np.float32]]:
        """The last hidden state of every token of an encoder that a decoder reads: for each sequence of ids a float32
        array [tokens, hidden_size]. With `all_layers` those of the embeddings and of each layer: [layers + 1, tokens,
        hidden_size].

        Raises:
            qkv.Error: the model has no encoder beside its decoder, an id is out of range, or a sequence is empty or too
                long.
        """
        sequences = as_sequences(batch, "token_ids")
        outputs = ["encoder_hidden_states"]
        if all_layers and self.encoder is not None:
            outputs = _numbered(self.encoder.outputs, "encoder_hidden_states")
        arrays = self.run_encoder(outputs, sequences)
        return cut(np.stack(arrays), sequences, axis=1) if all_layers else cut(arrays[0], sequences)

    def encoder_attentions(self, batch: Sequence[TokenIds], layers: Layers = True) -> Weights:
        """What the tokens of an encoder that a decoder reads give to each other: for each sequence and each of `layers`
        (True: all) a float32 array [heads, tokens, tokens].

        Raises:
            qkv.Error: as `encoder_hidden_states`, or there is no such layer.
        """
        sequences = as_sequences(batch, "token_ids")
        heads = self._encoder_for(sequences).attention_heads
        weights = AttentionWeights(layers, heads, [(len(s), len(s)) for s in sequences])
        self.run_encoder(["encoder_hidden_states"], sequences, weights.by_step)
        return weights.by_sequence

    def cross_attentions(
        self, batch: Sequence[TokenIds], decoder_ids: Sequence[TokenIds], layers: Layers = True
    ) -> Weights:
        """What a decoder's tokens give to the encoder's: for each sequence and each of `layers` (True: all) a float32
        array [heads, decoder tokens, tokens].

        Raises:
            qkv.Error: as `hidden_states`.
        """
        sequences, source = self._read(batch, decoder_ids)
        assert source
        sizes = list(zip(map(len, sequences), source.lengths, strict=True))
        weights = AttentionWeights(layers, self.program.cross_attention_heads, sizes)
        self.run("hidden_states", sequences, source=source, cross_weights=weights.by_step)
        return weights.by_sequence

    def _read(
        self, batch: Sequence[TokenIds], decoder_ids: Sequence[TokenIds] | None
    ) -> tuple[list[NDArray[np.int32]], Source | None]:
        """The sequences that `program` runs on, and what the encoder read for them if there is one."""
        sequences = as_sequences(batch, "token_ids")
        if self.encoder is None:
            if decoder_ids is not None:
                raise Error("decoder_ids are for a model with an encoder and a decoder; this one has only one of them")
            return sequences, None
        if decoder_ids is None:
            raise Error("this model has an encoder, which reads the batch, and a decoder: give decoder_ids for it, too")
        targets = as_sequences(decoder_ids, "decoder_ids")
        if len(targets) != len(sequences):
            raise Error(f"{len(targets)} decoder_ids for a batch of {len(sequences)} sequences; expected one for each")
        return targets, self.read_source(sequences)

    def _run_rows(
        self,
        outputs: Sequence[str],
        sequences: list[NDArray[np.int32]],
        source: Source | None,
        token_type_ids: Sequence[TokenIds] | None,
        layers: Layers,
    ) -> tuple[list[NDArray[np.float32]], Weights | None]:
        """Some outputs for all tokens; with attention weights, if any are asked for."""
        types = None if token_type_ids is None else as_sequences(token_type_ids, "token_type_ids")
        for i, sequence in enumerate(sequences):
            self._check_length(i, len(sequence))
        weights = None
        if layers is not False:
            weights = AttentionWeights(layers, self.program.attention_heads, [(len(s), len(s)) for s in sequences])
        arrays = self.run_all(
            outputs,
            sequences,
            wanted="all",
            token_type_ids=types,
            source=source,
            weights=weights.by_step if weights else (),
        )
        return arrays, weights.by_sequence if weights else None

    def _of_sequences(
        self, output: str, rows: NDArray[np.float32], sequences: list[NDArray[np.int32]]
    ) -> list[NDArray[np.float32]]:
        """For each sequence its rows of an output, or its row where there is one; zeros for that of an empty one."""
        if self.program.rows(output) != "sequences":
            return cut(rows, sequences)
        rows[np.array([len(s) == 0 for s in sequences], bool)] = 0
        return list(rows)

    def _check_output(self, name: str) -> None:
        names = [known for known in self.program.outputs if not known.startswith("hidden_states.")]
        if name not in names:
            raise Error(f"this model has no output {name!r}; it has: {', '.join(names)}")


def _numbered(outputs: Sequence[str], name: str) -> list[str]:
    """name.0, name.1, ...: as many as there are."""
    return [f"{name}.{i}" for i in range(sum(output.startswith(f"{name}.") for output in outputs))]
