"""Trained students made smaller while they go on imitating, by tensorflow-model-optimization."""
