"""Files: priors, posteriors, images, InferenceData."""
