"""Pictures and scans: from files to arrays, from arrays to phenotypes of people."""
