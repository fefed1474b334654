"""What tells a better model from a gamed score: image statistics, diversity, exposure bias.

Nothing here is a metric that decides; nothing here changes a cell or its address.
"""
