"""From checked settings to the manifest."""
