"""One draw after another of a campaign: what is sent when, what starts when, and when all has ended.

A discrete-event simulation. Time goes from event to event; ticks that have nothing to send are passed over. What a
draw decides by chance it decides for each job by itself, so that two campaigns which differ in one limit are drawn
alike, and their difference is that of the limit.
"""

import random
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import ceil, exp, log
from statistics import NormalDist

from sweep.forecast.campaign import NO_LIMIT, Campaign, JobShape

TABLE = 16_384
NORMALS = [NormalDist().inv_cdf((place + 0.5) / TABLE) for place in range(TABLE)]
"""Of which a standard normal number is drawn: a fifth of the time of `random.gauss`, of which a draw needs thousands.
None lies beyond 4 sigma."""
LEAST_THROWS = 1_021
"""A draw of few jobs has so many, so that the attempts of one job do not meet the same ones again."""
RETRY_STEP = 379
"""From a job's throw to that of its next attempt: far from its neighbours'."""
MOST_ATTEMPTS = 500
"""Of one job in one draw: a job whose time limit leaves no time for a step would never end."""
ENDED, READY, TICK = range(3)
"""Kinds of events, those first that make room: an attempt ends, a job's wait in the site's queue is over, somebody
sends what there is room for."""
DONE, REQUEUED, FAILED = range(3)
"""What an attempt's end is: the job's, or it goes back into the queue by itself, or somebody has to send it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """How one campaign goes. Times are seconds from now."""

    ends: Sequence[float]
    """Of each job; infinite where it never ends."""
    attempts: Sequence[tuple[float, float, int]]
    """Start, end and job's place of each, in the order of their starts."""

    @property
    def end(self) -> float:
        return max(self.ends, default=0.0)


# Why: docs/decisions.md, D209
def iter_draws(campaign: Campaign, number: int, seed: int) -> Iterator[Draw]:
    """`number` draws; equal for equal arguments, and the first of many are those of few."""
    graph = CampaignGraph(campaign)
    for each in range(number):
        yield _Course(graph, f"{seed}:{each}").run()


class CampaignGraph:
    """A campaign, prepared for many draws: by a job's place, what it meets and what waits for it."""

    def __init__(self, campaign: Campaign) -> None:
        self.campaign = campaign
        jobs = campaign.jobs
        self.shapes = [campaign.shapes[job.shape] for job in jobs]
        self.parents = [len(job.parents) for job in jobs]
        self.sent_before = [job.queued or job.running_s is not None for job in jobs]
        self.children: list[list[int]] = [[] for _ in jobs]
        for place, job in enumerate(jobs):
            for parent in job.parents:
                self.children[parent].append(place)
        self.names = list(dict.fromkeys(shape.name for shape in campaign.shapes))
        self.steps = [
            (job.steps.median, job.steps.sigma, shape.name) for job, shape in zip(jobs, self.shapes, strict=True)
        ]
        self.throws = max(LEAST_THROWS, len(jobs))
        self.has_trouble = any(shape.fail or shape.preempted_per_hour for shape in campaign.shapes)
        takes: dict[tuple[tuple[int, float], ...], int] = {}
        limits: dict[tuple[int, ...], int] = {}
        self.family = [takes.setdefault(self._cut_amounts(shape), len(takes)) for shape in self.shapes]
        self.families = list(takes)
        """What the jobs of one line take from which pools."""
        self.holds_back = [any(campaign.pools[pool].holds_back for pool, _ in family) for family in takes]
        self.line = [limits.setdefault(shape.submit_limits, len(limits)) for shape in self.shapes]
        self.lines = list(limits)
        """The limits under which the jobs of one line are sent."""

    def _cut_amounts(self, shape: JobShape) -> tuple[tuple[int, float], ...]:
        """What is not limited is not counted."""
        pools = self.campaign.pools
        return tuple(
            (pool, min(amount, pools[pool].most)) for pool, amount in shape.takes if pools[pool].most < NO_LIMIT
        )


class _Course:
    """One draw, while it is made."""

    def __init__(self, graph: CampaignGraph, seed: str) -> None:
        campaign, jobs = graph.campaign, len(graph.shapes)
        self.graph = graph
        self.tick_s = campaign.tick_s
        self.now = 0.0
        self.events: list[tuple[float, int, int]] = []
        self.ticks = False
        """Whether one is among the events."""
        self.free = [pool.most for pool in campaign.pools]
        self.room = [limit.most - limit.used for limit in campaign.submit_limits]
        self.to_send: list[list[int]] = [[] for _ in graph.lines]
        """Places of jobs that may be sent, a heap for each line."""
        self.ready: list[list[int]] = [[] for _ in graph.families]
        """Those that nothing but the pools holds back, likewise."""
        self.undone = list(graph.parents)
        """Parents that are not done, by place."""
        self.unheld = list(graph.parents)
        """Parents behind which a job cannot be sent yet."""
        self.held = [False] * jobs
        """Whether the cluster has had the job."""
        self.tries = [0] * jobs
        self.result = [DONE] * jobs
        """Of the present attempt."""
        self.ends = [NO_LIMIT] * jobs
        self.attempts: list[tuple[float, float, int]] = []
        self.until = [NO_LIMIT] * jobs
        """When the time limit of each running attempt ends."""
        self.running: list[list[tuple[float, int, float]]] = [[] for _ in campaign.pools]
        """By pool that holds others back: until when each job may run, its place, what it takes; in this order."""
        self._throw_dice(random.Random(seed))

    def _throw_dice(self, dice: random.Random) -> None:
        """Everything that chance decides. An attempt finds its part by its job and its number alone, so that no other
        job's course changes it."""
        graph, doubt = self.graph, self.graph.campaign.doubt
        self.tempo = exp(graph.campaign.drift * dice.choice(NORMALS))
        common = {name: self.tempo * exp(doubt.get(name, 0.0) * dice.choice(NORMALS)) for name in graph.names}
        drawn = dice.choices(NORMALS, k=len(graph.steps))
        self.steps = [
            common[name] * median * exp(sigma * normal)
            for (median, sigma, name), normal in zip(graph.steps, drawn, strict=True)
        ]
        """Seconds of steps that are still to do."""
        self.waits = dice.choices(NORMALS, k=graph.throws)
        self.startups = dice.choices(NORMALS, k=graph.throws)
        chances = graph.throws if graph.has_trouble else 0
        self.failing = [dice.random() for _ in range(chances)]
        self.preempting = [dice.random() for _ in range(chances)]
        known = graph.campaign.next_tick_s
        self.first_tick = self.tick_s * dice.random() if known is None else known

    def run(self) -> Draw:
        """To the end of the last job."""
        self._begin()
        events, to_send, ready = self.events, self.to_send, self.ready
        while events:
            self.now, kind, place = heappop(events)
            if kind == READY:
                self._arrive(place)
                continue
            if kind == ENDED:
                self._end_attempt(place)
            else:
                self.ticks = False
                self._send()
            if any(ready):
                self._start()
            if not self.ticks and any(to_send):
                self._plan_tick()
        return Draw(ends=self.ends, attempts=self.attempts)

    def _begin(self) -> None:
        for place, job in enumerate(self.graph.campaign.jobs):
            if job.running_s is not None:
                self._hold(place)
                self._begin_attempt(place, already=job.running_s)
            elif job.queued:
                self._hold(place)
                if not self.undone[place]:
                    self._await_start(place)
            elif not self.graph.parents[place]:  # others come when their last parent is held
                heappush(self.to_send[self.graph.line[place]], place)
        self._send()
        self._start()
        self._plan_tick()

    # Sending.

    def _send(self) -> None:
        """In the order of the plan, as far as the limits have room."""
        while (line := self._find_line_to_send()) >= 0:
            place = heappop(self.to_send[line])
            self._hold(place)
            if not self.undone[place]:
                self._await_start(place)

    def _find_line_to_send(self) -> int:
        """The line of the first job that its limits let in; -1 if there is none."""
        found, first = -1, len(self.ends)
        for line, waiting in enumerate(self.to_send):
            if waiting and waiting[0] < first and self._has_room(line):
                found, first = line, waiting[0]
        return found

    def _has_room(self, line: int) -> bool:
        for limit in self.graph.lines[line]:  # noqa: SIM110 - `all` takes four times as long, here a tenth of a draw
            if self.room[limit] < 1:
                return False
        return True

    def _hold(self, place: int) -> None:
        """From now the cluster has the job, and its children can be sent behind it."""
        for limit in self.graph.lines[self.graph.line[place]]:
            self.room[limit] -= 1
        if not self.held[place]:
            self.held[place] = True
            if self.graph.campaign.chained:
                self._let_children_be_sent(place)

    def _let_children_be_sent(self, place: int) -> None:
        graph, unheld = self.graph, self.unheld
        for child in graph.children[place]:
            unheld[child] -= 1
            if not unheld[child] and not graph.sent_before[child]:
                heappush(self.to_send[graph.line[child]], child)

    def _plan_tick(self) -> None:
        """The next one that has something to send; where nothing can be sent, an end will make room."""
        if self._find_line_to_send() < 0:
            return
        self.ticks = True
        at = self.now
        if self.tick_s:
            at = self.first_tick + self.tick_s * max(0, ceil((self.now - self.first_tick + 1e-6) / self.tick_s))
        heappush(self.events, (at, TICK, -1))

    # Starting.

    def _await_start(self, place: int, delay: float = 0.0) -> None:
        """Nothing of the sweep holds the job back: it waits in the site's queue, for `delay` seconds at least."""
        wait = self.graph.shapes[place].wait
        if wait.median:
            throw = self.waits[(place + RETRY_STEP * self.tries[place]) % len(self.waits)]
            delay += wait.median * exp(wait.sigma * throw)
        if delay:
            heappush(self.events, (self.now + delay, READY, place))
        else:
            heappush(self.ready[self.graph.family[place]], place)

    def _arrive(self, place: int) -> None:
        """One more job is ready. Those that are ready already all wait for pools, so it alone can start now."""
        graph, family = self.graph, self.graph.family[place]
        if self.ready[family] or graph.holds_back[family] or not self._has_pools(family):
            heappush(self.ready[family], place)
            if graph.holds_back[family]:
                self._start()
        else:
            self._begin_attempt(place)

    def _has_pools(self, family: int) -> bool:
        for pool, amount in self.graph.families[family]:  # noqa: SIM110 - as above
            if self.free[pool] < amount - 1e-9:  # amounts are parts of nodes, and their sums are rounded
                return False
        return True

    def _start(self) -> None:
        """What is ready and finds room in its pools, in the order of the plan.

        A job that has to wait for a pool lets others of its kind wait too; those of other kinds pass it, but where the
        pool holds back: there only those pass that must have ended when it can start.
        """
        blocked: set[int] = set()
        reserved: dict[int, float] = {}
        ready, none = self.ready, len(self.ends)
        while True:
            place, family = none, -1
            for number, waiting in enumerate(ready):
                if waiting and waiting[0] < place and number not in blocked:
                    place, family = waiting[0], number
            if family < 0:
                return
            fits = self._has_pools(family)
            if self.graph.holds_back[family]:
                fits = self._obey_reservations(place, family, reserved, fits=fits)
            if fits:
                heappop(ready[family])
                self._begin_attempt(place)
            else:
                blocked.add(family)

    def _obey_reservations(self, place: int, family: int, reserved: dict[int, float], *, fits: bool) -> bool:
        """Whether a job may start where the first that has to wait holds others back; notes when that one can start."""
        until = self.now + self.graph.shapes[place].limit_s
        amounts = self.graph.families[family]
        if fits and all(until <= reserved.get(pool, NO_LIMIT) for pool, _ in amounts):
            return True
        for pool, amount in amounts:
            if self.free[pool] < amount and self.graph.campaign.pools[pool].holds_back:
                reserved.setdefault(pool, self._find_reservation(pool, amount))
        return False

    def _find_reservation(self, pool: int, amount: float) -> float:
        """When what a job takes is free at the latest, by the time limits of those that run."""
        free = self.free[pool]
        for until, _, taken in self.running[pool]:
            free += taken
            if free >= amount:
                return until
        return NO_LIMIT

    # Attempts.

    def _begin_attempt(self, place: int, already: float | None = None) -> None:
        """Decides at once when and how it ends. `already`: seconds that it has run; None: it begins now."""
        graph, shape = self.graph, self.graph.shapes[place]
        self.tries[place] += 1
        startup = 0.0
        if already is None and shape.startup.median:
            throw = self.startups[(place + RETRY_STEP * self.tries[place]) % len(self.startups)]
            startup = self.tempo * shape.startup.median * exp(shape.startup.sigma * throw)
        needed, allowed = startup + self.steps[place], max(0.0, shape.limit_s - (already or 0.0))
        length, result, kept = (needed, DONE, 0.0) if needed <= allowed else (allowed, REQUEUED, allowed - startup)
        if graph.has_trouble:
            length, result, kept = self._meet_trouble(place, startup, length, result, kept)
        if kept > 0:
            self.steps[place] -= kept
        self.result[place] = result
        family = graph.family[place]
        for pool, amount in graph.families[family]:
            self.free[pool] -= amount
            if graph.holds_back[family]:
                self.until[place] = self.now + allowed
                insort(self.running[pool], (self.until[place], place, amount))
        end = self.now + length
        self.attempts.append((self.now, end, place))
        heappush(self.events, (end, ENDED, place))

    def _meet_trouble(
        self, place: int, startup: float, length: float, result: int, kept: float
    ) -> tuple[float, int, float]:
        """How long the attempt lasts after all, how it ends, and what of its steps is kept."""
        shape = self.graph.shapes[place]
        throw = (place + RETRY_STEP * self.tries[place]) % len(self.failing)
        if (failing := self.failing[throw]) < shape.fail:
            length, result = length * failing / shape.fail, FAILED  # equally often at any moment
            kept = length - startup - shape.lost_s
        if shape.preempted_per_hour:
            seconds = -3600 * log(1.0 - self.preempting[throw]) / shape.preempted_per_hour
            if seconds < length:
                length, result, kept = seconds, REQUEUED, seconds - startup - shape.lost_s
        return length, result, kept

    def _end_attempt(self, place: int) -> None:
        graph = self.graph
        family = graph.family[place]
        for pool, amount in graph.families[family]:
            self.free[pool] += amount
            if graph.holds_back[family]:
                running = self.running[pool]
                del running[bisect_left(running, (self.until[place], place))]
        result = self.result[place]
        if result != DONE and self.tries[place] >= MOST_ATTEMPTS:
            return  # it never ends, and nor does what waits for it
        if result == REQUEUED:
            self._await_start(place, graph.campaign.requeue_s)
            return
        for limit in graph.lines[graph.line[place]]:
            self.room[limit] += 1
        if result == FAILED:
            heappush(self.to_send[graph.line[place]], place)
            return
        self.ends[place] = self.now
        undone = self.undone
        for child in graph.children[place]:
            undone[child] -= 1
            if not undone[child] and self.held[child]:
                self._await_start(child)
        if not graph.campaign.chained:
            self._let_children_be_sent(place)
