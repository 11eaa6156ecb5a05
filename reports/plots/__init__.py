"""One plot a file: each takes an analysis and gives figures, and none of them computes a statistic."""
