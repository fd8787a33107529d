"""What Slurm's queue says of jobs, for submitit to decide whether to wait on."""

from __future__ import annotations

import subprocess
import time

from submitit.slurm.slurm import SlurmInfoWatcher, read_job_id

LOOK_EVERY = 15  # seconds at most between two questions to Slurm's controller
_GONE = "GONE"  # neither waiting nor running, and finished longer ago than the queue remembers


class SqueueWatcher(SlurmInfoWatcher):
    """Needs no accounting. While Slurm's controller does not answer, jobs keep the state they had."""

    def __init__(self) -> None:
        super().__init__(delay_s=LOOK_EVERY)

    @property
    def jobs(self) -> list[str]:
        """Those that it has been told of."""
        return sorted(self._registered)

    def wait(self, poll: float = 1.0) -> None:
        """Return when all of them have ended."""
        while not all([self.is_done(job_id) for job_id in self.jobs]):
            time.sleep(poll)

    def cancel(self) -> None:
        """End them all, as far as Slurm can be reached."""
        if self.jobs:
            subprocess.run(["scancel", "--quiet", *self.jobs], check=False)

    def _make_command(self) -> list[str] | None:
        if not self._registered - self._finished:
            return None
        return ["squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i|%T"]

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        text = string if isinstance(string, str) else string.decode()
        found = {}
        for line in text.splitlines():
            job_id, state = line.strip().split("|")
            found["_".join(read_job_id(job_id)[0][:2])] = {"State": state}
        return {job_id: found.get(job_id, {"State": _GONE}) for job_id in self.jobs}
