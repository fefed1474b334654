"""What figures can be written as; imports nothing, so that configurations can say it."""

#: PNG for pages, PDF for papers, SVG for everything that scales.
FORMATS = ("png", "pdf", "svg")
