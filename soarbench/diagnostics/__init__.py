"""What tells a better model from a gamed score: image statistics, diversity, drift from the path.

Nothing here is a metric that decides; nothing here changes a cell or its address.
"""
