"""A real Chromium without a window, for tests of pages: how it is installed (`python -m tests.browser install`) and driven."""
