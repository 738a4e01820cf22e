"""Training: data, steps, state, devices, checkpoints, logs, and the loop around them."""
