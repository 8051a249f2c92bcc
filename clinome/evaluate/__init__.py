"""How good predictions are, for whom, beside what, and how sure that is: intervals by resampling people."""
