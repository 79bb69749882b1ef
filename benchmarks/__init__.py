"""From scores to answers: scoring a bench, metrics, statistics, results, tables and plots."""
