"""Shows the help of options as the documentation of their fields; an extension of griffe."""

from __future__ import annotations

import ast
from typing import Any

from griffe import Attribute, Docstring, ExprCall, ExprSubscript, ExprTuple, Extension


class OptionHelp(Extension):
    """`field: Annotated[kind, Option("help")]` is documented as a field of type `kind` with this help."""

    def on_attribute_instance(self, *, attr: Attribute, **_: Any) -> None:
        """Called by griffe for every attribute."""
        annotation = attr.annotation
        if not isinstance(annotation, ExprSubscript) or str(annotation.left) != "Annotated":
            return
        assert isinstance(annotation.slice, ExprTuple)
        kind, *extras = annotation.slice.elements
        texts = [extra.arguments[0] for extra in extras if isinstance(extra, ExprCall) and extra.arguments]
        attr.annotation = kind
        if texts and isinstance(texts[0], str) and attr.docstring is None:  # not a text with values in it
            attr.docstring = Docstring(ast.literal_eval(texts[0]), parent=attr)
