"""The front door: registering, its settings, results and metrics, cohorts, and the command line."""
