"""Commands: words become one request and one call."""
