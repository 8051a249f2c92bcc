"""Reports: figures and tables from saved results, on one self-contained HTML page; ``page.write_report`` makes it."""
