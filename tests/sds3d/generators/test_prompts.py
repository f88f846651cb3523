"""Prompts in files and in batches (G11; duplicates, empty lines, 100 000 lines)."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
import torch

from sds3d.errors import AssetError, ConfigError, ShapeError
from sds3d.generators.prompts import PromptBatch, PromptFile
from sds3d.prompts import Prompt


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_duplicates_empty_lines_and_comments_are_left_out(tmp_path: Path) -> None:
    file = PromptFile(write(tmp_path / "p.txt", "a red car\n\n  a red car \n# note\nein grüner Würfel\n\t\na dog"))
    assert list(file) == ["a red car", "ein grüner Würfel", "a dog"]
    assert (len(file), file.duplicates, file.skipped) == (3, 1, 3)
    assert file.batch([2, 3, 4]) == ["a dog", "a red car", "ein grüner Würfel"]


def test_windows_line_ends_and_marks_do_not_become_part_of_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(b"\xef\xbb\xbfa cat\r\na dog\r\n")
    assert list(PromptFile(path)) == ["a cat", "a dog"]


def test_a_hundred_thousand_lines_stay_on_disk(tmp_path: Path) -> None:
    long = "with many further words that nobody wants to keep in memory, " * 4
    path = write(tmp_path / "p.txt", "".join(f"object {n % 90_000} {long}\n" for n in range(100_000)))
    tracemalloc.start()
    file = PromptFile(path)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(file) == 90_000 and file.duplicates == 10_000
    assert kept < 2e6 < path.stat().st_size / 10
    assert most < path.stat().st_size / 2  # scanning keeps a short key of each prompt, not its text
    assert file[89_999].startswith("object 89999 ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n \n", "holds no prompt"),
        (b"\xff\xfe\x00", "not UTF-8 text at byte 0"),
        (b"x" * 50_000, "more than 4096 characters"),
    ],
)
def test_files_that_are_no_prompts_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(content)
    with pytest.raises(AssetError, match=message):
        PromptFile(path)
    with pytest.raises(AssetError, match="cannot be read"):
        PromptFile(tmp_path / "missing.txt")


def test_the_fingerprint_follows_content_and_order(tmp_path: Path) -> None:
    first = PromptFile(write(tmp_path / "a.txt", "x\ny\n")).fingerprint()
    assert first == PromptFile(write(tmp_path / "b.txt", "x\n\ny\nx\n")).fingerprint()
    assert first != PromptFile(write(tmp_path / "c.txt", "y\nx\n")).fingerprint()


@pytest.mark.parametrize("view_dependent", [False, True])
@pytest.mark.parametrize("blend", [False, True])
def test_every_picture_has_the_embedding_of_its_own_prompt(view_dependent: bool, blend: bool) -> None:
    texts = ["a car", "a dog", "a car"]
    batch = PromptBatch.of(texts, 4, Prompt(text="-", view_dependent=view_dependent))
    azimuth = torch.tensor([0.0, 90.0, 180.0, 270.0]).repeat(3) + 10.0
    elevation = torch.full((12,), 15.0)
    asked = batch.texts("y")
    rows = torch.arange(len(asked), dtype=torch.float32)[:, None, None].expand(-1, 2, 3)
    found = batch.embed(rows, azimuth, elevation, "y", blend)
    for number, text in enumerate(texts):
        single = Prompt(text=text, view_dependent=view_dependent)
        own = torch.stack([rows[asked.index(words)] for words in single.texts("y")])
        part = slice(4 * number, 4 * number + 4)
        expected = single.embed(own, azimuth[part], elevation[part], "y", blend)
        torch.testing.assert_close(found[part], expected)
    assert batch.texts("0") == ("",) and len(set(asked)) == len(asked)


def test_one_view_an_object_keeps_prompts_and_pictures_together() -> None:
    batch, chosen = PromptBatch.of(["a", "b"], 4).pick(torch.Generator().manual_seed(0))
    assert batch.views == 1 and (chosen // 4).tolist() == [0, 1]


def test_wrong_batches_are_refused() -> None:
    with pytest.raises(ConfigError, match="is empty"):
        PromptBatch.of([], 4)
    with pytest.raises(ShapeError, match="views of each prompt"):
        PromptBatch.of(["a"], 2).embed(torch.zeros(1, 1, 1), torch.zeros(3), torch.zeros(3))
