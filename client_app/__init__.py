"""The Flower ClientApp: one user group's data around the shared predictor."""
