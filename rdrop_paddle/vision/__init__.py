"""Image classification: data, model, weights."""
