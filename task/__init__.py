"""Everything that is not Flower: surveys, features, the predictor, training, metrics."""
