"""Which nodes there are, what they hold, and whether they are there."""
