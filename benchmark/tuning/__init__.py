"""Searching settings: the same budget for every method, judged on validation patients alone."""
