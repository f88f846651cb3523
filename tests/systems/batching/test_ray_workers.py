"""Ray as the engine: the adapter against a Ray on paper, the names it uses against the real one, and a real batch."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sds3d.errors import BackendError, ConfigError
from systems.batching import ray_workers
from systems.batching.batch import BatchSettings, uses_ray
from systems.batching.executors import Died, Ended, Ready, WorkerSettings
from systems.batching.jobs import Wishes
from systems.batching.ray_workers import RayWorkers
from systems.batching.worker import Order, Result

PROGRAM = Path(__file__).with_name("light_batch.py")
HAS_RAY = importlib.util.find_spec("ray") is not None


class RayOnPaper:
    """Actors whose calls are carried out when they are asked for; "dies" and "hangs" as answers do that."""

    class RayError(Exception):
        pass

    def __init__(self, answers: list[Any]) -> None:
        self.answers, self.killed, self.options, self.is_down = answers, 0, {}, False
        self.exceptions = SimpleNamespace(RayError=self.RayError)

    def remote(self, kind: type) -> Any:
        def options(**given: Any) -> Any:
            self.options = given
            return SimpleNamespace(remote=lambda *arguments: _Actor())

        return SimpleNamespace(options=options)

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        ready = references[:1] if self.answers and self.answers[0] != "hangs" else []
        return ready, references[len(ready) :]

    def get(self, reference: Any) -> Any:
        answer = self.answers.pop(0)
        if answer == "dies":
            raise self.RayError("The actor died.\nIts process\nwas killed by SIGKILL.")
        return answer

    def kill(self, actor: Any, no_restart: bool) -> None:
        self.killed += 1

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 7.0, "GPU": 1.0}

    def shutdown(self) -> None:
        self.is_down = True


class _Actor:
    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: object())


ORDER = Order(folder=Path("x"), recipe=None, failures=Path("x"))  # type: ignore[arg-type]


def on_paper(monkeypatch: pytest.MonkeyPatch, answers: list[Any], **settings: Any) -> tuple[RayWorkers, RayOnPaper]:
    ray = RayOnPaper(answers)
    monkeypatch.setattr(ray_workers, "_connected", lambda *_: ray)
    return RayWorkers(WorkerSettings(lock=Path("lock"), **settings), 2), ray


def test_answers_become_events(monkeypatch: pytest.MonkeyPatch) -> None:
    done = Result(seconds=1.0)
    workers, ray = on_paper(monkeypatch, ["one", done, "dies", "again", "hangs"], threads=2, gpus=0.5)
    assert workers.wait(0.0) == []
    workers.start(0)
    assert workers.wait(0.0) == [Ready(0, "one")]
    workers.submit(0, ORDER)
    assert workers.wait(0.0) == [Ended(0, done)]
    workers.submit(0, ORDER)
    assert workers.wait(0.0) == [Died(0, "The worker died: The actor died. ... was killed by SIGKILL.")]
    workers.start(0)
    assert workers.wait(0.0) == [Ready(0, "again")]
    workers.submit(0, ORDER)
    assert workers.wait(0.0) == []
    workers.kill(0)
    assert not workers._waiting and not workers._workers and ray.killed == 2
    workers.start(0)
    workers.close()
    assert ray.killed == 3 and ray.is_down
    assert (ray.options["num_cpus"], ray.options["num_gpus"], ray.options["max_restarts"]) == (2, 0.5, 0)
    variables = ray.options["runtime_env"]["env_vars"]
    assert variables["OMP_NUM_THREADS"] == "2" and str(PROGRAM.parents[3]) in variables["PYTHONPATH"]


def test_there_are_as_many_workers_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_paper(monkeypatch, [], threads=2)[0].room() == 3
    assert on_paper(monkeypatch, [], threads=1, gpus=0.5)[0].room() == 2
    assert on_paper(monkeypatch, [], threads=9)[0].room() == 1


def test_the_engine_is_chosen_and_its_absence_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def settings(**given: Any) -> BatchSettings:
        return BatchSettings(wishes=Wishes(), **given)

    assert not uses_ray(settings(workers=4)) and uses_ray(settings(address="auto"))
    assert uses_ray(settings(engine="ray")) and not uses_ray(settings(engine="processes"))
    with pytest.raises(ConfigError, match="--address names a Ray cluster, but --engine is processes"):
        uses_ray(settings(engine="processes", address="auto"))
    monkeypatch.setattr(ray_workers, "is_installed", lambda: False)
    with pytest.raises(BackendError, match=r"Ray is not installed.*pip install.*--engine processes"):
        RayWorkers(WorkerSettings(lock=Path("lock")), 2)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install ray")
def test_ray_knows_what_we_call() -> None:
    import ray

    assert {"address", "num_cpus", "include_dashboard", "object_store_memory", "log_to_driver", "logging_level"} <= set(
        inspect.signature(ray.init).parameters
    )
    assert {"num_returns", "timeout"} <= set(inspect.signature(ray.wait).parameters)
    assert "no_restart" in inspect.signature(ray.kill).parameters
    assert issubclass(ray.exceptions.RayActorError, ray.exceptions.RayError)


@pytest.mark.slow
@pytest.mark.timeout(900)  # Ray starts half a dozen processes
@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install ray")
def test_a_batch_on_ray_survives_its_workers(tmp_path: Path) -> None:
    prompts = ["dies once", "a red mug", "finds a fault", "a blue mug", "dies always", "a green mug"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    options = ["--workers", "2", "--engine", "ray", "--retries", "1", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path / "prompts.txt"), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 workers (Ray, 1 threads each)" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "out" / "index.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == prompts
    reasons = {row["prompt"]: row["reason"] for row in rows}
    assert reasons.pop("finds a fault") == "crash" and reasons.pop("dies always") == "killed"
    assert set(reasons.values()) == {""}
    lines = [line.split() for line in (tmp_path / "out" / "made.log").read_text().splitlines()]
    assert len([name for what, name, _ in lines if what == "end"]) == 4
    assert [what for what, name, _ in lines if name.startswith("dies-once") and what == "resume"] == ["resume"]
