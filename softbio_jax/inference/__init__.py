"""A trained run in use: one bundle of weights and settings, its predictor, hub and exports."""
