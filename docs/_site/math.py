"""Equations of docstrings as MathML, which browsers show without a script."""

import re
from typing import Any

import griffe
from latex2mathml.converter import convert

BLOCK = re.compile(r"^\.\. math::(.*(?:\n(?:[ ]+.*|[ ]*(?=\n[ ])))*)", re.MULTILINE)
INLINE = re.compile(r":math:`([^`]*)`")


def equation(match: re.Match[str]) -> str:
    """A block of its own."""
    return f'\n<div class="equation">{_mathml(match[1], "block")}</div>\n'


def _mathml(latex: str, display: str) -> str:
    return convert(" ".join(latex.split()), display=display)


class Math(griffe.Extension):
    """Rewrites what Sphinx would read, and names the section of doctests as Griffe does."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Once for each function, class and attribute."""
        if obj.docstring is None:
            return
        text = BLOCK.sub(equation, obj.docstring.value)
        text = INLINE.sub(lambda match: _mathml(match[1], "inline"), text)
        obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
