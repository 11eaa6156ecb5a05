"""One statistic a file, each with its source; none of them knows a file or a plot."""
