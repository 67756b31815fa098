from __future__ import annotations

from dials_diffuse.io.paths import names_a_file


def test_files_and_values(run_in_tmp_path):
    (run_in_tmp_path / "protein.fasta").write_text("GAVL")
    assert names_a_file("protein.fasta") and names_a_file(run_in_tmp_path / "protein.fasta")
    assert not names_a_file(run_in_tmp_path)
    assert not names_a_file("GAVL")
    assert not names_a_file(100 * "GAVLIS")
