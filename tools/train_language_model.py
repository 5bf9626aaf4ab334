"""Train the small language model that ships with the package.

    python tools/train_language_model.py --text tinyshakespeare.txt --out folder

The result is a plain Hugging Face folder: a LLaMA model in bfloat16 and its own
byte-level BPE tokenizer, both learnt from the first 90 % of the text alone. The
last 10 % only chooses the checkpoint that is kept and measures it;
docs/language-model.md defines that measure.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy, dropout
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

TRAIN_FRACTION = 0.9
VALIDATION_WINDOW = 256  # tokens
END_OF_TEXT, END_OF_TEXT_ID = "<|endoftext|>", 0  # as in GPT-2: begins a text as well
CONFIG = LlamaConfig(
    vocab_size=1024,
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
    max_position_embeddings=512,
    tie_word_embeddings=True,
    bos_token_id=END_OF_TEXT_ID,
    eos_token_id=END_OF_TEXT_ID,
)


@dataclass(frozen=True)
class Recipe:
    """How the model is trained."""

    steps: int = 1500
    batch: int = 4  # windows in a step
    window: int = CONFIG.max_position_embeddings  # tokens
    matrix_rate: float = 4e-3  # peak learning rate of Muon
    other_rate: float = 2e-3  # peak learning rate of AdamW
    warmup_steps: int = 50
    weight_decay: float = 0.1  # of matrices
    dropout: float = 0.1
    whole_speeches: float = 0.1  # share of windows that begin where a speech begins
    evaluate_every: int = 125  # steps
    seed: int = 1


def split(text: str) -> tuple[str, str]:
    """Return the training part and the validation part, by position."""
    cut = int(TRAIN_FRACTION * len(text))
    return text[:cut], text[cut:]


def train_tokenizer(text: str) -> Tokenizer:
    """Learn a byte-level BPE: all 256 bytes are entries, so it encodes any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG.vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def add_dropout(model: LlamaForCausalLM, probability: float) -> None:
    """Drop elements of all that enters the residual stream.

    LLaMA has no dropout there, but this small corpus is seen again and again and would
    be learnt by heart. A hook leaves the saved architecture as it is.
    """

    def drop(module: torch.nn.Module, args: object, output: Tensor) -> Tensor:
        return dropout(output, probability, training=module.training)

    for name, module in model.named_modules():
        if name.endswith(("embed_tokens", "o_proj", "down_proj")):
            module.register_forward_hook(drop)


def batches(tokens: Tensor, newline: int, recipe: Recipe) -> Iterator[Tensor]:
    """Yield random windows, [batch, window + 1], without end.

    Most start anywhere. The others start with a speech, preceded by the
    end-of-text token, which so learns to stand for "nothing came before".
    """
    last = len(tokens) - recipe.window - 1
    is_newline = tokens[:last] == newline
    blank_lines = (is_newline[1:] & is_newline[:-1]).nonzero().flatten() + 1
    while True:
        begins_speech = torch.rand(recipe.batch) < recipe.whole_speeches
        anywhere = torch.randint(last, (recipe.batch,))
        at_speech = blank_lines[torch.randint(len(blank_lines), (recipe.batch,))]
        starts = torch.where(begins_speech, at_speech, anywhere)
        windows = tokens[starts[:, None] + torch.arange(recipe.window + 1)]
        windows[begins_speech, 0] = END_OF_TEXT_ID
        yield windows


def next_token_loss(model: LlamaForCausalLM, windows: Tensor, reduction: str = "mean") -> Tensor:
    """Return the negative log-likelihood, in nats, of all tokens but each window's first."""
    logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction=reduction)


@torch.no_grad()
def validation_loss(model: LlamaForCausalLM, tokens: Tensor) -> float:
    """Return the mean loss per predicted token, in nats, over consecutive separate windows."""
    model.eval()
    windows = [window for window in tokens.split(VALIDATION_WINDOW) if len(window) > 1]
    total = sum(next_token_loss(model, window[None], "sum").item() for window in windows)
    model.train()
    return total / (len(tokens) - len(tokens.split(VALIDATION_WINDOW)))


def optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the layers, AdamW for embedding and norms.

    Muon takes the orthogonal factor of the momentum as its step
    (https://kellerjordan.github.io/posts/muon/), which makes sense only for a matrix that
    maps one space to another. Here it needs far fewer steps than AdamW.
    """
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(
            matrices,
            lr=recipe.matrix_rate,
            weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.99), weight_decay=0.0),
    ]


def share_of_peak_rate(step: int, recipe: Recipe) -> float:
    """Return how far the learning rates are up at `step`: linear warm-up, cosine to zero."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))


def train(model: LlamaForCausalLM, data: Iterator[Tensor], validation: Tensor, recipe: Recipe) -> None:
    """Train `model` in place; it ends with the weights of the best validation loss."""
    steppers = optimizers(model, recipe)
    rates = [LambdaLR(stepper, lambda i: share_of_peak_rate(i, recipe)) for stepper in steppers]
    best, best_weights = math.inf, model.state_dict()
    running, start = 0.0, time.monotonic()
    model.train()
    for step in range(1, recipe.steps + 1):
        loss = next_token_loss(model, next(data))
        model.zero_grad()
        loss.backward()
        for stepper, rate in zip(steppers, rates, strict=True):
            stepper.step()
            rate.step()
        running += loss.item() / recipe.evaluate_every
        if step % recipe.evaluate_every == 0:
            held_out = validation_loss(model, validation)
            elapsed = time.monotonic() - start
            print(
                f"step {step:5d}  train {running:.4f}  validation {held_out:.4f}  "
                f"{elapsed / 60:.1f} of {elapsed / 60 * recipe.steps / step:.1f} min",
                flush=True,
            )
            running = 0.0
            if held_out < best:
                best = held_out
                best_weights = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(best_weights)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Write the Hugging Face folder, weights as bfloat16."""
    model.generation_config = GenerationConfig(
        bos_token_id=END_OF_TEXT_ID, eos_token_id=END_OF_TEXT_ID, do_sample=True, temperature=0.8
    )
    model.to(torch.bfloat16).save_pretrained(out)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=CONFIG.max_position_embeddings,
    ).save_pretrained(out)


def report(folder: Path, validation_text: str) -> None:
    """Measure what was saved, as anyone who loads the folder would."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = tokenizer(validation_text, return_tensors="pt", verbose=False).input_ids[0]
    loss = validation_loss(model, tokens)
    per_character = loss * len(tokens) / len(validation_text)
    print(f"parameters            {model.num_parameters():,}")
    print(f"validation tokens     {len(tokens):,} of {len(validation_text):,} characters")
    print(f"validation loss       {loss:.4f} nats per token (perplexity {math.exp(loss):.2f})")
    print(f"                      {per_character / math.log(2):.4f} bits per character")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the small language model of the package.")
    parser.add_argument("--text", type=Path, required=True, help="a UTF-8 text file")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    recipe = Recipe()
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(arguments.threads)
    train_text, validation_text = split(arguments.text.read_text(encoding="utf-8"))
    tokenizer = train_tokenizer(train_text)
    tokens = torch.tensor(tokenizer.encode(train_text).ids)
    validation = torch.tensor(tokenizer.encode(validation_text).ids)

    model = LlamaForCausalLM(CONFIG)
    add_dropout(model, recipe.dropout)
    windows = batches(tokens, tokenizer.encode("\n").ids[0], recipe)
    train(model, windows, validation, recipe)
    save(model, tokenizer, arguments.out)
    report(arguments.out, validation_text)


if __name__ == "__main__":
    main()
