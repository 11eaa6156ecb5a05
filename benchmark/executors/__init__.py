"""How the planned work is carried out: one file an executor."""
