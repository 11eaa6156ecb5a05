"""One run: which of its jobs are left, where they are carried out, and the tables of the results."""
