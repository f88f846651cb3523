"""Stanford-ORB in its `blender_LDR` form: pictures and masks in separate folders, cameras of further scenes of the object."""

from __future__ import annotations

from pathlib import Path

from sds3d.datasets.blender import find_picture
from sds3d.datasets.frames import from_opengl, pinhole
from sds3d.datasets.gather import Shot, gather, matrix_of, read_json, size_of
from sds3d.datasets.view_set import ViewSet
from sds3d.errors import AssetError


def load_stanford_orb(folder: Path | str, split: str = "train", shrink: int = 1) -> ViewSet:
    """Return one split of `<object>_scene00x`: "train", "test", or the name of another scene of the same object.

    Pictures lie in `<split>/0000.png`, masks in `<split>_mask/0000.png`; another scene's pictures lie in the neighbouring
    folder of that name, its cameras, already in this scene's world, in `transforms_novel.json`, each with a field of view
    of its own.
    Source: README and orb/datasets of github.com/StanfordORB/Stanford-ORB (facts of the layout).
    Raises: AssetError for missing files, keys or scenes. Limits: the LDR pictures only.
    """
    root = Path(folder)
    is_own = split in ("train", "test")
    path = root / f"transforms_{split if is_own else 'novel'}.json"
    tree = read_json(path)
    base = root if is_own else root.parent / split
    shots = []
    try:
        frames = [frame for frame in tree["frames"] if is_own or frame["scene_name"] == split]
        scenes = sorted({str(frame.get("scene_name", "")) for frame in tree["frames"]} - {""})
        for frame in frames:
            image = find_picture(base / str(frame["file_path"]))
            angle = float(frame.get("camera_angle_x", tree.get("camera_angle_x", "nan")))
            matrix = from_opengl(matrix_of(frame["transform_matrix"], path)[None])[0]
            mask = image.parent.with_name(image.parent.name + "_mask") / f"{image.stem}.png"
            width, height = size_of(image)
            intrinsics = pinhole(1, width, height, angle)[0]
            shots.append(Shot(image=image, mask=mask, cam_to_world=matrix, intrinsics=intrinsics))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AssetError(
            f"'{path}' is no list of cameras ({error!r} is missing or wrong). It needs 'frames' with 'file_path' and "
            "'transform_matrix': copy the file again.",
            path,
        ) from error
    if not shots:
        known = f"'train', 'test' and {', '.join(scenes)}" if scenes else "'train' and 'test'"
        raise AssetError(f"'{root.name}' has no pictures for '{split}'. It knows {known}: give one of them.", path)
    return gather(f"{root.name}/{split}", shots, base, shrink)
