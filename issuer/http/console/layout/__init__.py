"""The frame of every screen of the console: templates, style, script, navigation."""
