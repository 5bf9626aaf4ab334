"""From config.json to a plan: the model's own graph is built and lowered, with sizes in the place of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from qkv import _ext, models
from qkv.checkpoint import Config
from qkv.checkpoint.config import LIMIT
from qkv.checkpoint.folder import parse_object
from qkv.checkpoint.hub import locate_config
from qkv.checkpoint.quantised import refuse_quantised_config
from qkv.errors import CheckpointError, Error
from qkv.graph import CacheShape, Graph, Lowered, Tensor
from qkv.graph.lower import arrange, assemble
from qkv.loading import DTYPES, KV_DTYPES
from qkv.machine import available_memory, default_threads
from qkv.planning.result import KVPlan, Plan, WeightPlan
from qkv.planning.sizes import PlannedPacker, PlannedProgram
from qkv.planning.tensors import PlannedTensors, PlannedWeights
from qkv.source import SOURCE_TOKENS

# Tokens of a prompt that go through the model in one run, which its buffers are made for.
_RUN_TOKENS = 512


@dataclass(frozen=True)
class Outline:
    """A lowered model without its weights.

    Attributes:
        parameters: values of all tensors.
        nodes: the fused graph, inputs before users.
        packer: knows the sizes of weights, of the type that it was made for.
        lowered: its programs hold no steps.
    """

    parameters: int
    nodes: list[Tensor]
    packer: PlannedPacker
    lowered: Lowered

    def page_nbytes(self, kv_dtype: str) -> int:
        """Of the keys and values of a page of tokens, and of as many source tokens."""
        shapes = [shape for shape in (self.lowered.cache, self.lowered.source_cache) if shape]
        return sum(page_nbytes(shape, kv_dtype) for shape in shapes)


def plan(
    path_or_id: str | Path,
    *,
    prompt_tokens: int | None = None,
    measure: bool = True,
    num_threads: int | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Plan:
    """What a model takes on this machine, from its config.json alone: no weights are needed, downloaded or allocated.

    That is its parameters, the bytes of its weights and of its KV cache, how much of its context fits in memory, and
    how fast it can be.

    Args:
        path_or_id: folder with a config.json, a JSON file, or "owner/name" on the hub.
        prompt_tokens: speeds are of a prompt this long (for an encoder and decoder: of a source text), and of the
            tokens after it; by default 512, or the context where it is shorter.
        measure: measure the machine's ceilings, which takes a second or two; without that there are no speeds.
        num_threads: threads of a run; by default the physical cores that this process may use.
        revision, token, cache_dir, local_files_only: as in `qkv.load`.

    Raises:
        qkv.CheckpointError, qkv.UnsupportedArchitecture: what the configuration says is refused, as `qkv.load` does.
        qkv.Error: an argument is out of range.
    """
    file = locate_config(
        path_or_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
    )
    raw = _read(file)
    refuse_quantised_config(raw, file)
    architecture = models.architecture(raw.get("model_type"), str(file))
    config = architecture.Config.from_dict(raw, str(file))
    context: int | None = config.context_length
    most = LIMIT if context is None else context
    outlines = {dtype: outline(architecture, config, raw, dtype) for dtype in DTYPES if dtype != "auto"}
    some = next(iter(outlines.values()))
    memory = available_memory()
    found = Plan(
        file=str(file),
        model_type=str(raw["model_type"]),
        parameters=some.parameters,
        context_length=context,
        weights={dtype: _weights(outlined, context, memory) for dtype, outlined in outlines.items()},
        kv_cache=_kv_cache(some, context),
        memory_available=memory,
        prompt_tokens=_in_range("prompt_tokens", prompt_tokens, min(512, most), most),
        threads=_in_range("num_threads", num_threads, default_threads(), 1024),
    )
    fits = any(of.context_that_fits for of in found.weights.values())
    return _with_speeds(found, outlines) if measure and fits else found


def outline(architecture: ModuleType, config: Config, raw: dict[str, Any], dtype: str) -> Outline:
    """The model that `qkv.load` would make, without its weights; in some milliseconds, and memory for names alone."""
    tensors = PlannedTensors(Path(config.where).parent, raw, config)
    graph, packer = Graph(), PlannedPacker(dtype)
    architecture.build(graph, config, PlannedWeights(tensors))
    nodes = arrange(graph, packer)
    lowered = assemble(nodes, graph.outputs, packer, "auto", lambda: cast(_ext.Program, PlannedProgram()))
    return Outline(tensors.parameters, nodes, packer, lowered)


def page_nbytes(shape: CacheShape, kv_dtype: str) -> int:
    return _ext.page_nbytes(shape.layers, shape.kv_heads, shape.head_dim, kv_dtype)


def _read(file: Path) -> dict[str, Any]:
    try:
        return parse_object(file.read_bytes(), file)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error


def _in_range(name: str, value: int | None, default: int, most: int) -> int:
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise Error(f"plan: {name} must be an integer from 1 to {most}, not {value!r}")
    return value


def _weights(outlined: Outline, context: int | None, memory: int) -> WeightPlan:
    nbytes, lowered = outlined.packer.nbytes, outlined.lowered
    runs = [(lowered.program, _RUN_TOKENS)] + ([(lowered.encoder, SOURCE_TOKENS)] if lowered.encoder else [])
    if lowered.cache:  # a prompt goes through the model in runs
        buffers = max(min(context or most, most) * _token_nbytes(program) for program, most in runs)
        fits = (memory - nbytes - buffers) // outlined.page_nbytes(lowered.kv_dtype) * _ext.page_tokens
    else:
        fits = (memory - nbytes) // _token_nbytes(lowered.program)
    fits = max(0, fits)
    return WeightPlan(nbytes, lowered.kv_dtype, fits if context is None else min(fits, context))


def _token_nbytes(program: _ext.Program) -> int:
    return cast(PlannedProgram, program).token_nbytes


def _kv_cache(outlined: Outline, context: int | None) -> dict[str, KVPlan] | None:
    cache, source = outlined.lowered.cache, outlined.lowered.source_cache
    if cache is None:
        return None
    return {
        dtype: KVPlan(
            token_nbytes=page_nbytes(cache, dtype) // _ext.page_tokens,
            source_token_nbytes=page_nbytes(source, dtype) // _ext.page_tokens if source else None,
            sequence_nbytes=-(-context // _ext.page_tokens) * outlined.page_nbytes(dtype) if context else None,
        )
        for dtype in KV_DTYPES
        if dtype != "auto"
    }


def _with_speeds(found: Plan, outlines: Mapping[str, Outline]) -> Plan:
    # Here, because qkv.bench imports what `import qkv` should not wait for.
    from qkv.bench import CEILINGS, Machine
    from qkv.planning.speed import speeds

    machine = Machine(found.threads, quick=True)
    ceilings = {of: machine.steady_ceiling(of) for of in CEILINGS}
    weights = {}
    for dtype, of in found.weights.items():
        if of.context_that_fits == 0:  # no speed is to be expected of what can't run
            weights[dtype] = of
            continue
        prompt, new_tokens = speeds(outlines[dtype], found.prompt_tokens, ceilings)
        weights[dtype] = replace(of, prompt=prompt, new_tokens=new_tokens)
    in_cache = min(of.nbytes for of in weights.values()) < machine.cache_bytes
    return replace(found, weights=weights, ceilings=ceilings, in_cache=in_cache)
