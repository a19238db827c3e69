"""Which `keep` to have by default, by what was measured."""

import statistics
from collections.abc import Iterable, Sequence

from experiments.costs.accelerator.contents import Decision, Means
from experiments.costs.benchmark.contenders import DEFAULT_KEEP
from experiments.costs.benchmark.contents import Measured

# Times that are so near to the least one are as good.
EQUAL = 1.03
METHOD = "k_sam"


def decide(contents: Sequence[Measured]) -> Decision | None:
    """The `keep` whose time is least over all models, or of equals the least memory.

    Args:
      contents: of the benchmark, one for each model.

    Returns:
      "recommended", "default", "models", and by `keep` the geometric means of time and
      memory over the models, both against SGD's. None where no model has several values.
    """
    by_model = {content["workload"]["title"]: _by_keep(content) for content in contents}
    by_model = {title: found for title, found in by_model.items() if len(found) > 1}
    if not by_model:
        return None
    # Those that each model has: a mean over some models would say something else.
    known = set.intersection(*(set(found) for found in by_model.values()))
    means: dict[str, Means] = {
        keep: {
            "time": _mean(found[keep]["time"] for found in by_model.values()),
            "memory": _mean(found[keep]["memory"] for found in by_model.values()),
        }
        for keep in next(iter(by_model.values()))
        if keep in known
    }
    if not means:
        return None
    least = min(mean["time"] for mean in means.values())
    equals = [keep for keep, mean in means.items() if mean["time"] <= EQUAL * least]
    return {
        "recommended": min(equals, key=lambda keep: means[keep]["memory"]),
        "default": DEFAULT_KEEP,
        "models": list(by_model),
        "keeps": means,
    }


def _by_keep(content: Measured) -> dict[str, Means]:
    return {
        case["keep"]: {
            "time": case["time_vs_sgd"]["median"],
            "memory": case["temporary_vs_sgd"],
        }
        for case in content["groups"][0]["cases"]
        if case["method"] == METHOD
        and case["keep"] is not None
        and case["time_vs_sgd"] is not None
        and case["temporary_vs_sgd"] is not None
    }


def _mean(values: Iterable[float]) -> float:
    return statistics.geometric_mean(values)
