"""Files of prompts: three forms, odd characters, and lines that are wrong without spoiling the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sds3d.errors import AssetError, ConfigError
from systems.batching.jobs import Job, Wishes
from systems.batching.prompt_file import BadLine, Line, PromptLine, read_prompts


def read(tmp_path: Path, name: str, text: str | bytes) -> list[Line]:
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_prompts(file)


def test_plain_text(tmp_path: Path) -> None:
    text = '\ufeffa red mug\n\n  # a comment\n  ../x \r\n😀, "quoted"\n'
    assert read(tmp_path, "p.txt", text) == [
        PromptLine(line=1, text="a red mug"),
        PromptLine(line=4, text="../x"),
        PromptLine(line=5, text='😀, "quoted"'),
    ]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_tables(tmp_path: Path, mark: str) -> None:
    rows = ["seed,prompt,training.steps", "3,a red mug,20", ',"two\nlines",', "x,a mug,", ",,5", "1,a,2,3"]
    text = "\n".join(row.replace(",", mark) for row in rows)
    found = read(tmp_path, "p.csv", text)
    assert found[:2] == [
        PromptLine(line=2, text="a red mug", seed=3, overrides=("training.steps=20",)),
        PromptLine(line=4, text="two\nlines"),
    ]
    problems = [line.problem for line in found[2:] if isinstance(line, BadLine)]
    assert problems == [
        "the seed 'x' is no whole number from 0",
        "the prompt is empty",
        "it has more cells than columns",
    ]


def test_objects(tmp_path: Path) -> None:
    good = {"prompt": "a\nmug", "seed": 7, "overrides": {"training.steps": 5, "cameras.elevation_deg": [0, 30]}}
    bad = [
        '{"prompt": "a"',
        "[" * 100_000,
        "[1]",
        '{"promt": "a"}',
        '{"seed": 1}',
        '{"prompt": "a", "seed": true}',
        '{"prompt": "a", "seed": -1}',
        '{"prompt": "a", "overrides": ["x=1"]}',
        '{"prompt": "a", "overrides": {"no key": 1}}',
        '{"prompt": "\\ud800"}',
        '{"prompt": "a\\u0000b"}',
        '{"prompt": "  "}',
    ]
    found = read(tmp_path, "p.jsonl", "\n".join([json.dumps(good), '"just a text"', *bad]))
    assert found[:2] == [
        PromptLine(line=1, text="a\nmug", seed=7, overrides=("training.steps=5", "cameras.elevation_deg=[0, 30]")),
        PromptLine(line=2, text="just a text"),
    ]
    told = [
        "not JSON",
        "not JSON",
        "is a list",
        "mean 'prompt'",
        "no 'prompt'",
        "seed 'True'",
        "seed '-1'",
        "no object",
    ]
    told += ["'no key' is no key", "surrogate", "control characters", "prompt is empty"]
    for line, words in zip(found[2:], told, strict=True):
        assert isinstance(line, BadLine) and words in line.problem, line.problem


@pytest.mark.parametrize(
    ("name", "content", "kind", "words"),
    [
        ("p.md", b"a", ConfigError, r"ends in '\.md', but \.txt .* \.csv or \.jsonl is needed"),
        ("p.txt", b"", ConfigError, "holds no prompt"),
        ("p.txt", b"# only this\n", ConfigError, "holds no prompt"),
        ("p.txt", b"caf\xe9", AssetError, r"not UTF-8 text \(byte 3 is 0xe9\)"),
        ("p.csv", b"text,seed\na,1\n", ConfigError, "no column 'prompt': its first line is 'text,seed'"),
        ("p.csv", b"prompt\n" + b'"' + b"x" * 200_000, AssetError, "cannot be read: field larger"),
    ],
)
def test_files_that_cannot_be_used(
    tmp_path: Path, name: str, content: bytes, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        read(tmp_path, name, content)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="cannot be read: no such file"):
        read_prompts(tmp_path / "gone.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(AssetError, match="cannot be read: is a directory"):
        read_prompts(tmp_path / "folder.txt")


def resolved(lines: list[Line], **wishes: object) -> tuple[list[Job], list[str]]:
    jobs, refused = Wishes(overlays=("tiny",), **wishes).resolve(lines)  # type: ignore[arg-type]
    return jobs, [one.problem for one in refused]


def test_jobs_are_known_by_their_content() -> None:
    lines: list[Line] = [
        PromptLine(line=1, text="a red mug"),
        PromptLine(line=2, text="a red mug", seed=1),
        PromptLine(line=3, text="a red mug", overrides=("training.steps=7",)),
        PromptLine(line=4, text="a red mug", seed=0),
    ]
    jobs, problems = resolved(lines)
    assert not problems and [job.lines for job in jobs] == [(1, 4), (2,), (3,)]
    assert len({job.key for job in jobs}) == 3 and len({job.name for job in jobs}) == 3
    assert jobs[2].recipe.training.steps == 7 and jobs[0].recipe.training.steps == 40
    again, _ = resolved(lines)
    assert [job.key for job in again] == [job.key for job in jobs]
    other, _ = resolved(lines, max_steps=3)
    assert not {job.key for job in other} & {job.key for job in jobs} and other[0].recipe.training.steps == 3
    seeded, _ = resolved(lines[:2], seed=9)
    assert [job.recipe.seed for job in seeded] == [9, 1]


@pytest.mark.parametrize("text", ["../../etc", "a/b\\c", "😀" * 300, "é" * 300, "con:aux|?", "x " * 500, ". ."])
def test_names_of_folders_are_harmless(text: str) -> None:
    ((job,), _) = resolved([PromptLine(line=1, text=text)])
    assert job.name.endswith(job.key[:10]) and len(job.name.encode()) <= 100
    assert not set(job.name) & set('/\\:*?"<>|\n\0') and not job.name.startswith((".", "-"))


def test_a_wrong_line_is_refused_and_the_others_stay() -> None:
    lines: list[Line] = [
        PromptLine(line=1, text="x" * 10_000),
        PromptLine(line=2, text="a mug", overrides=("training.stepz=3",)),
        BadLine(line=3, text="{", problem="it is not JSON"),
        PromptLine(line=4, text="a mug", seed=2**40),
        PromptLine(line=5, text="a mug"),
    ]
    jobs, problems = resolved(lines)
    assert [job.lines for job in jobs] == [(5,)]
    assert "Line 1: 'prompt.text' is 'xxx" in problems[0] and len(problems[0]) < 500
    assert "Line 2: Unknown key 'training.stepz'" in problems[1] and "training.steps" in problems[1]
    assert problems[2] == "Line 3: it is not JSON. Given: '{'. Correct the line."
    assert "Line 4: 'seed'" in problems[3]


def test_a_recipe_that_cannot_be_used_is_no_matter_of_lines() -> None:
    with pytest.raises(ConfigError, match="Unknown recipe 'quickstrat'"):
        Wishes(recipe="quickstrat").resolve([PromptLine(line=1, text="a mug")])
