"""Private part of layerfs; see docs/architecture.md."""
