"""What panoptica says of pairs of masks, for a Python that has it: it pins old versions of what this package needs.

Reads an .npz file with arrays ``reference`` and ``prediction``, (pairs, z, y, x), and ``thresholds``; prints JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys

import numpy as np
import panoptica


def said(reference: np.ndarray, prediction: np.ndarray, threshold: float) -> tuple[float, int, float]:
    """Return F1, difference of lesion counts and Dice by the calls of the challenge's evaluation."""
    evaluator = panoptica.Panoptica_Evaluator(
        expected_input=panoptica.InputType.SEMANTIC,
        instance_approximator=panoptica.ConnectedComponentsInstanceApproximator(),
        instance_matcher=panoptica.NaiveThresholdMatching(matching_threshold=threshold),
    )
    result = evaluator.evaluate(prediction.astype(int), reference.astype(int), verbose=False)["ungrouped"]
    result = result[0] if isinstance(result, tuple) else result
    true, found = (getattr(result, name) for name in ("n_ref_instances", "n_pred_instances"))
    if true == 0 and found == 0:
        return 1.0, 0, 1.0
    return float(result.rq), abs(int(true) - int(found)), float(result.global_bin_dsc)


if __name__ == "__main__":
    with np.load(sys.argv[1]) as pairs, contextlib.redirect_stdout(io.StringIO()):
        numbers = [
            [said(*pair, float(threshold)) for pair in zip(pairs["reference"], pairs["prediction"], strict=True)]
            for threshold in pairs["thresholds"]
        ]
    sys.stdout.write(json.dumps(numbers))
