"""What a training step costs: XLA's own count of floating-point operations.

With a forward pass of 1 and a backward pass of 2 per example, and k the chosen share:
SGD 3, SAM 6, K-SAM 1 + 5k shared and 1 + 6k recomputing, ESAM 5 at gamma = 1/2 with the
second forward pass shared. Without an ascent pass: Momentum-SAM 3, on the highest losses
1 + 2k shared and 1 + 3k recomputing. Choosing by remembered losses takes no forward pass:
K-SAM 6k, on the momentum climb 3k.

Measured ratios lie a little above these: the first layer needs no gradient of its input,
so the backward pass is below 2, and norms, masks and selections aren't free.
"""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from problems import batched, cnn, mean_loss, on_one_worker, quick_jit, updater, vit

import ksam_jax

BATCH = 64
TOKENS, WIDTH, DEPTH, PATCH = 16, 64, 2, 12
WIDTHS = (32, 64, 64)

PROBLEMS = {
    "vit": functools.partial(
        vit, n=BATCH, tokens=TOKENS, width=WIDTH, depth=DEPTH, heads=4, patch=PATCH
    ),
    "cnn_group_norm": functools.partial(cnn, n=BATCH, widths=WIDTHS),
}


def slowly_on_the_vit(name, *values):
    """It takes as long to compile as all the others."""
    return on_one_worker(name, *values, slow=name == "vit")


models = pytest.mark.parametrize("model", [slowly_on_the_vit(m) for m in PROBLEMS])
BASE = optax.sgd(0.1, momentum=0.9)


def also_on_the_cnn(everywhere, other):
    """Every model with the one keep; with the other the model that compiles sooner."""
    cases = [slowly_on_the_vit(model, everywhere) for model in PROBLEMS]
    cases.append(on_one_worker("cnn_group_norm", other, slow=True))
    return pytest.mark.parametrize(("model", "keep"), cases)


def operations(step, *arguments):
    """XLA's count for a compiled function (fewer LLVM optimizations don't change it)."""
    shapes = jax.eval_shape(lambda: arguments)
    analysis = quick_jit(step).lower(*shapes).compile().cost_analysis()
    assert analysis is not None
    return analysis["flops"]


@functools.cache
def sgd(model):
    problem = PROBLEMS[model]()
    gradient = jax.grad(mean_loss(batched(problem.example_loss)))

    def step(params, state, batch):
        updates, state = BASE.update(gradient(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    state = BASE.init(problem.params)
    return operations(step, problem.params, state, problem.batch)


def sharpness_aware(model, method, keep):
    problem = PROBLEMS[model]()
    loss_fn = batched(problem.example_loss)
    if keep is not None:
        loss_fn = ksam_jax.per_example(problem.example_loss, keep=keep)
    tx = optax.chain(method, BASE)
    update = updater(tx, loss_fn)

    def step(params, state, batch):
        updates, state = update(state, params, batch)
        return optax.apply_updates(params, updates), state

    state = tx.init(problem.params)
    return operations(step, problem.params, state, problem.batch)


def test_the_count_sees_the_matrix_products_of_the_vit():
    layers = DEPTH * (12 * WIDTH * WIDTH + 2 * TOKENS * WIDTH)
    first = PATCH * WIDTH * 2 / 3  # without the gradient of its input
    products = 6 * BATCH * TOKENS * (layers + first)
    assert 1.0 < sgd("vit") / products < 1.1


def test_the_count_sees_the_convolutions_of_the_cnn():
    # Multiplications by the padding aren't counted: 22 of 24 taps per axis are inside
    # an 8x8 image, 11 of 12 at stride 2, 10 of 12 inside a 4x4 one.
    first = 64 * (22 / 24) ** 2 * 9 * 2 * WIDTHS[0] * 2 / 3
    second = 16 * (11 / 12) ** 2 * 9 * WIDTHS[0] * WIDTHS[1]
    third = 16 * (10 / 12) ** 2 * 9 * WIDTHS[1] * WIDTHS[2]
    products = 6 * BATCH * (first + second + third)
    assert 1.0 < sgd("cnn_group_norm") / products < 1.1


# The lower limits are there so that a count that misses something can't pass.


@also_on_the_cnn("all", "matmuls")
def test_k_sam_with_a_shared_forward_pass_costs_at_most_077_of_sgd(model, keep):
    count = sharpness_aware(model, ksam_jax.k_sam(k=0.25), keep)
    assert 0.74 < count / sgd(model) <= 0.77


@also_on_the_cnn("nothing", None)
def test_k_sam_recomputing_costs_at_most_085_of_sgd(model, keep):
    count = sharpness_aware(model, ksam_jax.k_sam(k=0.25), keep)
    assert 0.82 < count / sgd(model) <= 0.85


@pytest.mark.parametrize(
    ("model", "keep"),
    [
        slowly_on_the_vit("vit", "all"),
        on_one_worker("cnn_group_norm", "all"),
        on_one_worker("cnn_group_norm", "matmuls", slow=True),
    ],
)
def test_esam_with_a_shared_forward_pass_costs_at_most_170_of_sgd(model, keep):
    count = sharpness_aware(model, ksam_jax.esam(gamma=0.5), keep)
    assert 1.65 < count / sgd(model) <= 1.70


@also_on_the_cnn("all", "matmuls")
def test_k_momentum_sam_with_a_shared_forward_pass_costs_at_most_052_of_sgd(model, keep):
    count = sharpness_aware(model, ksam_jax.k_momentum_sam(k=0.25, decay=0.9), keep)
    assert 0.49 < count / sgd(model) <= 0.52


@also_on_the_cnn("nothing", None)
def test_k_momentum_sam_recomputing_costs_at_most_060_of_sgd(model, keep):
    count = sharpness_aware(model, ksam_jax.k_momentum_sam(k=0.25, decay=0.9), keep)
    assert 0.57 < count / sgd(model) <= 0.60


@models
def test_momentum_sam_costs_at_most_101_of_sgd(model):
    count = sharpness_aware(model, ksam_jax.momentum_sam(decay=0.9), None)
    assert 0.99 < count / sgd(model) <= 1.01


def remembered():
    return ksam_jax.highest_remembered_loss(0.25, 50_000, lambda _: jnp.arange(BATCH))


@models
def test_k_sam_on_remembered_losses_costs_at_most_052_of_sgd(model):
    chosen, climb = remembered(), ksam_jax.scale_to_radius(0.05)
    method = ksam_jax.sharpness_aware(climb, ascent=chosen, descent=chosen)
    assert 0.49 < sharpness_aware(model, method, None) / sgd(model) <= 0.52


@models
def test_the_momentum_climb_on_remembered_losses_costs_at_most_027_of_sgd(model):
    method = ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(0.3),
        ascent=ksam_jax.past_descent(0.9),
        descent=remembered(),
    )
    assert 0.24 < sharpness_aware(model, method, None) / sgd(model) <= 0.27


@models
def test_sam_costs_at_most_202_of_sgd_and_no_more_than_optax_sam(model):
    problem = PROBLEMS[model]()
    gradient = jax.grad(mean_loss(batched(problem.example_loss)))
    climb = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    tx = optax.contrib.sam(BASE, climb, opaque_mode=True)

    def step(params, state, batch):
        updates, state = tx.update(
            gradient(params, batch),
            state,
            params,
            grad_fn=lambda perturbed, _: gradient(perturbed, batch),
        )
        return optax.apply_updates(params, updates), state

    state = tx.init(problem.params)
    theirs = operations(step, problem.params, state, problem.batch)
    ours = sharpness_aware(model, ksam_jax.sam(), None)
    assert 1.98 < ours / sgd(model) <= 2.02
    # What `info` reports (two losses, two norms, an angle) is all that we add.
    assert ours <= 1.002 * theirs


@pytest.mark.xdist_group("cnn_group_norm")
def test_a_random_quarter_for_the_ascent_costs_a_quarter_more_than_sgd():
    count = sharpness_aware("cnn_group_norm", ksam_jax.random_sam(m=0.25), None)
    assert 1.24 < count / sgd("cnn_group_norm") <= 1.26


@pytest.mark.xdist_group("cnn_group_norm")
def test_a_gradient_that_the_caller_has_isnt_computed_again():
    problem = PROBLEMS["cnn_group_norm"]()
    tx = optax.chain(ksam_jax.sam(), BASE)
    update = updater(tx, batched(problem.example_loss))
    given = operations(
        update, tx.init(problem.params), problem.params, problem.batch, problem.params
    )
    assert 0.98 < given / sgd("cnn_group_norm") <= 1.01


READS = {
    "sam": ksam_jax.sam,
    "k_sam": functools.partial(ksam_jax.k_sam, k=0.25),
    "k_momentum_sam": functools.partial(ksam_jax.k_momentum_sam, k=0.25),
    "f_sam": ksam_jax.f_sam,
}


def dense():
    """Parameters, images and logits of an MLP."""
    params = {"a": jnp.ones((784, 256)), "b": jnp.ones((256, 10))}
    return params, jnp.ones((64, 784)), lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]


def convolutional():
    """The same of two convolutions."""
    params = {"a": jnp.ones((3, 3, 3, 64)), "b": jnp.ones((3, 3, 64, 128))}
    names = "NHWC", "HWIO", "NHWC"

    def convolved(x, kernel):
        found = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=names
        )
        return jax.nn.relu(found)

    def logits(p, images):
        return convolved(convolved(images, p["a"]), p["b"]).mean((1, 2))

    return params, jnp.ones((4, 8, 8, 3)), logits


@functools.cache
def moved(method, info, network=dense):
    """What a step reads and writes by XLA's count, in sets of a network's weights."""
    params, images, logits_of = network()
    batch = images, jnp.zeros(len(images), jnp.int32)

    def loss_fn(params, batch):
        logits = logits_of(params, batch[0])
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch[1])

    tx = optax.chain(READS[method](info=info), BASE)
    update = updater(tx, loss_fn)

    def step(params, state, batch):
        updates, state = update(state, params, batch)
        return optax.apply_updates(params, updates), state

    shapes = jax.eval_shape(lambda: (params, tx.init(params), batch))
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*shapes).compile()
    analysis = compiled.cost_analysis()
    assert analysis is not None
    return analysis["bytes accessed"] / sum(4 * x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize("method", READS)
def test_the_norms_and_the_cosine_read_weights_and_gradients_and_copy_nothing(method):
    """Of the applied perturbation's norm two reads of all weights, of the descent
    gradient's one, of the cosine two. A copy of what is written next would be two more.
    """
    assert 3 < moved(method, "all") - moved(method, "losses") < 5.5


def test_gradients_of_convolutions_are_read_as_they_come():
    """They come transposed: what must have them in order makes copies, four to eight sets.
    Read once more for the largest number, and with the reads above.
    """
    more = moved("sam", "all", convolutional) - moved("sam", "losses", convolutional)
    assert 5 < more < 7


def test_the_average_of_f_sam_is_not_copied():
    """Its average is read twice and written, the difference written and read by two norms
    and two climbs; the gradient's norm is known, and so is that of its rounding.
    """
    assert 5 < moved("f_sam", "losses") - moved("sam", "losses") < 10.5
