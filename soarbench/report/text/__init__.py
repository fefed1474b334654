"""Tables as Markdown, LaTeX and console text."""
