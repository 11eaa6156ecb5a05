"""From a folder of head scans to sinus volumes: `bench prepare`.

The way of a head, one file a step: `find` (which files, whose; `scans`, `dicom`) and `labels` (the spreadsheet) ->
`volume` (read, check, orientation) -> `register` (reference head to scan, by `pyramid`, `starts` and
`optimise`) -> `quality` (take or refuse, by `limits`) -> `crop` -> `store`, `output` (what is written, where) ->
`sheet` (contact sheet, of each `picture`). `head` does one head, `command` all of them.
"""
