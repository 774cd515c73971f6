"""The sweep file: read, validated, resolved to settings."""
