"""From evidence on disk to the three tables, the summary and the figures of a sweep."""
