"""How good a network is on images that it was not trained on, whatever form it has: the number that users compare.

The protocol is the same for all (protocol.py); images are read as for training, but streamed (images.py); classes are
matched by name (classes.py). A subject is what is evaluated (subject.py): own.py, outside.py, onnx.py and coreml.py
make one of each form, find.py knows which is meant. tally.py counts, run.py puts it together, records.py is what comes
out.

This package is a function as well, that of nas/search/evaluate.py, which knows results folders:
`nas.evaluate("best.torch", "photos/")`.
"""

from __future__ import annotations

from nas.evaluate.records import ClassAccuracy, Confusion, Evaluation, Scores, Share
from nas.packages import also_function

__all__ = ["ClassAccuracy", "Confusion", "Evaluation", "Scores", "Share"]

# A search comes after this package in the order of imports.
also_function(__name__, "nas.search.evaluate")
