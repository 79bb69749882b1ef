"""The panels of `nbench --help`, in order."""

BUILD = "Build data sets"
DATA = "Inspect, convert and publish data sets"
MEASURE = "Score and measure"
RESULTS = "Compare and report results"
SAMPLE = "Select while generating"
SCORERS = "Pipelines, scorers and their training"
