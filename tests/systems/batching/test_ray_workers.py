"""Ray as the engine: the adapter against a Ray on paper, the names it uses against the real one, and a real batch."""

from __future__ import annotations

import importlib.util
import inspect
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sds3d.config import load_recipe
from sds3d.errors import BackendError, ConfigError
from systems.batching import batch, ray_workers
from systems.batching.batch import BatchSettings, uses_ray
from systems.batching.executors import Died, Ended, Ready, WorkerSettings
from systems.batching.folder import BatchFolder
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


def on_paper(
    monkeypatch: pytest.MonkeyPatch, answers: list[Any], address: str | None = None, **settings: Any
) -> tuple[RayWorkers, RayOnPaper]:
    ray = RayOnPaper(answers)
    monkeypatch.setattr(ray_workers, "_connected", lambda *_: ray)
    return RayWorkers(WorkerSettings(lock=Path("lock"), **settings), 2, address), ray


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
    assert "runtime_env" not in ray.options  # a Ray of our own has it from us
    joined = on_paper(monkeypatch, [], threads=3, address="auto")[1].options["runtime_env"]["env_vars"]
    assert joined["OMP_NUM_THREADS"] == "3" and "PYTHONPATH" not in joined


def test_a_ray_of_our_own_is_told_where_the_program_is_and_to_keep_to_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []
    inherited: list[dict[str, str]] = []

    def init(**given: Any) -> None:
        asked.append(given)
        inherited.append(dict(os.environ))
        assert services.get_node("here") == "found"

    answers: list[Any] = [RuntimeError("not yet"), RuntimeError("not yet"), "found", "found", RuntimeError("no"), "-"]

    def get_node(place: str) -> str:
        answer = answers.pop(0)
        if isinstance(answer, RuntimeError):
            raise answer
        return str(answer)

    services = SimpleNamespace(get_node=get_node)
    fake = SimpleNamespace(init=init, shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray._private", SimpleNamespace(services=services))
    monkeypatch.setattr(ray_workers, "_hush", lambda: None)
    monkeypatch.setattr(ray_workers, "_end_children", lambda: asked.append({"ended": True}))
    monkeypatch.setattr(ray_workers, "is_installed", lambda: True)
    for name in (*ray_workers._OF_RAY, *ray_workers._OF_OUR_OWN):
        monkeypatch.setenv(name, "")  # so that what is set below is undone after the test
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    settings = WorkerSettings(lock=Path("lock"), threads=2)
    assert ray_workers._connected(settings, 3, None) is fake and services.get_node is get_node
    assert (asked[0]["address"], asked[0]["num_cpus"], asked[0]["include_dashboard"]) == ("local", 6, False)
    assert inherited[0]["OMP_NUM_THREADS"] == "2" and str(PROGRAM.parents[3]) in inherited[0]["PYTHONPATH"]
    assert inherited[0]["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == inherited[0]["RAY_worker_niceness"] == "0"
    assert os.environ["OMP_NUM_THREADS"] == "7"
    ray_workers._connected(settings, 3, "auto")
    assert asked[1]["address"] == "auto" and "num_cpus" not in asked[1] and inherited[1]["OMP_NUM_THREADS"] == "7"
    monkeypatch.setattr(ray_workers, "_START_S", -1.0)
    with pytest.raises(BackendError, match=r"Ray does not start \(address this machine\): no .*--engine processes"):
        ray_workers._connected(settings, 3, None)
    assert asked[3] == {"ended": True} and answers == ["-"] and services.get_node is get_node


def test_there_are_as_many_workers_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_paper(monkeypatch, [], threads=2)[0].room() == 3
    assert on_paper(monkeypatch, [], threads=1, gpus=0.5)[0].room() == 2
    assert on_paper(monkeypatch, [], threads=9)[0].room() == 1


def test_the_engine_is_chosen_and_its_absence_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def settings(**given: Any) -> BatchSettings:
        return BatchSettings(wishes=Wishes(), **given)

    for has_ray in (True, False):
        monkeypatch.setattr(batch, "is_installed", lambda has_ray=has_ray: has_ray)
        assert uses_ray(settings(), 2) is has_ray and not uses_ray(settings(), 1)
        assert uses_ray(settings(address="auto"), 1)
        assert uses_ray(settings(engine="ray"), 1) and not uses_ray(settings(engine="processes"), 4)
    with pytest.raises(ConfigError, match="--address names a Ray cluster, but --engine is processes"):
        uses_ray(settings(engine="processes", address="auto"), 2)
    monkeypatch.setattr(ray_workers, "is_installed", lambda: False)
    with pytest.raises(BackendError, match=r"Ray is not installed.*pip install.*--engine processes"):
        RayWorkers(WorkerSettings(lock=Path("lock")), 2)


def test_processes_take_over_where_ray_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*_: Any) -> None:
        raise BackendError("Ray does not start.")

    monkeypatch.setattr(batch, "is_installed", lambda: True)
    monkeypatch.setattr(batch, "RayWorkers", fails)
    monkeypatch.setattr(batch, "processors", lambda: 4)

    def session(**given: Any) -> Any:
        made = object.__new__(batch._Session)
        made.settings, made.folder = BatchSettings(wishes=Wishes(), workers=2, **given), BatchFolder(tmp_path)
        made.console = Console(file=io.StringIO(), width=200)
        made.missing = [SimpleNamespace(recipe=load_recipe())]
        return made

    auto = session()
    executor, count, worker = auto._workers(7)
    assert isinstance(executor, batch.Processes) and count == worker.threads == 2
    assert auto.console.file.getvalue() == "Warning: Ray does not start. Processes are taken now.\n"
    for wanted in ({"engine": "ray"}, {"address": "auto"}):  # who asks for Ray wants Ray
        with pytest.raises(BackendError, match="does not start"):
            session(**wanted)._workers(7)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install ray")
def test_ray_knows_what_we_call() -> None:
    import ray

    assert {"address", "num_cpus", "include_dashboard", "object_store_memory", "log_to_driver", "logging_level"} <= set(
        inspect.signature(ray.init).parameters
    )
    assert callable(ray._private.worker.print_to_stdstream) and callable(ray._private.services.get_node)
    assert {"num_returns", "timeout"} <= set(inspect.signature(ray.wait).parameters)
    assert "no_restart" in inspect.signature(ray.kill).parameters
    assert issubclass(ray.exceptions.RayActorError, ray.exceptions.RayError)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install ray")
@pytest.mark.skipif(not Path("/proc/net/tcp6").is_file(), reason="reads the sockets of Linux")
def test_nobody_else_reaches_a_ray_of_our_own() -> None:
    code = (
        "import os, sys; from pathlib import Path; from systems.batching.ray_workers import _connected;"
        "from systems.batching.executors import WorkerSettings;"
        "ray = _connected(WorkerSettings(lock=Path('lock')), 1, None);"
        "facts = ray.remote(lambda: (os.nice(0), os.environ['OMP_NUM_THREADS']));"
        "print(os.nice(0), *ray.get(facts.remote()), *(n['NodeManagerAddress'] for n in ray.nodes()));"
        "lines = [line.split() for name in ('tcp', 'tcp6') for line in open(f'/proc/net/{name}').readlines()[1:]];"
        "print(*(line[1] for line in lines if line[3] == '0A'), ray.nodes()[0]['NodeManagerPort'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROGRAM.parents[3], capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stderr
    facts, sockets = (line.split() for line in done.stdout.splitlines()[-2:])
    assert facts[0] == facts[1], "workers are as important as the program"
    assert facts[2:] == ["1", "127.0.0.1"]
    *listening, port = sockets
    (host,) = {place.split(":")[0] for place in listening if int(place.split(":")[1], 16) == int(port)}
    assert host in ("0100007F", "0000000000000000FFFF00000100007F"), "127.0.0.1 alone"


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
    assert "(raylet)" not in done.stdout + done.stderr
    assert "2 workers (Ray, 1 threads each)" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "out" / "index.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == prompts
    reasons = {row["prompt"]: row["reason"] for row in rows}
    assert reasons.pop("finds a fault") == "crash" and reasons.pop("dies always") == "killed"
    assert set(reasons.values()) == {""}
    lines = [line.split() for line in (tmp_path / "out" / "made.log").read_text().splitlines()]
    assert len([name for what, name, _ in lines if what == "end"]) == 4
    assert [what for what, name, _ in lines if name.startswith("dies-once") and what == "resume"] == ["resume"]
