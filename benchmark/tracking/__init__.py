"""W&B, filled from a run folder: live by a process beside the grid, or later by ``bench wandb-sync``."""

import os

# wandb sends its own errors to its makers: tracebacks, and with them paths of this machine.
os.environ["WANDB_ERROR_REPORTING"] = "false"
