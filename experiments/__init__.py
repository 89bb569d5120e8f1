"""Studies: one command each, ending in table.csv, summary.json and figures made from the table."""
