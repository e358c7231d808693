"""Runs that are killed, stopped, and robbed of their files at random, and have to come to the same end.

Run: python benchmarks/faults.py --faults 200 [--processes 1,2,3] [--seed 0]     (Linux; a full disk needs root)

Every run is trained once without faults for each number of processes. Then runs with faults are resumed until they end,
and their journals have to be equal to that of the undisturbed run in everything but the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vplface.progress import progress
from vplface.training.checkpoint_manifest import newest_checkpoint

STEPS, EVERY = 40, 4
RECIPE = """
name: {name}
output: {output}
data: {{train: {{path: {faces}, synthetic: {{identities: 20, pictures: 6}}}}, workers: 1}}
backbone: {{name: tiny, embedding_dim: 16, options: {{width: 8, dropout: 0.1}}}}
margin: {{name: arcface, scale: 16, margin: 0.2}}
variational: {{lam: 0.3, delta_t: 5, start: 6}}
optimizer: {{lr: 0.05}}
schedule: {{length: {steps}, warmup: 5}}
batch_size: 24
ema: 0.9
threads: 1
device: cpu
checkpoint_every: {every}
log_every: 1
drift_every: 10
timeout: 60
evaluation: {{bootstrap: 20}}
"""
CLOCKS = ("pictures_per_second", "time")
STOPS = {"SIGTERM": signal.SIGTERM, "SIGUSR1": signal.SIGUSR1}
DAMAGES = ("file truncated", "bit flipped", "file deleted")
KINDS = ("one rank killed", "all killed", *STOPS, "killed while saving", *DAMAGES, "picture deleted", "disk full")


class DrillError(AssertionError):
    """A run did not do what it has to do after a fault."""


@dataclass
class Run:
    """A run folder, and the processes that train in it."""

    folder: Path
    faces: Path
    processes: int
    child: subprocess.Popen[str] | None = None

    def start(self, *options: str) -> None:
        """Train, under torchrun where there are several processes."""
        recipe = self.folder.parent / f"{self.folder.name}.yaml"
        recipe.write_text(
            RECIPE.format(name=self.folder.name, output=self.folder.parent, faces=self.faces, steps=STEPS, every=EVERY)
        )
        command = [sys.executable, "-m", "vplface", "train", str(recipe), *options]
        if self.processes > 1:
            launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"]
            command = [sys.executable, "-m", *launcher, "--max-restarts=2", *command[1:]]
        self.child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def finish(self) -> tuple[int, str]:
        """Exit status and output of what was started."""
        assert self.child is not None
        output, _ = self.child.communicate(timeout=300)
        return self.child.returncode, output

    def ranks(self) -> list[int]:
        """Process ids of the ranks."""
        assert self.child is not None
        if self.processes == 1:
            return [self.child.pid]
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, IndexError, ValueError):
                if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == self.child.pid:
                    environment = (entry / "environ").read_bytes().split(b"\0")
                    rank = next(int(item[5:]) for item in environment if item.startswith(b"RANK="))
                    found[rank] = int(entry.name)
        return [found[rank] for rank in sorted(found)]

    def kill(self) -> None:
        """End everything at once."""
        assert self.child is not None
        ranks = self.ranks()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank, signal.SIGKILL)
        self.child.communicate()

    def journal(self) -> list[dict[str, object]]:
        """What the run has measured so far."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def step(self) -> int:
        """Steps taken so far."""
        journal = self.journal()
        return int(str(journal[-1]["step"])) if journal else 0

    def wait_for(self, step: int) -> bool:
        """Wait until a step has been taken; False if the run has ended before."""
        assert self.child is not None
        while self.step() < step:
            if self.child.poll() is not None:
                return False
            time.sleep(0.005)
        return True

    def wait_for_writing(self) -> bool:
        """Wait until a checkpoint is being written; False if the run has ended before."""
        assert self.child is not None
        while not any((self.folder / "checkpoints").glob(".step-*/*.safetensors")):
            if self.child.poll() is not None:
                return False
            time.sleep(0.0005)
        return True


def require(truth: bool, run: Run, what: str, output: str = "") -> None:
    """Raise if a run did not do what it has to do."""
    if not truth:
        raise DrillError(f"{run.folder} with {run.processes} processes: {what}\n{output[-3000:]}")


def without_clocks(journal: list[dict[str, object]]) -> list[dict[str, object]]:
    """The lines of a journal without what a clock says."""
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in journal]


def damage(kind: str, checkpoint: Path, rng: random.Random) -> str:
    """Spoil one file of a checkpoint; returns its name."""
    file = rng.choice(sorted(checkpoint.iterdir()))
    if kind == "file deleted":
        file.unlink()
    elif kind == "file truncated":
        file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])
    else:
        content = bytearray(file.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(bytes(content))
    return file.name


def inflict(kind: str, run: Run, rng: random.Random) -> bool:
    """One fault, and the run as it has to be after it, ready to be resumed; False where it came too late."""
    first = run.step()
    if first > STEPS - 6 or not run.wait_for(rng.randrange(first + 1, STEPS - 4)):
        return False
    if kind == "one rank killed" and run.processes > 1:
        victim = rng.choice(run.ranks())
        os.kill(victim, signal.SIGKILL)
        return True  # torchrun goes on by itself
    if kind in STOPS:
        os.kill(rng.choice(run.ranks()), STOPS[kind])
        status, output = run.finish()
        if f"/{STEPS}" in output and "stopped after" not in output and run.step() == STEPS:
            return False
        require(status == 0, run, f"exit status {status} after {kind}", output)
        require("--resume" in output, run, f"no word after {kind} of how to go on", output)
        found, _ = newest_checkpoint(run.folder / "checkpoints")
        require(found is not None and int(found.name[5:13]) == run.step(), run, f"not saved at {kind}", output)
        return True
    if kind == "killed while saving" and not run.wait_for_writing():
        return False
    run.kill()
    if kind in DAMAGES:
        newest, _ = newest_checkpoint(run.folder / "checkpoints")
        if newest is not None:
            name = damage(kind, newest, rng)
            _, faults = newest_checkpoint(run.folder / "checkpoints")
            require(bool(faults), run, f"{kind}: {name} of {newest} was not noticed")
    return True


def resume(run: Run) -> None:
    """Start again what a fault has ended, from where it has to go on."""
    newest, faults = newest_checkpoint(run.folder / "checkpoints")
    if newest is not None:
        run.start("--resume")
        return
    run.start("--resume")
    status, output = run.finish()
    require(status != 0 and "no whole checkpoint" in output, run, "resumed from nothing", output)
    for path, _ in faults:
        require(path.name in output, run, f"{path.name} was not named", output)
    run.start("--overwrite")


def check_resumed(run: Run, began: float, kept: int) -> None:
    """No step lost that was saved, none taken twice."""
    fresh = [int(str(line["step"])) for line in run.journal() if float(str(line["time"])) > began and "loss" in line]
    require(bool(fresh) and min(fresh) == kept + 1, run, f"went on at step {fresh[:1]}, not at {kept + 1}")


def carry_through(run: Run, kinds: list[str], rng: random.Random, seen: Counter[str]) -> None:
    """Train to the end, with the given faults one after the other."""
    began, kept = time.time(), 0
    run.start()
    for kind in kinds:
        if not inflict(kind, run, rng):
            break
        seen[kind] += 1
        assert run.child is not None
        if run.child.poll() is None:
            continue
        if newest_checkpoint(run.folder / "checkpoints")[0] is not None and run.step() > kept and kept:
            check_resumed(run, began, kept)
        newest, _ = newest_checkpoint(run.folder / "checkpoints")
        began, kept = time.time(), 0 if newest is None else int(newest.name[5:13])
        resume(run)
    status, output = run.finish()
    require(status == 0, run, f"exit status {status} at the end", output)
    if kept:
        check_resumed(run, began, kept)


def lose_a_picture(run: Run, rng: random.Random) -> None:
    """A picture that vanishes during a run costs itself: it is counted, and named once it is looked for."""
    run.start()
    run.wait_for(3)
    picture = rng.choice(sorted(run.faces.glob("*/*.png")) + sorted(run.faces.glob("*/*.jpg")))
    picture.unlink()
    status, output = run.finish()
    require(status == 0, run, f"exit status {status} without {picture}", output)
    require(run.journal()[-1]["unreadable"] == 1, run, f"{picture} was not missed", output)


def fill_the_disk(run: Run, size_kb: int) -> list[dict[str, object]]:
    """A disk that takes one checkpoint and no second: an error that says so, and a run that goes on with more room.

    Returns its journal at the end, which goes with the disk.
    """
    run.folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", str(run.folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        run.start()
        status, output = run.finish()
        require(
            status != 0 and "No space left on device" in output, run, f"exit status {status} on a full disk", output
        )
        newest, faults = newest_checkpoint(run.folder / "checkpoints")
        require(newest is not None and not faults, run, f"the checkpoints before were harmed: {faults}", output)
        subprocess.run(["mount", "-o", "remount,size=100m", str(run.folder)], check=True)
        run.start("--resume")
        status, output = run.finish()
        require(status == 0, run, f"exit status {status} with more room", output)
        return without_clocks(run.journal())
    finally:
        subprocess.run(["umount", "-l", str(run.folder)], check=False)


def can_mount(folder: Path) -> bool:
    """Whether this user may make a small disk."""
    if os.name != "posix" or os.geteuid() != 0:
        return False
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode == 0:
        subprocess.run(["umount", "-l", str(folder)], check=False)
    return mounted.returncode == 0


def drill(folder: Path, faults: int, processes: list[int], seed: int) -> Counter[str]:
    """Inflict so many faults; returns how many of each kind.

    Raises:
        DrillError: for the first run that does not come to the end of an undisturbed one.
    """
    rng, seen = random.Random(seed), Counter[str]()
    faces = folder / "faces"
    undisturbed = {}
    for world in processes:
        run = Run(folder / f"undisturbed{world}", faces, world)
        run.start()
        status, output = run.finish()
        require(status == 0, run, f"exit status {status}", output)
        undisturbed[world] = without_clocks(run.journal())
        require(len(undisturbed[world]) == STEPS, run, f"{len(undisturbed[world])} lines in the journal")
    checkpoint_kb = sum(file.stat().st_size for file in newest_of(folder, processes[0]).iterdir()) // 1024
    mountable = can_mount(folder / f"undisturbed{processes[0]}" / "checkpoints")
    number = 0
    with progress("faults", faults) as advance:
        while seen.total() < faults:
            number += 1
            world = rng.choice(processes)
            run = Run(folder / f"run{number}", faces, world)
            before = seen.total()
            if mountable and number % 10 == 5:
                # room for the journal and models, one checkpoint, and part of a second
                journal = fill_the_disk(run, size_kb=int(checkpoint_kb * rng.uniform(2.6, 3.4)))
                seen["disk full"] += 1
                require(journal == undisturbed[world], run, "another journal than undisturbed")
            elif number % 10 == 7:
                copy = folder / f"faces{number}"
                shutil.copytree(faces, copy)
                run.faces = copy
                lose_a_picture(run, rng)
                seen["picture deleted"] += 1
            else:
                kinds = [rng.choice(KINDS[:-2]) for _ in range(rng.randint(2, 5))]
                carry_through(run, kinds, rng, seen)
                require(without_clocks(run.journal()) == undisturbed[world], run, "another journal than undisturbed")
            advance(seen.total() - before, str(dict(seen)))
            shutil.rmtree(run.folder, ignore_errors=True)
    return seen


def newest_of(folder: Path, world: int) -> Path:
    """The last checkpoint of the undisturbed run."""
    found, _ = newest_checkpoint(folder / f"undisturbed{world}" / "checkpoints")
    assert found is not None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--processes", default="1,2,3")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        seen = drill(Path(folder), options.faults, [int(n) for n in options.processes.split(",")], options.seed)
    for kind, count in sorted(seen.items()):
        print(f"{count:5d}  {kind}")
    print(
        f"{seen.total():5d}  faults in {(time.time() - began) / 60:.0f} minutes; every run came to its undisturbed end"
    )


if __name__ == "__main__":
    main()
