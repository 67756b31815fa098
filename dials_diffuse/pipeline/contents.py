"""Read which stills are in a .expt file, and on which images, without making models of it.

Thousands of stills are looked at, and put into other files, as the JSON that they are. That is fast
and, because dxtbx keeps a crystal as the inverse of what it writes and so changes the last bits
whenever it reads and writes one, also exact.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Sequence
from pathlib import Path

_FILES_OF_IMAGESETS = ("template", "mask", "gain", "pedestal", "dx", "dy")
# Models that stills usually share
_SHARED = ("beam", "detector", "goniometer")


def read_contents(path: str | os.PathLike) -> dict:
    """The JSON of a .expt file, names of files in it made absolute.

    Raises:
        ValueError: missing, unreadable, or without experiments.
    """
    path = Path(path)
    try:
        contents = json.loads(path.read_text())
        contents["experiment"][0]
    except OSError as error:
        raise ValueError(f"Can't read experiments from {path}: {error.strerror}") from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path} holds no experiments") from error
    folder = str(path.resolve().parent)
    for imageset in contents.get("imageset", []):
        if not isinstance(imageset, dict):
            continue
        if isinstance(imageset.get("images"), list):
            imageset["images"] = [_absolute(name, folder) for name in imageset["images"]]
        for key in _FILES_OF_IMAGESETS:
            if imageset.get(key):
                imageset[key] = _absolute(imageset[key], folder)
    return contents


def _absolute(name: str, folder: str) -> str:
    # As dxtbx.serialize.filename.resolve_path does
    return os.path.normpath(os.path.join(folder, os.path.expandvars(os.path.expanduser(name))))


def _model(contents: dict, experiment: dict, name: str):
    number = experiment.get(name)
    return contents[name][number] if isinstance(number, int) else None


def image_keys(contents: dict) -> list[Hashable]:
    """For every experiment what two of them share if they are on the same image."""
    keys = []
    for experiment in contents["experiment"]:
        imageset = _model(contents, experiment, "imageset")
        if not isinstance(imageset, dict):
            keys.append(("imageset", experiment.get("imageset")))
            continue
        names = imageset.get("images") or [imageset.get("template")]
        numbers = imageset.get("single_file_indices") or []
        scan = _model(contents, experiment, "scan")
        first = scan["image_range"][0] if isinstance(scan, dict) and "image_range" in scan else None
        if len(names) == 1 and len(numbers) <= 1 and "template" not in imageset:
            keys.append((names[0], *numbers))
        else:
            keys.append((tuple(names), tuple(numbers), first))
    return keys


def has_sweeps(contents: dict) -> bool:
    """An experiment may have several images"""
    for scan in contents.get("scan", []):
        image_range = scan.get("image_range") if isinstance(scan, dict) else None
        if image_range is None or image_range[0] != image_range[1]:
            return True
    return False


def n_pixels(contents: dict) -> int:
    """Pixels of the first detector, 0 where they are not in the file"""
    detector = _model(contents, contents["experiment"][0], "detector")
    if not isinstance(detector, dict):
        return 0
    sizes = [panel.get("image_size", (0, 0)) for panel in detector.get("panels", [])]
    return sum(fast * slow for fast, slow in sizes)


def images_of(contents: dict) -> list[str]:
    """Files of the images, each once"""
    names = {}
    for imageset in contents.get("imageset", []):
        if isinstance(imageset, dict):
            names.update(dict.fromkeys(imageset.get("images") or []))
    return list(names)


def masks(contents: dict) -> list[str | None]:
    """The lookup mask of every experiment"""
    found = []
    for experiment in contents["experiment"]:
        imageset = _model(contents, experiment, "imageset")
        found.append(imageset.get("mask") if isinstance(imageset, dict) else None)
    return found


def groups_of(keys: Sequence[Hashable]) -> list[list[int]]:
    """Positions of equal keys together, in order of first appearance"""
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def batches_of(keys: Sequence[Hashable], size: int) -> list[list[int]]:
    """Indices of the experiments of each batch: at most size of them, but never the lattices of one
    image apart, since each must know the others' spots.

    Args:
        keys: of image_keys
        size: number of stills
    """
    batches: list[list[int]] = [[]]
    for group in groups_of(keys):
        if batches[-1] and len(batches[-1]) + len(group) > size:
            batches.append([])
        batches[-1] += group
    return batches


def combined(
    parts: Sequence[dict], indices: Sequence[Sequence[int]], identifiers: Sequence[Sequence[str]]
) -> dict:
    """Experiments of several files as those of one.

    Args:
        parts: contents of the files
        indices: of the experiments of each file
        identifiers: of all experiments of each file
    """
    whole: dict = {"__id__": "ExperimentList", "experiment": []}
    seen: dict[tuple, int] = {}
    for number, (contents, chosen, names) in enumerate(zip(parts, indices, identifiers)):
        # Kept is what is not a list of models, and the history
        for name, value in contents.items():
            if name != "experiment" and name not in whole:
                whole[name] = [] if isinstance(value, list) and name != "history" else value
        for index in chosen:
            experiment = {**contents["experiment"][index], "identifier": names[index]}
            for name, model in experiment.items():
                if not isinstance(model, int) or not isinstance(contents.get(name), list):
                    continue
                if (name, number, model) not in seen:
                    value = contents[name][model]
                    same = (name, json.dumps(value, sort_keys=True)) if name in _SHARED else None
                    if same not in seen:
                        if same:
                            seen[same] = len(whole[name])
                        seen[name, number, model] = len(whole[name])
                        whole[name].append(value)
                    else:
                        seen[name, number, model] = seen[same]
                experiment[name] = seen[name, number, model]
            whole["experiment"].append(experiment)
    return whole
