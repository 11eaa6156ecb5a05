"""The harness: from a command line to rows of results."""
