"""A checkpoint, opened: text in, vectors, labels and text out. The work is done in `tasks` and `generation`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkv.arrays import ArrayModel

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from qkv.generation.options import GenerateArguments
    from qkv.generation.prompts import Prompt
    from qkv.generation.state import State
    from qkv.generation.streamer import Streamer
    from qkv.tasks.score import Score, Text


class Model(ArrayModel):
    """A model ready to run. Made by `qkv.load`; safe to use from several Python threads.

    Attributes:
        model_type: which architecture it is, e.g. "bert".
        config: the checkpoint's configuration, in its own spelling.
        tokenizer: a `tokenizers.Tokenizer`, or None when the checkpoint has none.
        labels: names of the classes that a classifier's logits are for; empty for other models.
        dtype: of the weight matrices, "float32", "bfloat16", "int8" or "int4".
        nbytes: bytes of all weights in memory.
        program, encoder, kv_dtype, num_threads, context_length, kv_cache_bytes, kv_pool: see `Runner`.
    """

    def encode(
        self,
        texts: str | Sequence[str],
        batch_size: int = 32,
        normalize_embeddings: bool = False,
        show_progress_bar: bool | None = None,
    ) -> NDArray[np.float32]:
        """Embeddings of texts, [n, hidden_size] float32 ([hidden_size] for a single string).

        Pooled as the checkpoint's modules.json says (the mean of all tokens without one) and normalised to length
        1 if it says so or `normalize_embeddings` is set. Texts beyond the model's length are cut, as
        sentence-transformers does. Batches are made of texts of similar length; the order of the result is that of
        `texts`. `show_progress_bar` None: on a terminal, for more than four batches.

        Raises:
            qkv.Error: there is no tokenizer, or an argument is not what it should be.
        """
        from qkv.tasks.embed import encode

        return encode(self, texts, batch_size, normalize_embeddings, show_progress_bar)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        streamer: Streamer | None = None,
        stream: bool = False,
        progress: Callable[[int, int], object] | None = None,
        **options: Unpack[GenerateArguments],
    ) -> Any:
        """Continue a prompt, or many as one continuous batch. A model with an encoder and a decoder reads the prompt
        with the encoder; the text is what the decoder makes of it.

            model.generate("Once upon a time", max_new_tokens=100)
            model.generate(prompts, do_sample=True, temperature=0.8, top_p=0.9, seed=1)
            model.generate("Good morning.", num_beams=4, num_return_sequences=2)

        A prompt's text has the same bits whatever the others in the batch, the number of threads, and what was cached.

        Args:
            prompts: a text, a list of texts, one list of token ids or a list of such lists. A prompt without any
                tokens starts from the model's beginning-of-sequence token.
            streamer: for a single prompt, a function called with each piece of new text, or an object with `put`
                and `end` as in Hugging Face: it gets the token ids that the decoder starts from (the prompt's, without
                an encoder), then each new one, as int64 [n].
            stream: for a single prompt, return an iterator over pieces of text instead. Pieces end between
                characters and never hold a part of a stop string; joined they are the text. The work happens as
                the iterator is read, and closing or dropping it ends the work.
            progress: called with (prompts that are done, prompts) each time one is.
            options: Hugging Face's names and meanings: see `qkv.generation.Options`. What is not given is what the
                checkpoint's generation_config.json says.

        Returns:
            a `Generation` for one prompt, a list of them for a list; with num_return_sequences > 1 a list, best
            first, in the place of each; an iterator of str with `stream`.

        Raises:
            qkv.Error: an option is unknown or not what it should be, a prompt does not fit the model or its KV cache,
                the model is not a decoder, or its logits are not finite.
        """
        from qkv.generation.loop import generate

        return generate(self, prompts, streamer=streamer, stream=stream, progress=progress, **options)

    def load_state(self, path: str | Path) -> State:
        """A conversation that `State.save` wrote, in this process or another, with this model.

        Raises:
            qkv.CheckpointError: it is no saved state, damaged, or of another model.
            qkv.Error: its keys and values do not fit beside those in use.
        """
        from qkv.generation.state import State

        return State.load(path, self)

    def score(
        self,
        texts: Sequence[Text | tuple[Text, Text]],
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> list[Score]:
        """How likely the model finds texts: a `Score` for each, with the log probabilities of its tokens.

            model.score(["The sky is blue."])[0].perplexity
            max(model.score([("The sky is", " blue"), ("The sky is", " a fish")]), key=lambda score: score.total)

        What is scored does not depend on the others in the list.

        - A decoder scores all tokens of a text but the first, which has nothing before it, as Hugging Face's loss does.
          Of a pair (context, text) it scores the second part. The two are tokenised together, and spaces at the
          context's end go to the text, as lm-evaluation-harness does it. An empty context stands for the token that
          begins texts, or else the one that ends them: ("", text) scores all tokens.
        - An encoder with a decoder takes pairs (source, target), and scores the target with the special tokens that the
          tokenizer adds to it, as Hugging Face's loss for labels does. Where a target has a vocabulary of its own, or a
          language's token, give token ids.
        - A masked language model gives pseudo-log-likelihoods (Salazar et al. 2020): each token that is not special is
          masked in a copy of its text. A text of n tokens takes n runs of its length.

        Args:
            texts: texts, pairs of them as tuples, or lists of token ids in the place of either; the tokenizer's special
                tokens are added to texts, and to no ids. (Of a pair's two texts, not behind them.)
            progress: called with (tokens that are scored, all of them) after each run.

        Raises:
            qkv.Error: there is nothing to score in a text, it is too long, it is not what the model needs, the model
                has no head that predicts tokens, or text is given and there is no tokenizer.
        """
        from qkv.tasks.score import score

        return score(self, texts, progress)

    def perplexity(
        self,
        text: Text,
        *,
        stride: int | None = None,
        window: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> float:
        """exp of minus the mean log probability of a text's tokens, for texts of any length: of a text that does not
        fit the window, each next `stride` tokens are scored in a window that ends with them.

        As Hugging Face's page on the perplexity of fixed-length models does it, but the mean is over exactly those
        tokens that are scored: all but the first, where windows overlap.

        Args:
            text: text, or token ids. The tokenizer's special tokens are added to text.
            stride: tokens, 1 to `window`; half of it by default. Shorter strides give tokens more context and take
                longer.
            window: tokens that the model reads at once; by default all that it takes.
            progress: as in `score`.

        Raises:
            qkv.Error: the model is no decoder, the text has fewer than two tokens, an argument is out of range, or text
                is given and there is no tokenizer.
        """
        from qkv.tasks.score import perplexity

        return perplexity(self, text, stride, window, progress)
