"""From a folder of head scans to sinus volumes: `bench prepare`.

The way of a head, one file a step: `scans` (which files, whose) and `labels` (the spreadsheet) -> `volume` (read,
check, orientation) -> `register` (reference head to scan, by `pyramid`, `starts` and `optimise`) -> `quality` (take or
refuse) -> `crop` -> `store` (what is written, where) -> `sheet` (contact sheet). `command` holds the order.
"""
