"""A run's state, saved after its rounds and given back: what `run.resume` takes up."""
