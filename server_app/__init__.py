"""The Flower ServerApp: aggregation, fairness logging, and what a run leaves on disk."""
