"""Results of a sweep. In reading order:

evidence      what store and cluster say of each job: state, result, attempts, hours
lineage       which jobs a model comes from, and which models share a job
intervals     Student's t, Holm, Wilson: the formulas of the errors
scores        stable scores and z-scores of an evaluation
schemas       columns of the seven tables, with units and descriptions
tables        rows of jobs, results, cells and metrics
slices        which rows compare: one axis varies, the others are held
answers       what each question scored: how models' scores move together with the questions
contrasts     differences paired by question, with 95 % intervals
comparisons   rows of differences, contrasts and summary, and the same as text
figures       a folder: figures and tables to print
summary       the printed table, CSV, JSON, and hours by stage
write         writes all of it, each file whole or absent
"""
