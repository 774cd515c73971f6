"""A real Chromium without a window, for tests of pages; `python -m tests.browser install` puts it there."""
