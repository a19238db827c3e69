"""The warnings' texts: what was seen, what comes of it, and what to do instead."""

from ._value import OTHERS, PAIRS, TOTALS

_FLAX, _COUPLED = "docs/how-to/flax.md", "docs/how-to/contrastive.md"
# What takes a model as it is, and does it right.
_WHOLE = "ksam_jax.nnx.loss (of Flax NNX; likewise ksam_jax.linen and ksam_jax.equinox)"
EXAMPLE = "per_example(example_loss): example_loss"

NO_STATISTICS = (
    "normalizes by BatchNorm in training mode with the statistics of one example, as it "
    "sees no other: what comes out says little or nothing of what went in, and the layers "
    f"before hardly learn; hand the model to {_WHOLE}, or write a batch-level loss with "
    f"has_aux, (params, batch) -> (losses of shape (N,), statistics), as in "
    f"{_FLAX}#nnx-with-batchnorm, or take GroupNorm or LayerNorm, or BatchNorm in "
    "evaluation mode."
)
FIXED_KEY = (
    "draws random numbers from a key that is a constant of the compiled step, so that "
    "every step draws the same ones, one dropout mask for ever; if they are meant to stay "
    "the same (random features, signs or phases), nothing is wrong: draw them outside of "
    f"the loss, or silence this by a filter; else hand the model to {_WHOLE}, or make keys "
    "anew in each step, and put one per example into the batch, "
    f'batch["key"] = jax.random.split(key, N) (see {_FLAX}#dropout).'
)
DRAWN_TOGETHER = (
    'draws from keys of "rbg" or "unsafe_rbg", one for each row, and what these draw '
    "depends on the others that are run beside them, so that a row that is chosen, or in "
    "another microbatch, draws other numbers (another dropout mask); make them with "
    'jax.random.key(seed, impl="threefry2x32"), or put keys of jax.random.key into the '
    "batch, where they are remade."
)
KEY_OF_THE_BATCH = {
    "per_example": (
        "draws random numbers from a key that doesn't depend on the example, so that all "
        "examples get the same ones, one dropout mask for the whole batch; hand the model "
        f"to {_WHOLE}, or put a key per example into the batch, "
        'batch["key"] = jax.random.split(key, N), and draw from example["key"], as in '
        f"{_FLAX}#dropout."
    ),
    "batch": (
        "draws random numbers for the rows from a key that doesn't depend on them, and "
        "{runs} run without the others, where they draw other ones (another dropout mask); "
        f"hand the model to {_WHOLE}, or put a key per example into the batch, "
        'batch["key"] = jax.random.split(key, N), '
        f"and draw each row's from its own by jax.vmap, as in {_FLAX}#dropout."
    ),
}
_HOW = {
    PAIRS: "compares rows of the batch with each other (a contrastive loss, say)",
    TOTALS: "takes a sum or mean over the rows, or the largest, into the loss of each",
    OTHERS: "takes other rows into the loss of a row (rolled, sorted or picked by number)",
}


def coupled(how: str, call: str, runs: str) -> str:
    """Of losses that depend on who else is in the batch."""
    return (
        f"{_HOW[how]}, and {call} runs {runs} without the others, where their losses "
        f"aren't those of the batch: the step descends on another function; put what a row "
        f"is compared with into its example, or take a method that runs the whole batch, "
        f"such as sam or momentum_sam, without num_microbatches. See {_COUPLED}."
    )
