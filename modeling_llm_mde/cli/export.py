"""`llm-mde export`: a model as a folder for small machines, checked before it appears."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .arguments import parse_arguments

NUM_PHOTOGRAPHS = 64


@dataclass
class ExportArguments:
    """What to export, as what, and where to."""

    model: str = field(metadata={"help": "Folder or Hub id of a model, or of an adapter, which is merged first."})
    output: str = field(metadata={"help": "Folder to write; it must not exist, or be empty."})
    format: str = field(default="onnx", metadata={"help": "onnx, openvino, or torch (a torch.export program, .pt2)."})
    int8: bool = field(
        default=False, metadata={"help": "Whether to quantise to 8 bits, a quarter of the size (onnx and openvino)."}
    )
    calibration_data: str | None = field(
        default=None,
        metadata={
            "help": "Folder of RGB-D frames (of which the split train is taken) or photographs, to compare on; 8 bits "
            "of openvino are found by them. By default three that came with the package, to compare on."
        },
    )
    num_photographs: int = field(default=NUM_PHOTOGRAPHS, metadata={"help": "How many of --calibration_data at most."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model on the Hub."})

    def __post_init__(self):
        if self.num_photographs < 1:
            raise ValueError(f"`num_photographs` is {self.num_photographs}; give at least 1.")
        if self.calibration_data is None and self.num_photographs != NUM_PHOTOGRAPHS:
            raise ValueError(
                f"`num_photographs` is {self.num_photographs}, but there are none without `calibration_data`; give a "
                "folder of them, or leave it out."
            )


def run(arguments: Sequence[str]) -> None:
    """`llm-mde export`: load, trace, write, compare, and only then let the folder appear.

    Raises:
        ValueError, ImportError: For the reasons of `export_model`.
    """
    (options,) = parse_arguments(
        "export",
        [ExportArguments],
        arguments,
        "Exports a model for machines without PyTorch: a network of any batch and prompt at the processor's size, a "
        "tokenizer, the settings (export.json), and a short predict.py that needs numpy, Pillow, tokenizers and the "
        "runtime. The folder appears when its depth has been compared with the model's, or not at all.",
    )
    from llm_mde.export.folder import check_photographs, write_export
    from llm_mde.export.formats import find_format
    from llm_mde.export.photographs import photographs_in
    from llm_mde.hub import load_model_and_processor
    from llm_mde.hub.folders import appearing_whole

    export_format = find_format(options.format, options.int8)
    check_photographs(
        export_format, options.int8, None if options.calibration_data is None else options.num_photographs
    )
    folder = Path(options.output)
    with appearing_whole(folder) as unfinished:
        photographs = None
        if options.calibration_data is not None:
            photographs = photographs_in(options.calibration_data, options.num_photographs)
        model, processor = load_model_and_processor(
            options.model, revision=options.revision, device="cpu", dtype="float32"
        )
        parity = write_export(unfinished, model, processor, export_format, options.int8, photographs)
    print(f"{parity}\n")
    written = [f"  {path} ({path.stat().st_size / 1e6:.1f} MB)" for path in sorted(folder.iterdir())]
    print("Written:", *written, sep="\n")
    print(f"\nOn the machine that it is for: pip install -r {folder / 'requirements.txt'}")
    print(f"python {folder / 'predict.py'} photograph.jpg depth.png")


__all__ = ["ExportArguments", "run"]
