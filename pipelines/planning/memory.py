"""How much memory a worker needs, by arithmetic on the model's shape: nothing is loaded.

The formulas are in the docstrings and below the table that `elder plan` prints; they estimate what dominates and
simulate nothing. Knows nothing of Ray or of the real machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from elder.pipelines.config.base import StagedConfig
from elder.pipelines.config.sections import KEPT_BELOW
from elder.pipelines.planning.memory_blocks import FORMULAS as BLOCK_FORMULAS
from elder.pipelines.planning.memory_blocks import block_bytes, block_parameters, keeps_blocks
from elder.pipelines.planning.memory_factors import FORMULAS as FACTOR_FORMULAS
from elder.pipelines.planning.memory_factors import TRAINING_FORMULAS, factor_bytes, is_trained, reads_factors
from elder.pipelines.planning.memory_texts import FORMULAS as TEXT_FORMULAS
from elder.pipelines.planning.memory_texts import keeps_texts, text_bytes
from elder.pipelines.planning.memory_tuning import FORMULAS as TUNING_FORMULAS
from elder.pipelines.planning.memory_tuning import fine_tunes, tuned_bytes
from elder.pipelines.planning.memory_values import FORMULAS as VALUE_FORMULAS
from elder.pipelines.planning.memory_values import keeps_values, value_bytes, value_parameters
from elder.pipelines.planning.memory_weights import FORMULAS as WEIGHT_FORMULAS
from elder.pipelines.planning.memory_weights import change_bytes, statistics_bytes, takes_statistics, value_rows
from elder.pipelines.planning.shapes import ModelShape
from elder.registry import editor_class

BYTES = {"float32": 4, "bfloat16": 2}
ADAPTER_BYTES = 16  # fp32 weight, gradient and two moments of Adam
PROMPT_TOKENS = 64  # assumed length of a prompt with its answer; real ones are known only after tokenising
HEADROOM = 0.9  # share of a device that may be planned for
SHARDINGS = ("none", "zero2", "zero3")


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one worker under one sharding.

    Attributes:
        sharding: none, zero2 or zero3.
        base: Frozen base weights held all the time: P x b, under zero3 P x b / W.
        gathered: Under zero3 the weights that are whole for a while: all of a small model (`KEPT_BELOW`), else the two
            largest neighbouring blocks or the embedding, whichever is more, x b.
        adapters: 16 bytes for each adapter parameter (fp32 weight, gradient, two Adam moments), on every worker; for
            other methods what `change_bytes`, `factor_bytes`, `block_bytes` and `value_bytes` say.
        training: Activations kept for the backward pass, see `training_bytes`.
        evaluation: KV cache and logits of one generation batch, see `evaluation_bytes`.
        statistics: Second moments of keys and what solving makes of them, see `statistics_bytes`.
    """

    sharding: str
    base: int
    gathered: int
    adapters: int
    training: int
    evaluation: int
    statistics: int = 0

    @property
    def total(self) -> int:
        """Peak: what is held, and the larger of training and evaluation, which never run together."""
        held = self.base + self.gathered + self.adapters + self.statistics
        return held + max(self.training, self.evaluation)


FORMULAS = (
    "base: parameters x bytes, under zero3 divided by the workers",
    "gathered: zero3 makes weights whole for a while: all of a small model, else two blocks or the largest embedding",
    "adapters: 16 bytes a trained parameter (fp32 weight, gradient, two Adam moments), on every worker",
    "training: rows x 64 tokens x (edited depth x (8 width + 3 inner) x bytes + 2 vocabulary x 4)",
    "evaluation: rows x ((64 + new tokens) x blocks x 2 key width x bytes + vocabulary x 4)",
    "total: base + gathered + adapters + statistics + the larger of training and evaluation",
)


NO_FORMULA = "adapters: not counted, no formula in pipelines/planning knows what this method holds"


def formulas(config: StagedConfig) -> tuple[str, ...]:
    """The terms that make up the figures of this config's method."""
    own: tuple[str, ...] = FORMULAS[2:3]
    if takes_statistics(config):
        own = WEIGHT_FORMULAS
    elif reads_factors(config):
        own = TRAINING_FORMULAS if is_trained(config) else FACTOR_FORMULAS
    elif keeps_blocks(config):
        own = BLOCK_FORMULAS
    elif keeps_values(config):
        own = VALUE_FORMULAS
    elif keeps_texts(config):
        own = TEXT_FORMULAS
    elif fine_tunes(config):
        own = TUNING_FORMULAS
    elif not trains_maps(config):
        own = (NO_FORMULA,)
    return (*FORMULAS[:2], *own, *FORMULAS[3:])


def estimate(config: StagedConfig, shape: ModelShape) -> tuple[MemoryEstimate, ...]:
    """The estimates for all shardings, in the order none, zero2, zero3."""
    workers = max(config.cluster.workers, 1)
    width = BYTES[config.model.dtype]
    whole = shape.parameters * width
    passing = max(2 * shape.block_parameters, shape.embedding_parameters)
    gathered = (shape.parameters if shape.parameters <= KEPT_BELOW else passing) * width
    blocks = len(edited_blocks(config, shape))
    if takes_statistics(config):
        adapters = change_bytes(config, shape, blocks)
    elif reads_factors(config):
        adapters = factor_bytes(config, shape, blocks)
    elif keeps_blocks(config):
        adapters = block_bytes(config, shape, blocks)
    elif keeps_values(config):
        adapters = value_bytes(config, shape)
    elif keeps_texts(config):
        adapters = text_bytes(config)
    elif fine_tunes(config):
        adapters = tuned_bytes(config, shape, blocks)
    else:
        adapters = adapter_parameters(config, shape) * ADAPTER_BYTES
    statistics = statistics_bytes(config, shape, blocks)
    training, evaluation = training_bytes(config, shape), evaluation_bytes(config, shape)
    found = []
    for sharding in SHARDINGS:
        sharded = sharding == "zero3" and workers > 1
        base = -(-whole // workers) if sharded else whole
        whole_now = gathered if sharded else 0
        found.append(MemoryEstimate(sharding, base, whole_now, adapters, training, evaluation, statistics))
    return tuple(found)


def edited_blocks(config: StagedConfig, shape: ModelShape) -> tuple[int, ...]:
    """The blocks that get an adapter: `editor.layers`, or the method's default; none of methods that edit no block."""
    layers = config.editor.options.get("layers")
    if layers:
        return tuple(layers)
    found: tuple[int, ...] = editor_class(config.editor.method).default_layers(shape.blocks)
    return found


def trains_maps(config: StagedConfig) -> bool:
    """Whether the method trains low-rank maps; its options show it, as for the other families."""
    return {"rank", "experts"} <= set(config.editor.options)


def adapter_parameters(config: StagedConfig, shape: ModelShape) -> int:
    """Trained parameters: for each edited block N x (r x (in + out)) and a router N x (query width + 1).

    Of methods that add blocks or values see `block_parameters`, `value_parameters`; none for methods that train no
    such maps.
    """
    options = config.editor.options
    if keeps_values(config):
        return value_parameters(config, shape)
    if keeps_blocks(config):
        return block_parameters(config, shape, len(edited_blocks(config, shape)))
    if not trains_maps(config):
        return 0
    target = options.get("target", "auto")
    out_edited = target == "mlp_out" or (target == "auto" and shape.gated)
    query = shape.inner if out_edited else shape.width
    experts, rank = int(options["experts"]), int(options["rank"])
    one = experts * rank * (shape.inner + shape.width) + experts * (query + 1)
    return one * len(edited_blocks(config, shape))


def training_bytes(config: StagedConfig, shape: ModelShape) -> int:
    """Activations of one backward pass: rows x tokens x (edited depth x (8 D + 3 I) x b + 2 V x 4).

    rows = edits in a batch x (2 prompts + prefixes) + replay, at most micro_batch, / W; tokens = 64 assumed; edited
    depth = blocks from the first edited one to the end, since the frozen part below is computed once without
    gradients; D width, I inner width of the MLP, V vocabulary, b bytes of a weight. Vocabulary logits are needed at
    answer positions only, so their term is an upper bound. Methods that write weights run `value_rows` through the
    blocks above the last edited one; those that edit no block keep no activations.
    """
    options = config.editor.options
    blocks = edited_blocks(config, shape)
    rows = config.stream.batch_size * (2 + int(options.get("prefixes", 0))) + int(options.get("replay", 0))
    rows = -(-min(rows, int(options.get("micro_batch") or rows)) // max(config.cluster.workers, 1))
    depth = shape.blocks - blocks[0] if blocks else 0
    if takes_statistics(config):
        rows, depth = value_rows(config), shape.blocks - 1 - blocks[-1]
    per_token = depth * (8 * shape.width + 3 * shape.inner) * BYTES[config.model.dtype] + 2 * shape.vocabulary * 4
    return rows * PROMPT_TOKENS * per_token


def evaluation_bytes(config: StagedConfig, shape: ModelShape) -> int:
    """Generation: rows x (tokens x blocks x 2 x K x b + V x 4); K = width of keys, tokens = 64 + max_new_tokens."""
    tokens = PROMPT_TOKENS + config.evaluation.max_new_tokens
    cache = tokens * shape.blocks * 2 * shape.key_width * BYTES[config.model.dtype]
    return config.evaluation.batch_size * (cache + shape.vocabulary * 4)


def recommend(estimates: tuple[MemoryEstimate, ...], workers: int, available: int | None) -> tuple[str, str]:
    """The sharding to use, and why.

    Args:
        estimates: From `estimate`.
        workers: Size of the group.
        available: Bytes of one worker's device; None when it is not known.

    Returns:
        `none` whenever the whole model fits, because it is the fastest and ZeRO-2 saves nothing while the base is
        frozen; otherwise `zero3`.
    """
    by_name = {item.sharding: item for item in estimates}
    if workers <= 1:
        return "none", "one worker has nobody to share the model with"
    if available is None:
        need = gib(by_name["none"].total / HEADROOM)
        return "none", f"fastest, needs devices of {need} GiB or more; with smaller ones use zero3"
    if by_name["none"].total <= HEADROOM * available:
        return "none", f"the whole model fits each worker's {gib(available)} GiB, and nothing is faster"
    if by_name["zero3"].total <= HEADROOM * available:
        return "zero3", f"the whole model does not fit each worker's {gib(available)} GiB, its shards do"
    return "zero3", f"even sharded it needs {gib(by_name['zero3'].total)} GiB of {gib(available)}: add workers"


def gib(count: float) -> str:
    """Bytes as GiB with as many digits as are useful."""
    value = count / 2**30
    return f"{value:.1f}" if value >= 1 else f"{value:.3f}"
