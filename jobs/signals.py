"""Stop signals: remembered by an attempt's supervisor, and passed on to the stage."""

import signal
import subprocess
from dataclasses import dataclass, field
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


@dataclass(slots=True)
class StopForwarder:
    """Remembers that a stop was asked for and passes it to the stage's process, also if that starts later."""

    received: list[int] = field(default_factory=list)
    child: subprocess.Popen[bytes] | None = None
    through_srun: bool = False
    """The child is srun, which takes SIGTERM and SIGINT for itself and kills its tasks (srun(1)); it passes SIGUSR2 on,
    and Slurm itself sends the tasks the SIGTERM of a preemption or time limit."""

    def install(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)

    def attach(self, child: subprocess.Popen[bytes], *, through_srun: bool = False) -> None:
        self.child, self.through_srun = child, through_srun
        for number in self.received:
            self._pass_on(number)

    @property
    def first(self) -> signal.Signals | None:
        """The signal that asked first; None if nobody asked."""
        return signal.Signals(self.received[0]) if self.received else None

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(number)
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        if self.child is not None:
            self.child.send_signal(signal.SIGUSR2 if self.through_srun else number)
