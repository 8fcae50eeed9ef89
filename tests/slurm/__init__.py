"""A live SLURM cluster of one node, and the trial of the workflow on it."""
