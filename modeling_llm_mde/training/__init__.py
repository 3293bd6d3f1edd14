"""Training: adapters, optimisation, callbacks and recipes around the stock `Trainer`."""
