"""Arrays in, named tuple out: statistics that know nothing of files, tables or medicine."""
