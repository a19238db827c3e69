"""Large images, decoded as they are needed."""

import functools
from dataclasses import dataclass

from experiments.data import imagenet, memory
from experiments.data.drawn import drawn
from experiments.data.named import Inputs, NamedImages, Wanted, together

# Training examples to look at, where each look has to decode them.
STREAMED = 10_000


@dataclass(frozen=True)
class ImageNet(NamedImages):
    """ImageNet; see `experiments.data.imagenet`."""

    def inputs(self, wanted: Wanted) -> Inputs:
        """See `Named`."""
        return streamed(wanted)


@functools.lru_cache(maxsize=4)
def streamed(wanted: Wanted) -> Inputs:
    """Nothing is decoded before it is asked for."""
    whole = imagenet.load(wanted.data_dir, "train")
    numbers = drawn(whole, wanted.train, wanted.held)
    train = memory.part(whole, numbers.train)
    judged = {
        "validation": memory.part(whole, numbers.validation),
        "test": imagenet.load(wanted.data_dir, "test"),
    }
    return together(train, judged, imagenet.NORMALIZATION, most=STREAMED)
