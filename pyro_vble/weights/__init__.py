"""Weights of the bundled priors."""
