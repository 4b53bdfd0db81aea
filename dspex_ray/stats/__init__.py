"""Pure statistics: traffic buckets, intervals, paired tests, fronts, races, convergence."""
