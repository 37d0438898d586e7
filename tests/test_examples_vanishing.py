"""The worked example in docs/gradients.md: its table is what the service answers, and its claims hold in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from examples.vanishing import BACK, FEATURES, NETS, STEPS, UNITS, sequence, table
from tests.app.client import array, service

PAGE = (Path(__file__).parents[1] / "docs" / "gradients.md").read_text()


def test_the_page_shows_the_table_that_the_example_prints():
    assert "\n".join(table()) in PAGE


def test_the_service_answers_the_numbers_of_the_table():
    rows = {line.split(" | ")[0].removeprefix("| "): line.strip("| ").split(" | ")[1:] for line in table()[2:]}
    x = sequence()
    assert x.shape == (1, STEPS, FEATURES)
    with service() as client:
        for name, (cell, options, _) in NETS.items():
            asked = {"cell": cell, "num_units": UNITS, "seed": 0, "cell_options": options, "inputs": x.tolist()}
            asked |= {"targets": np.zeros((1, STEPS, UNITS)).tolist(), "loss": "mean_squared_error"}
            told = client.answer("/gradients", **asked, diagnostics=True, **{"return": []})
            (one,) = told["diagnostics"]["layers"]
            norms = array(one["jacobian_norm"])[0]
            shown = [float(text) for text in rows[name][: len(BACK)]]
            np.testing.assert_allclose([norms[STEPS - 1 - k] for k in BACK], shown, rtol=0.05)
            assert rows[name][len(BACK) : len(BACK) + 2] == [str(one["reach"][0]), str(one["vanished"][0])]
