"""A batch with random keys of each example beside it, that looks as it did without."""

from typing import Any

import jax
from jaxtyping import PyTree


@jax.tree_util.register_pytree_with_keys_class
class Keyed:
    """A batch, and keys that its examples take along.

    Items and attributes are the batch's own: selections look examples up in it by name.
    """

    def __init__(self, batch: PyTree, keys: PyTree):
        self.ksam_batch, self.ksam_keys = batch, keys

    def __getitem__(self, item: Any) -> Any:
        return self.ksam_batch[item]

    def __getattr__(self, name: str) -> Any:
        # Before the batch is there, as while it is copied, there is nothing to ask.
        if name.startswith("__") or "ksam_batch" not in vars(self):
            raise AttributeError(name)
        return getattr(self.ksam_batch, name)

    def __iter__(self) -> Any:
        return iter(self.ksam_batch)

    def __len__(self) -> int:
        return len(self.ksam_batch)

    def tree_flatten_with_keys(self) -> tuple[tuple, None]:
        """As JAX asks for it."""
        names = (jax.tree_util.GetAttrKey("batch"), jax.tree_util.GetAttrKey("keys"))
        return tuple(zip(names, (self.ksam_batch, self.ksam_keys), strict=True)), None

    @classmethod
    def tree_unflatten(cls, aux: None, children: Any) -> "Keyed":
        """As JAX asks for it."""
        del aux
        return cls(*children)


def with_keys(batch: PyTree, keys: PyTree) -> PyTree:
    """The batch with keys, where there are any; else as it is."""
    return Keyed(batch, keys) if jax.tree.leaves(keys) else batch


def without_keys(batch: PyTree) -> tuple[PyTree, Any]:
    """The batch (or one example of it) and its keys, `()` if it has none."""
    if isinstance(batch, Keyed):
        return batch.ksam_batch, batch.ksam_keys
    return batch, ()
