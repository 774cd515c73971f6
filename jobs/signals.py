"""Stop signals: an attempt's supervisor remembers them and passes them on to the stage."""

import signal
import subprocess
from dataclasses import dataclass, field
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


@dataclass(slots=True)
class StopForwarder:
    """Remembers stop signals and passes them to the stage's process, even if that starts later."""

    received: list[int] = field(default_factory=list)
    child: subprocess.Popen[bytes] | None = None
    through_srun: bool = False
    """The child is srun."""

    def install(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)

    def attach(self, child: subprocess.Popen[bytes], *, through_srun: bool = False) -> None:
        self.child, self.through_srun = child, through_srun
        for number in self.received:
            self._pass_on(number)

    @property
    def first(self) -> signal.Signals | None:
        """The first stop signal; None if there was none."""
        return signal.Signals(self.received[0]) if self.received else None

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(number)
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        if self.child is None:
            return
        # srun passes SIGUSR2 on. On SIGTERM and SIGINT it kills its tasks instead (srun(1)), so they would not save.
        self.child.send_signal(signal.SIGUSR2 if self.through_srun else number)
