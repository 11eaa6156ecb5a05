"""From rows to tables, statistics, plots and pages."""
