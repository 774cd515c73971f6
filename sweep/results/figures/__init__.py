"""Figures and tables of a sweep as one prints them: PNG, PDF and SVG at column width (docs/results.md).

words         how axes, values and scores are written
style         sizes, fonts, colours that read in grey, layout, file formats
panels        scores against an axis as lines; chance level, hollow points
scores        figures of such panels: by axis, by size, overview
planes        heat map of branch x image share; text against vision; score against cost
tasks         bars by task; each task against the branch point
printed       tables of tasks and of seeds: CSV, Markdown, LaTeX
curves        learning rates and losses of the trunk and its image-text runs
differences   differences with their intervals
gallery       which figures a sweep allows; writes them with captions.md

Only this folder imports matplotlib.
"""
