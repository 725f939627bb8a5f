"""htmx and uPlot as npm has them, with their licences; VENDORED.md says from where."""
