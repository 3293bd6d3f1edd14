"""The network, run by PyTorch."""

import torch


def load_network(file, num_threads=0):
    """A function from arrays by name to depth in metres, float32 (batch, height, width). 0 threads: all cores."""
    if num_threads:
        torch.set_num_threads(num_threads)
    network = torch.export.load(file).module()

    def run(inputs):
        with torch.no_grad():
            return network(**{name: torch.from_numpy(array) for name, array in inputs.items()}).numpy()

    return run
