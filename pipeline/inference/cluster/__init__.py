"""A cohort on many machines: the cases are tasks of a Dask cluster, whose scheduler is not ours."""
