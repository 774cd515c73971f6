"""One file a command. Its module holds

OPTIONS                 a frozen dataclass, `sweep.options.CommonOptions` and a field for each argument
add_arguments(parser)   the arguments, whose `dest` are the names of the fields
run(options)            the command; its return value is the exit code
"""
