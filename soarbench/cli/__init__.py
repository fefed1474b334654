"""Commands: words become one request and one call, whose ``int`` is the exit code.

Whatever cannot work is a ``UserError``; ``app`` prints it in one line.
"""
