"""From a configuration to the jobs of a run, and the proof that none leaks."""
