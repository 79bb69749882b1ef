"""In what two data sets differ."""
