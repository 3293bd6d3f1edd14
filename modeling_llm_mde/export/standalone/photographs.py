"""What LLMMDEProcessor does with a photograph, in NumPy and Pillow: the same pixels, and the prompt word for word."""

import numpy as np
from PIL import ImageOps


def prepare(image, settings, tokenizer):
    """One photograph as the network reads it.

    Args:
        image (PIL.Image.Image): Of any size and common mode.
        settings (dict): The content of export.json.
        tokenizer (tokenizers.Tokenizer): That of tokenizer.json.

    Returns:
        A dictionary of arrays for a batch of one, the prompt (None for a network that reads none), and the height and
        width of the upright photograph.
    """
    levels = upright_levels(image)
    resized = resize(levels, (settings["image"]["height"], settings["image"]["width"]))
    # The scale of the levels goes into mean and deviation, as in the processor.
    mean, std = (np.array(settings["image"][name]) / settings["image"]["rescale_factor"] for name in ("mean", "std"))
    pixel_values = (resized.astype(np.float32) - mean.astype(np.float32)) / std.astype(np.float32)
    inputs = {"pixel_values": np.ascontiguousarray(pixel_values.transpose(2, 0, 1)[None])}
    prompt = None
    if "input_ids" in settings["inputs"]:
        prompt = write_prompt(resized, settings["prompt"])
        inputs["input_ids"] = np.array([tokenizer.encode(prompt).ids])
        inputs["attention_mask"] = np.ones_like(inputs["input_ids"])
    return inputs, prompt, levels.shape[:2]


def upright_levels(image):
    """RGB from 0 to 255, uint8 (height, width, 3), turned as EXIF says; what is transparent lies on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("the photograph has 32 bits of floating point (mode F); save it with 8 bits")
    if image.mode.startswith("I"):  # 16 bits
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"the photograph has values from {values.min()} to {values.max()}; save it with 16 bits")
        levels = ((values + 128) // 257).astype(np.uint8)
        return np.stack([levels] * 3, axis=-1)
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA")).astype(np.int32)
        colour, alpha = rgba[..., :3], rgba[..., 3:]
        return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.asarray(image.convert("RGB"))


def resize(levels, size):
    """Bilinear with antialiasing, (height, width, channels) to another height and width, bit for bit as in PyTorch:
    first rows, then columns, with weights of 16 bits and rounding after each."""
    for axis in (1, 0):
        taps, weights = bilinear_taps(levels.shape[axis], size[axis], widen=True)
        bits = next((bits for bits in range(22) if int(0.5 + weights.max() * 2 ** (bits + 1)) >= 2**15), 22)
        weights = np.floor(weights * 2**bits + 0.5).astype(np.int32)
        lines = np.ascontiguousarray(levels.swapaxes(0, axis))
        total = sum(weight[:, None, None] * lines[tap] for tap, weight in zip(taps, weights, strict=True))
        levels = np.clip((total + 2 ** (bits - 1)) >> bits, 0, 255).astype(np.uint8).swapaxes(0, axis)
    return levels


def enlarge(depth, size):
    """Depth (height, width) at another height and width, bilinear between the centres of pixels."""
    for axis in (0, 1):
        taps, weights = bilinear_taps(depth.shape[axis], size[axis], widen=False)
        lines = depth.swapaxes(0, axis)
        depth = sum(weight[:, None] * lines[tap] for tap, weight in zip(taps, weights.astype(np.float32), strict=True))
        depth = depth.swapaxes(0, axis)
    return depth


def bilinear_taps(length, size, widen):
    """For `size` new positions along `length` old ones: which old ones each is a mean of, and their weights.

    Both (most old ones that any needs, size). With `widen` the triangle spans all that a new position covers where
    there are fewer new ones than old ones, else it reaches to the neighbours.
    """
    support = max(length / size, 1.0) if widen else 1.0
    centre = length / size * (np.arange(size) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(int), 0)
    last = np.minimum((centre + support + 0.5).astype(int), length)
    taps = first + np.arange((last - first).max())[:, None]
    weights = np.maximum(1 - np.abs(taps + 0.5 - centre) / support, 0) * (taps < last)
    return np.minimum(taps, length - 1), weights / weights.sum(axis=0)


def write_prompt(levels, template):
    """The prompt about the resized photograph: `parts` are texts and, at every second place, names of statistics."""
    counts = np.bincount(levels.ravel(), minlength=256)
    words = template["depth_words"]  # from near to far, for equal parts of the range of levels
    statistics = {
        "minimum": levels.min(),
        "maximum": levels.max(),
        "median": np.searchsorted(2 * counts.cumsum(), levels.size),  # the lower one
        "depth_word": words[np.bincount(len(words) * np.arange(256) // 256, counts).argmax()],
    }
    return "".join(str(statistics[part]) if place % 2 else part for place, part in enumerate(template["parts"]))
