"""Networks that are not as new."""

from __future__ import annotations

import numpy as np


def spread_statistics(model):
    """Gives batch norm statistics other than 0 and 1, so that folding has something to fold."""
    generator = np.random.default_rng(0)
    for variable in model.variables:
        name = variable.name.split("/")[-1]
        if name.startswith(("moving_variance", "gamma")):
            variable.assign(generator.uniform(0.7, 1.4, variable.shape))
        elif name.startswith(("moving_mean", "beta", "bias")):
            variable.assign(generator.normal(0, 0.2, variable.shape))
