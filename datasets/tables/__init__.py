"""Tables that come in from outside: one reader for CSV, TSV and XLSX, what a cell may say, and whose id it is."""
