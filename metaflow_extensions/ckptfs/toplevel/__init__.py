"""Names the module whose content Metaflow takes over."""

toplevel = "toplevel"
