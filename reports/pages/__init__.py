"""What a person reads: the report of one run, and of several."""
