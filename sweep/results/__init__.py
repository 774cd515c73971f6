"""Results of a sweep. In reading order:

evidence      what store and cluster say of each job: state, result, attempts, hours
lineage       which jobs a model comes from, and which models share a job
scores        stable scores and z-scores of an evaluation
schemas       columns of the six tables, with units and descriptions
tables        rows of jobs, results, cells and metrics
slices        which rows compare: one axis varies, the others are held
comparisons   rows of differences and summary, and the same as text
figures       a folder: figures and tables to print
summary       the printed table, CSV, JSON, and hours by stage
write         writes all of it, each file whole or absent
"""
