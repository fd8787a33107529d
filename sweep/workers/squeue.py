"""Ask Slurm's queue for the states of jobs, so that submitit knows which of them to wait for."""

from __future__ import annotations

import subprocess
import time

from submitit.slurm.slurm import SlurmInfoWatcher, read_job_id

LOOK_EVERY = 15  # seconds at most between two questions to Slurm's controller
_GONE = "GONE"  # neither waiting nor running, and finished longer ago than the queue remembers


class SqueueWatcher(SlurmInfoWatcher):
    """Watches jobs by `squeue`, which needs no accounting as submitit's own `sacct` does.

    While Slurm's controller does not answer, jobs keep the state they had.
    """

    def __init__(self) -> None:
        super().__init__(delay_s=LOOK_EVERY)
        self._jobs: set[str] = set()

    def register_job(self, job_id: str) -> None:
        """Watch one more job; submitit calls this when it has submitted it."""
        self._jobs.add(job_id)
        super().register_job(job_id)

    @property
    def jobs(self) -> list[str]:
        """The ids of all jobs that are watched."""
        return sorted(self._jobs)

    def wait(self, poll: float = 1.0) -> None:
        """Return when all jobs have ended; look every `poll` seconds."""
        while not all([self.is_done(job_id) for job_id in self.jobs]):
            time.sleep(poll)

    def cancel(self) -> None:
        """End all jobs, as far as Slurm can be reached."""
        if self.jobs:
            subprocess.run(["scancel", "--quiet", *self.jobs], check=False)

    def _make_command(self) -> list[str] | None:
        """Return the question to Slurm, or None where all jobs have ended.

        This overrides a private method of submitit, see `sweep.private_names`.
        """
        if all(self.is_done(job_id, mode="cache") for job_id in self.jobs):
            return None
        return ["squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i|%T"]

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        """Return the state of each job, as the answer to `_make_command` says."""
        text = string if isinstance(string, str) else string.decode()
        found = {}
        for line in text.splitlines():
            job_id, state = line.strip().split("|")
            found["_".join(read_job_id(job_id)[0][:2])] = {"State": state}
        return {job_id: found.get(job_id, {"State": _GONE}) for job_id in self.jobs}
