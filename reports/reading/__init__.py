"""From a run folder to rows."""
