"""TUM RGB-D (Sturm et al., 2012): sequences whose photographs and depth maps are paired by their time stamps."""

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

from .dataset_layouts import DepthTable, block_split, inside, table_of_pairs
from .depth_readers import FilePair
from .depth_samples import Intrinsics

TUM_DEPTH_SCALE = 1 / 5000
MAX_TIME_DIFFERENCE = 0.02  # seconds, as in the tool of the benchmark
# The colour cameras, as the benchmark calibrates them; a sequence carries its camera in its name.
TUM_INTRINSICS = {
    "freiburg1": Intrinsics(fx=517.3, fy=516.5, cx=318.6, cy=255.3),
    "freiburg2": Intrinsics(fx=520.9, fy=521.0, cx=325.1, cy=249.7),
    "freiburg3": Intrinsics(fx=535.4, fy=539.2, cx=320.1, cy=247.6),
}


def open_tum_rgbd(root: Path, split: str | None, depth_scale: float | None = None) -> DepthTable:
    """One sequence, a folder with `rgb.txt` and `depth.txt`, or a folder of sequences.

    The lists name a time stamp and a file a line. Photograph and depth are paired where their stamps differ by less
    than 0.02 s, closest first, each of them once; the others are left out. `train` and `val` are blocks of frames of
    one sequence, or whole sequences of several.

    Args:
        root (`Path`): The folder.
        split (`str`, *optional*): `"train"`, `"val"`, or `None` for everything.
        depth_scale (`float`, *optional*, defaults to 1/5000): Metres per stored unit.

    Raises:
        ValueError: If a list cannot be read, nothing pairs, files are missing, or the split is empty.
    """
    sequences = tum_sequences(root)
    if not sequences:
        raise ValueError(f"`source` is {str(root)!r}, and neither it nor its folders hold rgb.txt and depth.txt.")
    scale = TUM_DEPTH_SCALE if depth_scale is None else depth_scale
    if len(sequences) > 1:
        sequences = block_split(sequences, split, root, "sequences")
        pairs = [pair for sequence in sequences for pair in _pairs_of_sequence(root, sequence, scale)]
    else:
        pairs = block_split(_pairs_of_sequence(root, sequences[0], scale), split, root, "pairs")
    return table_of_pairs(root, pairs)


def tum_sequences(root: Path) -> list[Path]:
    """The folder itself or those in it that are a sequence."""
    folders = [root, *sorted(folder for folder in root.iterdir() if folder.is_dir())]
    sequences = [folder for folder in folders if (folder / "rgb.txt").is_file() and (folder / "depth.txt").is_file()]
    return [root] if root in sequences else sequences


def associate(
    first: Sequence[float], second: Sequence[float], max_difference: float = MAX_TIME_DIFFERENCE
) -> list[tuple[int, int]]:
    """Pair time stamps that differ by less than `max_difference`, closest first, each used once.

    Args:
        first (`Sequence[float]`), second (`Sequence[float]`): Time stamps in seconds, ascending.
        max_difference (`float`, *optional*, defaults to 0.02): In seconds.

    Returns:
        `list[tuple[int, int]]`: Positions in both, in the order of `first`.
    """
    candidates = []
    for position, stamp in enumerate(first):
        other = bisect_left(second, stamp - max_difference)
        while other < len(second) and second[other] < stamp + max_difference:
            if abs(second[other] - stamp) < max_difference:
                candidates.append((abs(second[other] - stamp), position, other))
            other += 1
    pairs: dict[int, int] = {}
    used = set()
    for _, position, other in sorted(candidates):
        if position not in pairs and other not in used:
            pairs[position] = other
            used.add(other)
    return sorted(pairs.items())


def _pairs_of_sequence(root: Path, sequence: Path, scale: float) -> list[FilePair]:
    photographs, depth_maps = (_stamped_files(sequence, name) for name in ("rgb.txt", "depth.txt"))
    matched = associate([stamp for stamp, _ in photographs], [stamp for stamp, _ in depth_maps])
    if not matched:
        raise ValueError(
            f"{str(sequence)!r} has {len(photographs)} photographs and {len(depth_maps)} depth maps, and no two of "
            f"them are within {MAX_TIME_DIFFERENCE} s; are both lists of one recording?"
        )
    # A sequence that was given as the folder itself has its name in the path that leads there.
    name = sequence.resolve().name
    camera = next((camera for key, camera in TUM_INTRINSICS.items() if key in name), None)
    return [
        FilePair(
            name=photographs[first][1].relative_to(root).as_posix(),
            rgb=photographs[first][1],
            depth=depth_maps[second][1],
            scale=scale,
            intrinsics=camera,
        )
        for first, second in matched
    ]


def _stamped_files(sequence: Path, name: str) -> list[tuple[float, Path]]:
    files = []
    for number, line in enumerate((sequence / name).read_text().splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        try:
            files.append((float(fields[0]), inside(sequence, fields[1])))
        except (ValueError, IndexError) as error:
            raise ValueError(f"{str(sequence / name)!r}, line {number}: {error}") from None
    return sorted(files)
