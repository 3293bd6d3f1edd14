"""The network, run by OpenVINO."""

import openvino


def load_network(file, num_threads=0):
    """A function from arrays by name to depth in metres, float32 (batch, height, width). 0 threads: all cores."""
    # Left to itself OpenVINO takes bfloat16 where the CPU has it: faster, and other depth than that which was checked.
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": num_threads}
    network = openvino.Core().compile_model(file, "CPU", options)
    return lambda inputs: network(inputs)["predicted_depth"]
