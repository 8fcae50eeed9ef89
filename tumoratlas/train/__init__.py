"""Tumor models: nnU-Net datasets, plans, training and the model registry."""
