"""The cost of a registration: where it is sampled, what is compared, and what a step knows."""
