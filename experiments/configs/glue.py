"""All tasks of GLUE with BERT-base, from a checkpoint that `--pretrained` names."""

from dataclasses import replace

from experiments.configs.experiment import Experiment, Row
from experiments.configs.large_methods import METHODS
from experiments.data import glue

ADAMW = Experiment(
    dataset="glue/sst2",
    model="bert_base",
    method="adamw",
    optimizer="adamw",
    epochs=3,
    learning_rate=2e-5,
    weight_decay=0.01,
    batch_size=32,
    schedule="linear",
    warmup=0.1,
    clip=1.0,
    decay_all=False,
    dropout=0.1,
    length=128,
)
NAMES = ("adamw", "sam", "k_sam", "esam", "f_sam")

ORIGIN = (
    "Batch 32, 3 epochs, dropout 0.1 and the learning rate, the lowest of the four that "
    "were tried for each task: BERT's paper (Devlin et al., NAACL 2019). Weight decay 0.01 "
    "but for biases and norms, clipping at 1, and a linear course with a rise over 10 % of "
    "the steps: its code for fine-tuning. Of the method, "
)

GLUE = tuple(
    Row(
        name=f"{task.replace('/', '_')}_bert_base_{method}",
        experiment=replace(ADAMW, dataset=task, method=method, **METHODS[method].values),
        published=None,
        origin=f"{ORIGIN}{METHODS[method].origin}",
    )
    for task in glue.TASKS
    for method in NAMES
)
