"""The topics under which `nbench --help` lists the commands, in their order there."""

BUILD = "Build data sets"
DATA = "Inspect, convert and publish data sets"
MEASURE = "Score and measure"
RESULTS = "Compare and report results"
SAMPLE = "Select while generating"
SCORERS = "Pipelines, scorers and their training"
