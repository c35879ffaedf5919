"""The union spoken as FUSE operations (engine `python`); the server process. Imported by that process alone."""
