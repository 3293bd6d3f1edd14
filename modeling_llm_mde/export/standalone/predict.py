"""Depth of one photograph: python predict.py room.jpg room_depth.png

Prints the prompt and the range in metres, and writes a PNG of 16 bits in millimetres (beyond 65.535 m: 0, missing).
Needs what requirements.txt lists, and nothing that the model was trained with.
"""

import json
import sys
from pathlib import Path

import numpy as np
from photographs import enlarge, prepare
from PIL import Image
from runtime import load_network
from tokenizers import Tokenizer

if len(sys.argv) != 3:
    sys.exit("usage: python predict.py PHOTOGRAPH DEPTH.png")
folder = Path(__file__).parent
settings = json.loads((folder / "export.json").read_text(encoding="utf-8"))
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
network = load_network(folder / settings["model_file"])

Image.init()
formats = [name for name in Image.ID if name != "EPS"]  # a program, which Ghostscript would run
inputs, prompt, size = prepare(Image.open(sys.argv[1], formats=formats), settings, tokenizer)
depth = enlarge(network(inputs)[0], size)  # (height, width) of the photograph, metres

millimetres = np.rint(1000 * depth)
Image.fromarray(np.where(millimetres > 65535, 0, millimetres).astype(np.uint16)).save(sys.argv[2])
print(f"{prompt}\n{depth.min():.2f} m to {depth.max():.2f} m, {size[1]} x {size[0]} pixels in {sys.argv[2]}")
