from pathlib import Path

from jobs.store.job_file import read_code_revision


def test_the_revision_is_read_from_a_checkout(tmp_path: Path) -> None:
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert read_code_revision(tmp_path) == ""
    (git / "packed-refs").write_text("# pack\n1234 refs/heads/main\n")
    assert read_code_revision(tmp_path) == "1234"
    (git / "refs" / "heads" / "main").write_text("5678\n")
    assert read_code_revision(tmp_path) == "5678"
    (git / "HEAD").write_text("9abc\n")
    assert read_code_revision(tmp_path) == "9abc"
    assert read_code_revision(tmp_path / "nowhere") == "0.1.0"
