"""One plain training loop; what varies comes in as functions: draw, fetch, objective, gradients, validate."""
