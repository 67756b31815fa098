"""The tasks of each step: a function of the run and of the files that the step before has left."""
