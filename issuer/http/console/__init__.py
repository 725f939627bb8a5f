"""The console at /console: what operators of the installation, and those who run campaigns, see and do."""
