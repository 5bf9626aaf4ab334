"""Texts that quote from their prompt, and a GPT-2 that writes them.

Models with random weights do not quote. What prompt lookup gains depends on the text, which says how many guesses are
right, and on the time of the model's runs, which does not depend on the values of its weights. So the texts are
given, and a GPT-2 of true size is led to write them: to the row of each position the embedding of the token to be
written there is added, so strongly that all layers, which run in full, change nothing about the choice.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors.numpy import load_file, save_file

SCENE = Path(__file__).parent.parent / "tests/data/shakespeare-validation.txt"
SCENE_CHARACTERS, CORRECTED_CHARACTERS = 2640, 1000
SUMMARY = """

In short: Petruchio comes to Baptista and asks at once whether he has not a daughter "Call'd Katharina, fair and
virtuous". Baptista answers: "I have a daughter, sir, called Katharina." Gremio finds him too blunt, but he goes on:

I am a gentleman of Verona, sir,
That, hearing of her beauty and her wit,
Her affability and bashful modesty,
Her wondrous qualities and mild behavior,
Am bold to show myself a forward guest
Within your house

As a gift he brings a teacher, "Cunning in music and the mathematics", of whom he says: "His name is Licio, born in
Mantua." Baptista makes the man welcome, yet he warns the suitor that "She is not for your turn, the more my grief."
Asked where he comes from, the guest answers:

Petruchio is my name; Antonio's son,
A man well known throughout all Italy.

Then Gremio, who doubts that this will end well, offers a teacher of his own, a scholar

that hath been long studying at Rheims; as cunning
in Greek, Latin, and other languages, as the other
in music and mathematics: his name is Cambio

Baptista accepts this one as well: "A thousand thanks, Signior Gremio. Welcome, good Cambio."
"""


def texts() -> dict[str, tuple[list[int], list[int]]]:
    """Name -> token ids of the prompt, a scene, and of what is to be written. A token is a word with the space before
    it, as GPT-2's tokenizer has it for common words."""
    scene = SCENE.read_text(encoding="utf-8")[:SCENE_CHARACTERS]
    corrected = scene[:CORRECTED_CHARACTERS].replace("Katharina", "Kate").replace("sir", "madam").replace("Am", "I am")
    numbers: dict[str, int] = {}

    def ids(text: str) -> list[int]:
        return [numbers.setdefault(word, len(numbers)) for word in re.findall(r" ?\w+|\W", text)]

    return {"summary that quotes": (ids(scene), ids(SUMMARY)), "corrected copy": (ids(scene), ids(corrected))}


def write_quoting_gpt2(checkpoint: Path, folder: Path, ids: Sequence[int]) -> None:
    """A copy of a GPT-2 checkpoint in `folder`: whatever it reads up to position p, it goes on with ids[p + 1]."""
    tensors = load_file(checkpoint / "model.safetensors")
    embeddings, positions = tensors["transformer.wte.weight"], tensors["transformer.wpe.weight"]
    following = embeddings[list(ids[1:])]
    positions[: len(following)] = following / following.std()  # its residual stream grows to about 1
    save_file(tensors, folder / "model.safetensors")
    shutil.copy(checkpoint / "config.json", folder)
