"""Files of runs: written once, read by reports."""
