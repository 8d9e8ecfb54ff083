"""Comparing methods on one survey: same features, predictor, episodes and evaluation for all."""
