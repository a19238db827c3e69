"""Texts through the same harness as images: what comes out, and what is refused."""

import dataclasses
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import bert_oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import text_oracle as oracle
import tiny_tfds
from flax import nnx
from problems import quick_jit
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

import ksam_jax
from experiments import train
from experiments.data import augment, glue, preparation
from experiments.data.rows import Rows
from experiments.models import pure, zoo
from experiments.models.text import TextTransformer
from experiments.processes import sharded
from experiments.training.harness import job, programs
from experiments.training.harness.checkpoints import Checkpoints

pytestmark = pytest.mark.xdist_group("train")

WORDS = ("good", "great", "fine", "bad", "poor", "dull", "film", "plot", "it", "is", "an")
TRAIN, JUDGED, HELD_OUT, BATCH, EPOCHS = 20, 9, 4, 4, 2
STEPS = EPOCHS * ((TRAIN - HELD_OUT) // BATCH)
PACE = ("--log-every", "1", "--evaluate-every", "1", "--checkpoint-every", "3")
TINY = {
    "transformer": zoo.Architecture(
        "tiny transformer",
        functools.partial(zoo._transformer, width=6, depth=1, heads=2),
        reads="texts",
    ),
    "bert_tiny": zoo._bert("tiny BERT", 1, 64),
}
BERT = bert_oracle.CONFIG | {
    **{"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1},
    **{"intermediate_size": 10, "vocab_size": 50},
}
DATA = tempfile.TemporaryDirectory()
TFDS, FOLDERS = Path(DATA.name) / "tfds", Path(DATA.name) / "runs"
# K-SAM selects examples, and with them their keys.
K_SAM = ("--config", "sst2_transformer_k_sam", "--dropout", "0.25")
# Whose steps compile fastest.
ADAMW = ("--config", "sst2_transformer_adamw", "--dropout", "0")


class KilledError(BaseException):
    """Nothing catches it, so that nothing is saved."""


@pytest.fixture(scope="module", autouse=True)
def _small():
    """One device and small models: what happens is the same, and compiles faster."""
    one = sharded.data_mesh(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharded, "data_mesh", lambda devices=None: one)
        patch.setattr(programs, "jax", Quick())
        patch.setattr(programs, "programs", sharing(programs.programs))
        for name, model in TINY.items():
            patch.setitem(zoo.MODELS, name, model)
        yield
    # A model of that name is another one from now on.
    programs._programs.cache_clear()


class Quick:
    """JAX, but that it compiles fast."""

    jit = staticmethod(quick_jit)

    def __getattr__(self, name):
        return getattr(jax, name)


def sharing(make):
    """Programs know of a dataset its kind alone: tasks of one kind compile once."""

    def made(experiment, mesh, kind):
        return make(dataclasses.replace(experiment, dataset="glue/sst2"), mesh, kind)

    return made


# -------------------------------------------------------------------------- tiny datasets


def written(task, seed=0, where=TFDS):
    """A prepared dataset of a task; returns its folder and the evaluations' labels."""
    about, rng = glue.TASKS[task], np.random.default_rng(seed)
    is_number = about.classes == 1
    labels, splits = {}, {}
    for split in ("train", *about.evaluation):
        rows = [example(about, rng) for _ in range(TRAIN if split == "train" else JUDGED)]
        splits[split] = rows
        labels[split] = np.array([row["label"] for row in rows])
    kind: Any = tiny_tfds.scalar("float32")
    kind = kind if is_number else tiny_tfds.class_label(about.classes)
    features = {name: tiny_tfds.text() for name in about.texts}
    features |= {"label": kind, "idx": tiny_tfds.scalar("int32")}
    tiny_tfds.write(where, task, "2.0.0", features, splits)
    return labels


def example(about, rng):
    words = [" ".join(rng.choice(WORDS, rng.integers(1, 7))) for _ in about.texts]
    count = sum(text.count("o") for text in words)
    label = 0.5 * count if about.classes == 1 else count % about.classes
    return {**dict(zip(about.texts, words, strict=True)), "label": label, "idx": 0}


@functools.cache
def labels_of(task):
    return written(task)


def command(task, *options, data=TFDS, start=K_SAM):
    labels_of(task)
    sizes = ("--length", "8", "--vocabulary", "40", "--batch-size", str(BATCH))
    how = ("--epochs", str(EPOCHS), "--learning-rate", "0.05")
    held = ("--validation-examples", str(HELD_OUT))
    more = (*sizes, *how, *held, "--data-dir", str(data), *options)
    return (*start, "--dataset", task, *more)


def run(folder, argv, done=None):
    return runs.run(folder, command=argv, pace=PACE, done=done)


STARTS = {
    "glue/sst2": K_SAM,
    "glue/cola": K_SAM,
    "glue/stsb": ADAMW,
    "glue/mnli": ADAMW,
}


@functools.cache
def whole(task):
    """The folder of a run that nothing happened to, and what it said."""
    folder = FOLDERS / task
    found = run(folder, command(task, start=STARTS[task]))
    assert found.status == 0, found.err
    return folder, found.out


def prepared(argv):
    row, config = train._parse(argv)
    assert row
    return job.prepare(row.name, config.experiment, config.data_dir, None)


def state(folder, mine, step=STEPS):
    with Checkpoints(folder / "checkpoints") as checkpoints:
        return checkpoints.read(step, mine.like()).state


def arrays(found):
    leaves = jax.tree_util.tree_leaves_with_path(found)
    return {jax.tree_util.keystr(path): runs._bits(leaf) for path, leaf in leaves}


# ------------------------------------------------------------------------ what comes out


@functools.cache
def judged(task, folder):
    """Of every part that is looked at: what NumPy's model says, and the labels."""
    mine = prepared(command(task, start=STARTS[task]))
    params = nnx.to_pure_dict(state(folder, mine).params)
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    found = {}
    for part, dataset in mine.inputs.judged.items():
        tokens, labels = dataset.fetch(np.arange(dataset.size))
        found[part] = (
            np.array([oracle.outputs(weights, *row) for row in zip(*tokens, strict=True)]),
            labels,
        )
    return found


def correlation(function: Any, labels, told):
    return function(labels, told).statistic


def cross_entropy(logits, labels):
    chosen = logits[np.arange(len(labels)), labels]
    return (np.log(np.exp(logits).sum(-1)) - chosen).mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "scores"),
    [
        ("glue/sst2", {"accuracy": lambda labels, told: (labels == told).mean()}),
        ("glue/cola", {"matthews": matthews_corrcoef}),
        ("glue/mnli", {"accuracy": lambda labels, told: (labels == told).mean()}),
        (
            "glue/stsb",
            {
                "spearman": lambda labels, told: correlation(stats.spearmanr, labels, told),
                "pearson": lambda labels, told: correlation(stats.pearsonr, labels, told),
            },
        ),
    ],
)
def test_metrics_are_those_of_numpy(task, scores):
    folder, _ = whole(task)
    result = json.loads((folder / "result.json").read_text())
    found = judged(task, folder)
    assert result["metric"] == next(iter(scores))
    for part, (outputs, labels) in found.items():
        told = outputs[:, 0] if outputs.shape[1] == 1 else outputs.argmax(-1)
        for metric, score in scores.items():
            expected = score(labels, told)
            assert result["last"][f"{part}_{metric}"] == pytest.approx(expected, abs=1e-6)
    # A model that says the same of all would tell scores nothing.
    assert len(np.unique(np.round(found["train"][0], 3), axis=0)) > 2


@pytest.mark.slow
@pytest.mark.parametrize("task", STARTS)
def test_losses_are_those_of_numpy_and_no_example_is_dropped(task):
    folder, _ = whole(task)
    result = json.loads((folder / "result.json").read_text())
    first, *others = glue.TASKS[task].evaluation
    parts = {"test": first, **{name: name for name in others}}
    found = judged(task, folder)
    assert set(found) == {"train", "validation", *parts}
    for part, split in parts.items():
        np.testing.assert_array_equal(found[part][1], labels_of(task)[split])
    for part, (outputs, labels) in found.items():
        # No label is smoothed.
        is_number = outputs.shape[1] == 1
        square = ((outputs[:, 0] - labels) ** 2).mean() if is_number else None
        loss = square if is_number else cross_entropy(outputs, labels)
        assert result["last"][f"{part}_loss"] == pytest.approx(loss, rel=1e-4)


@pytest.mark.slow
def test_the_first_of_two_metrics_is_quoted_and_both_are_there():
    labels = np.array([1, 0, 1])
    assert f1_score(labels, [1, 1, 0]) == 0.5
    folder, said = whole("glue/stsb")
    result = json.loads((folder / "result.json").read_text())
    assert {"test_spearman", "test_pearson"} <= set(result["last"])
    shown = f"GLUE validation Spearman {result['last']['test_spearman']:.2%} at the last"
    assert shown in said
    page = (folder / "report.md").read_text()
    assert (
        f"**GLUE validation Spearman {100 * result['last']['test_spearman']:.2f}%" in page
    )
    assert "| GLUE validation Pearson, % |" in page


@pytest.mark.parametrize(
    ("task", "key", "name", "what"),
    [
        ("glue/sst2", "test_accuracy", "GLUE validation accuracy", ""),
        ("glue/cola", "test_matthews", "GLUE validation Matthews", "Matthews "),
    ],
)
def test_what_is_said_names_the_metric(task, key, name, what):
    folder, said = whole(task)
    last = json.loads((folder / "result.json").read_text())["last"]
    assert f"{name} {last[key]:.2%} at the last step, {STEPS}; written: " in said
    lines = [line for line in said.splitlines() if line.startswith("epoch ")]
    assert len(lines) == EPOCHS
    held_out = key.replace("test", "validation")
    both = f"{what}{last[held_out]:.1%}, GLUE validation {what}{last[key]:.1%}"
    assert f"validation {both}" in lines[-1]


@pytest.mark.slow
def test_the_mismatched_half_of_mnli_is_reported():
    page = (whole("glue/mnli")[0] / "report.md").read_text()
    assert "| GLUE validation, mismatched accuracy, % |" in page


def test_the_result_says_what_the_tokens_are():
    result = json.loads((whole("glue/sst2")[0] / "result.json").read_text())
    data = result["dataset"]
    assert (data["things"], data["judged_on"]) == ("texts", "GLUE validation")
    assert data["source"].startswith("tensorflow_datasets glue/sst2/2.0.0; WordPiece with ")
    assert (data["train"], data["validation"]) == (TRAIN - HELD_OUT, HELD_OUT)
    assert data["test"] == JUDGED
    assert str(TFDS) not in json.dumps(result)


# ------------------------------------------------------------------------------- resuming


@functools.cache
def killed():
    """The folder of the same run, gone after its seventh step; six are saved."""

    def done(step):
        if step == 7:
            raise KilledError

    with pytest.raises(KilledError):
        run(FOLDERS / "killed", command("glue/sst2"), done)
    return FOLDERS / "killed"


def test_a_run_that_was_killed_ends_bit_by_bit_as_one_that_was_not(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(killed(), folder)
    assert max(runs.kept(folder)) == 6
    found = run(folder, command("glue/sst2"))
    assert found.status == 0, found.err
    assert f"goes on after step 6 of {STEPS}" in found.out
    mine = prepared(command("glue/sst2"))
    here, there = (arrays(state(f, mine)) for f in (folder, whole("glue/sst2")[0]))
    assert here.keys() == there.keys()
    for name, array in here.items():
        np.testing.assert_array_equal(array, there[name], err_msg=name)
    runs.assert_same_numbers(folder, whole("glue/sst2")[0])


def test_another_vocabulary_is_refused(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(killed(), folder)
    found = run(folder, command("glue/sst2", "--vocabulary", "41"))
    runs.assert_one_line(found, 2)
    assert "has a run with --vocabulary 40, and this is one with 41" in found.err
    # Of the same size, but learnt from other texts.
    other = tmp_path / "tfds"
    written("glue/sst2", seed=1, where=other)
    before = (folder / "metrics.jsonl").read_bytes()
    found = run(folder, command("glue/sst2", data=other))
    runs.assert_one_line(found, 2)
    assert "the state's 'source' must be 'tensorflow_datasets glue/sst2" in found.err
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert max(runs.kept(folder)) == 6


# -------------------------------------------------------------------------------- dropout


def rows(numbers, epoch=0):
    index = np.asarray(numbers, np.int32)
    tokens = oracle.Tokens(oracle.IDS[index], oracle.SEGMENTS[index])
    return Rows(tokens, index % oracle.CLASSES, index, np.full_like(index, epoch))


def keys(numbers, epoch=0, seed=0):
    made = preparation.of_texts(0.25).batch(rows(numbers, epoch), jnp.int32(seed)).key
    return np.asarray(jax.random.key_data(made))


def test_a_key_follows_from_seed_epoch_and_example():
    first = keys([0, 1, 2])
    assert len(np.unique(first, axis=0)) == 3
    # Wherever it is in a batch, and with whatever.
    np.testing.assert_array_equal(keys([2, 3, 0])[[2, 0]], first[[0, 2]])
    for other in (keys([0, 1, 2], epoch=1), keys([0, 1, 2], seed=1)):
        assert not (other == first).all(1).any()
    pictures = augment.example_keys(0, jnp.zeros(3, jnp.int32), jnp.arange(3))
    assert not (np.asarray(jax.random.key_data(pictures)) == first).all(1).any()
    assert preparation.of_texts(0.0).batch(rows([0, 1]), jnp.int32(0)).key is None


def small_text_transformer(rngs):
    return TextTransformer(
        oracle.LENGTH, oracle.VOCABULARY, oracle.CLASSES, width=6, depth=1, heads=2,
        dropout=0.5, rngs=rngs,
    )  # fmt: skip


@pytest.mark.slow
def test_both_passes_of_a_step_drop_the_same():
    # A climb so short that the second pass has the first one's gradient, but for its key.
    tx = ksam_jax.k_sam(1e-6, k=0.5, mean_over="chosen")
    model = pure(small_text_transformer)
    params = jax.jit(model.init)(jax.random.key(0)).params
    batch = preparation.of_texts(0.5).batch(rows([0, 1, 2, 3]), jnp.int32(0))
    other = batch._replace(key=jax.random.split(jax.random.key(9), 4))
    no_gradient: Any = None

    @quick_jit
    def both(params):
        found, _ = tx.update(
            no_gradient, tx.init(params), params, loss_fn=model.losses, batch=batch
        )
        hardest = jnp.argsort(-model.losses(params, batch))[:2]

        def loss(params, batch):
            return model.losses(params, batch)[hardest].mean()

        return found, *(jax.grad(loss)(params, each) for each in (batch, other))

    found, same, different = (_flat(tree) for tree in both(params))
    np.testing.assert_allclose(found, same, rtol=1e-3, atol=1e-5)
    assert np.abs(found - different).max() > 1e-2


def _flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


# ------------------------------------------------------------------------------ mistakes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random BERT without a classifier."""
    tensors = bert_oracle.random_tensors(BERT)
    kept = {k: v for k, v in tensors.items() if not k.startswith("classifier")}
    return bert_oracle.write_checkpoint(tmp_path_factory.mktemp("bert"), kept, BERT)


@pytest.fixture(scope="module")
def deeper(tmp_path_factory):
    tensors = bert_oracle.random_tensors()
    return bert_oracle.write_checkpoint(tmp_path_factory.mktemp("deeper"), tensors)


DIGITS = ("--config", "digits_sgd")
SST2 = command("glue/sst2")
STSB = command("glue/stsb", start=ADAMW)
TINY_BERT = command("glue/sst2", "--model", "bert_tiny", start=ADAMW)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            (*SST2, "--model", "mlp"),
            "--dataset glue/sst2 has texts, which --model mlp doesn't read; models that "
            "do: transformer, bert_tiny, bert_base, bert_large",
        ),
        (
            (*DIGITS, "--model", "transformer"),
            "--dataset digits has images, which --model transformer doesn't read; models "
            "that do: mlp, ",
        ),
        (TINY_BERT, "--model bert_tiny starts from a checkpoint: give --pretrained DIR"),
        ((*TINY_BERT, "--pretrained", "nowhere"), "can't read nowhere/config.json"),
        (
            (*TINY_BERT, "--pretrained", "DEEPER"),
            "has num_hidden_layers 3, and --model bert_tiny has 1: give the --model that",
        ),
        (
            (*SST2, "--pretrained", "CHECKPOINT"),
            "--pretrained is not for --model transformer, which has no checkpoints; "
            "models that have: bert_tiny, ",
        ),
        (
            (*TINY_BERT, "--pretrained", "CHECKPOINT", "--length", "18"),
            "--length must be at most 17, the positions that the model has; got 18",
        ),
        ((*SST2, "--augmentation.flip"), "--augmentation is for images; --dataset glue/s"),
        ((*DIGITS, "--dropout", "0.1"), "--dropout is for texts, and --dataset digits has"),
        ((*DIGITS, "--pretrained", "X"), "--pretrained is for texts, and --dataset digits"),
        (
            (*STSB, "--label-smoothing", "0.1"),
            "--label-smoothing must be 0 with --dataset glue/stsb, whose labels are "
            "numbers; got 0.1",
        ),
        ((*SST2, "--length", "2"), "--length must be at least 3; got 2"),
        ((*STSB, "--length", "4"), "--length must be at least 5; got 4"),
        ((*SST2, "--vocabulary", "6"), "--vocabulary must be at least 7; got 6"),
        ((*SST2, "--vocabulary", "70000"), "may have at most 65,536 tokens; got 70,000"),
        (
            (*ADAMW, "--method", "sgd"),
            "--method sgd needs --optimizer sgd; got adamw: give both, or --method adamw",
        ),
        (
            (*DIGITS, "--method", "adamw"),
            "--method adamw needs --optimizer adamw; got sgd: give both, or --method sgd",
        ),
        (
            (*DIGITS, "--optimizer", "adamw"),
            "--method sgd needs --optimizer sgd; got adamw: give both, or --method adamw",
        ),
        ((*SST2, "--optimizer", "adam"), "unknown optimizer 'adam'; did you mean 'adamw'?"),
        ((*SST2, "--schedule", "flat"), "unknown schedule 'flat'. Valid: cosine, linear"),
        ((*SST2, "--warmup", "1.0"), "--warmup must be from 0 to below 1; got 1"),
        ((*SST2, "--warmup", "nan"), "--warmup must be from 0 to below 1; got nan"),
        ((*SST2, "--dropout", "1"), "--dropout must be from 0 to below 1; got 1"),
        ((*SST2, "--label-smoothing", "-0.1"), "--label-smoothing must be from 0 to below"),
        ((*SST2, "--clip", "0"), "--clip must be positive and finite; got 0"),
        ((*SST2, "--clip", "nan"), "--clip must be positive and finite; got nan"),
        ((*SST2, "--clip", "inf"), "--clip must be positive and finite; got inf"),
        (
            (*SST2, "--train-examples", "17"),
            "at most the 20 of SST-2 together; got 17 and 4",
        ),
        ((*SST2, "--batch-size", "18"), "number of training examples, 16; got 18"),
        ((*SST2, "--dataset", "glue/rte"), "'glue/rte' is not prepared in "),
        ((*SST2, "--dataset", "sst2"), "unknown dataset 'sst2'; did you mean 'glue/sst2'?"),
    ],
    # Without the folder, which is another in each of pytest's processes.
    ids=lambda value: (
        " ".join(v.rsplit("/")[-1] for v in value[-2:]) if isinstance(value, tuple) else ""
    ),
)
def test_mistakes_cost_one_line(argv, line, tmp_path, monkeypatch, checkpoint, deeper):
    monkeypatch.chdir(tmp_path)
    folders = {"CHECKPOINT": str(checkpoint), "DEEPER": str(deeper)}
    argv = [folders.get(word, word) for word in argv]
    found = runs.ended(["--num-processes", "1", *argv])
    runs.assert_one_line(found, 2)
    assert line in found.err
    # Nothing was written, but for what says whose the folder is.
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {"lock"}


def test_a_whole_training_may_be_a_rise(tmp_path):
    # The check must not be of another number of steps than there are.
    found = runs.ended(["--list"])
    assert found.status == 0
    _, config = train._parse((*SST2, "--epochs", "1", "--warmup", "0.8"))
    job.check(config.experiment)


# ----------------------------------------------------------------------------------- BERT


@pytest.fixture(scope="module")
def tuned(checkpoint):
    """A run from the checkpoint, before it has begun: how it is called, and what it is."""
    options = ("--pretrained", str(checkpoint), "--model", "bert_tiny", "--epochs", "1")
    argv = command("glue/sst2", *options, start=ADAMW)
    return argv, prepared(argv)


def head_of(mine):
    return nnx.to_pure_dict(mine.start().params)["classifier"]


@pytest.mark.slow
def test_a_bert_goes_on_from_the_very_weights_of_a_checkpoint(tuned):
    _, mine = tuned
    tensors = bert_oracle.random_tensors(BERT)
    # Rows of tokens, their logits by NumPy: with our head in the checkpoint's place.
    head = head_of(mine)
    tensors["classifier.weight"] = np.asarray(head["kernel"]).T
    tensors["classifier.bias"] = np.asarray(head["bias"])
    tokens, labels = mine.inputs.judged["test"].fetch(np.arange(JUDGED))
    _, _, logits = bert_oracle.forward(tensors, tokens.ids, tokens.segments, BERT)
    batch = sharded.global_batch(mine.mesh, 10, _rows_of(tokens, labels))
    told = mine.programs.judge(mine.start(), batch)
    assert told.predictions[:JUDGED].tolist() == logits.argmax(-1).tolist()
    expected = cross_entropy(logits, labels) * JUDGED
    assert float(told.loss) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_head_has_initial_weights_of_its_own(tuned):
    """As the paper has it: normal, 0.02."""
    _, mine = tuned
    kernel, other = (head_of(one)["kernel"] for one in (mine, job.seeded(mine, 1)))
    assert np.asarray(kernel).std() == pytest.approx(0.02, rel=0.4)
    assert np.abs(kernel - other).max() > 0.01


@pytest.mark.slow
def test_all_of_a_bert_is_trained(tmp_path, tuned, checkpoint):
    argv, mine = tuned
    params = mine.start().params
    found = run(tmp_path, argv)
    assert found.status == 0, found.err
    last = arrays(state(tmp_path, mine, STEPS // EPOCHS).params)
    for name, array in arrays(params).items():
        # Of the tokens' rows those that there are.
        assert (array != last[name]).any(), name
    result = json.loads((tmp_path / "result.json").read_text())
    assert "WordPiece with 50 tokens of the checkpoint (" in result["dataset"]["source"]
    assert str(checkpoint) not in result["command"]


def _rows_of(tokens, labels):
    """Of all that there are, filled up with the last one to a number that is even."""
    index = np.append(np.arange(JUDGED), -1).astype(np.int32)
    inputs = jax.tree.map(lambda leaf: leaf[index], tokens)
    return Rows(inputs, labels[index], index, np.zeros_like(index))
