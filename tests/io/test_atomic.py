from __future__ import annotations

import os
import pathlib
import stat

import pytest

from dials_diffuse.io.atomic import replacing


def test_file_appears_whole(tmp_path):
    target = tmp_path / "map.h5"
    with replacing(target) as temporary:
        assert temporary.endswith(".h5")
        with open(temporary, "w") as handle:
            handle.write("all of it")
        assert not target.exists()
    assert target.read_text() == "all of it"
    assert os.listdir(tmp_path) == ["map.h5"]


def test_failure_leaves_the_old_file_and_no_trace(tmp_path):
    target = tmp_path / "diffuse_masked.refl"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        with open(temporary, "w") as handle:
            handle.write("half of")
        raise RuntimeError("killed")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["diffuse_masked.refl"]


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        with replacing(tmp_path / "a.json") as temporary:
            pathlib.Path(temporary).write_text("{}")
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(tmp_path / "a.json").st_mode) == 0o640


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="Can't write .*nowhere"):
        with replacing(tmp_path / "nowhere" / "a.expt"):
            pass
