"""Where volumes come from: one file a source."""
