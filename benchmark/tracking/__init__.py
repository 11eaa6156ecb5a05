"""W&B, filled from a run folder: live by a process beside the grid, or later by ``bench wandb-sync``."""
