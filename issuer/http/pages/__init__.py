"""HTML pages: their templates, headers and the files that they load."""
