"""The network, run by ONNX Runtime."""

import onnxruntime


def load_network(file, num_threads=0):
    """A function from arrays by name to depth in metres, float32 (batch, height, width). 0 threads: all cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["predicted_depth"], inputs)[0]
