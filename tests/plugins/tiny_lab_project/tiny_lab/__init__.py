"""A laboratory's own engine, tasks and tracker."""
