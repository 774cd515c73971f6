"""The report of a sweep as one HTML file that needs nothing else (docs/report.md).

tables        columns of the page's tables: as text for the page, as JSON for its program
curves        loss curves, thinned by a stated rule
drawing       line charts and bars as SVG
charts        scores, differences, losses, the times of chains
heat_map      the grid of cells
sections      question, states, hours, failures, provenance
content       all of it for one sweep, from the tables of `sweep.results` and their evidence
write         the file: template, content policy, digests
refresh       tables and report, where a result is newer than they are

`assets/` has the template, the style sheet and the page's program. Only `write` imports Jinja2.
"""
