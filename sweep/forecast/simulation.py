"""One draw after another of a campaign: what is sent when, what starts when, and when all has ended.

A discrete-event simulation. Time goes from event to event; ticks that have nothing to send are passed over. What a
draw decides by chance it decides for each job by itself, so that two campaigns which differ in one limit are drawn
alike, and their difference is that of the limit.
"""

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, exp, log

from sweep.forecast.campaign import NO_LIMIT, Campaign, JobShape

THROWS = 16_381
"""Throws of a draw that its attempts share out among them: a prime, so that places and attempts hit all of them."""
PLACE_STEP = 7
MOST_ATTEMPTS = 500
"""Of one job in one draw: a job whose time limit leaves no time for a step would never end."""
READY, ENDED, TICK = range(3)
"""Kinds of events: a job's wait in the site's queue is over, an attempt ends, somebody sends what there is room for."""
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
        self.children: list[list[int]] = [[] for _ in jobs]
        for place, job in enumerate(jobs):
            for parent in job.parents:
                self.children[parent].append(place)
        known: dict[tuple[tuple[int, float], ...], int] = {}
        queues: dict[tuple[int, ...], int] = {}
        self.family = [known.setdefault(self._find_amounts(shape), len(known)) for shape in self.shapes]
        self.families = list(known)
        """What the jobs of one line take from which pools."""
        self.holds_back = [any(campaign.pools[pool].holds_back for pool, _ in family) for family in known]
        self.queue = [queues.setdefault(shape.submit_limits, len(queues)) for shape in self.shapes]
        self.queues = list(queues)
        """The limits under which the jobs of one line are sent."""

    def _find_amounts(self, shape: JobShape) -> tuple[tuple[int, float], ...]:
        sizes = {"gpus": shape.gpus, "cores": shape.cores, "jobs": 1}
        pools = self.campaign.pools
        return tuple((pool, float(min(sizes[pools[pool].unit], pools[pool].most))) for pool in shape.pools)


class _Course:
    """One draw, while it is made."""

    def __init__(self, graph: CampaignGraph, seed: str) -> None:
        campaign = graph.campaign
        jobs = campaign.jobs
        self.graph, self.jobs = graph, jobs
        self.now = 0.0
        self.events: list[tuple[float, int, int, int]] = []
        self.pushed = 0
        self.tick_at = NO_LIMIT
        self.free = [pool.most for pool in campaign.pools]
        self.room = [limit.most - limit.used for limit in campaign.submit_limits]
        self.to_send: list[list[int]] = [[] for _ in graph.queues]
        """Places of jobs that may be sent, a heap for each line."""
        self.ready: list[list[int]] = [[] for _ in graph.families]
        """Those that nothing but the pools holds back, likewise."""
        self.undone = [len(job.parents) for job in jobs]
        """Parents that are not done, by place."""
        self.unheld = list(self.undone)
        """Parents behind which a job cannot be sent yet."""
        self.held = [False] * len(jobs)
        """Whether the cluster has had the job."""
        self.tries = [0] * len(jobs)
        self.result = [DONE] * len(jobs)
        """Of the present attempt."""
        self.ends = [NO_LIMIT] * len(jobs)
        self.attempts: list[tuple[float, float, int]] = []
        self.running: list[dict[int, tuple[float, float]]] = [{} for _ in campaign.pools]
        """By pool that holds others back: until when each job may run, and what it takes."""
        dice = random.Random(seed)
        self._decide_steps(dice)
        self.throws = [(dice.gauss(), dice.random(), dice.random()) for _ in range(THROWS)]

    def _decide_steps(self, dice: random.Random) -> None:
        doubt = self.graph.campaign.doubt
        common = {shape.name: exp(doubt.get(shape.name, 0.0) * dice.gauss()) for shape in self.graph.campaign.shapes}
        self.steps = [
            common[shape.name] * job.steps.median * exp(job.steps.sigma * dice.gauss())
            for job, shape in zip(self.jobs, self.graph.shapes, strict=True)
        ]
        """Seconds of steps that are still to do."""

    def run(self) -> Draw:
        """To the end of the last job."""
        self._begin()
        events = self.events
        while events:
            self.now, _, kind, place = heapq.heappop(events)
            if kind == READY:
                self._arrive(place)
                continue
            if kind == ENDED:
                self._end_attempt(place)
            else:
                self.tick_at = NO_LIMIT
                self._send()
            self._start()
            if self.tick_at == NO_LIMIT:
                self._plan_tick()
        return Draw(ends=self.ends, attempts=self.attempts)

    def _begin(self) -> None:
        for place, job in enumerate(self.jobs):
            if job.running_s is not None:
                self._hold(place)
                self._begin_attempt(place, already=job.running_s)
            elif job.queued:
                self._hold(place)
                self._await_parents(place)
            elif not self.unheld[place]:
                heapq.heappush(self.to_send[self.graph.queue[place]], place)
        self._send()
        self._start()
        self._plan_tick()

    def _push(self, at: float, kind: int, place: int) -> None:
        self.pushed += 1
        heapq.heappush(self.events, (at, self.pushed, kind, place))

    # Sending.

    def _send(self) -> None:
        """In the order of the plan, as far as the limits have room."""
        while (line := self._find_line_to_send()) >= 0:
            place = heapq.heappop(self.to_send[line])
            self._hold(place)
            self._await_parents(place)

    def _find_line_to_send(self) -> int:
        """The line of the first job that its limits let in; -1 if there is none."""
        found, first = -1, len(self.jobs)
        for line, waiting in enumerate(self.to_send):
            if waiting and waiting[0] < first and self._has_room(line):
                found, first = line, waiting[0]
        return found

    def _has_room(self, line: int) -> bool:
        for limit in self.graph.queues[line]:  # noqa: SIM110 - `all` takes four times as long, here a tenth of a draw
            if self.room[limit] < 1:
                return False
        return True

    def _hold(self, place: int) -> None:
        """From now the cluster has the job, and its children can be sent behind it."""
        for limit in self.graph.queues[self.graph.queue[place]]:
            self.room[limit] -= 1
        if not self.held[place]:
            self.held[place] = True
            if self.graph.campaign.chained:
                self._let_children_be_sent(place)

    def _let_children_be_sent(self, place: int) -> None:
        for child in self.graph.children[place]:
            self.unheld[child] -= 1
            job = self.jobs[child]
            if not self.unheld[child] and not job.queued and job.running_s is None:
                heapq.heappush(self.to_send[self.graph.queue[child]], child)

    def _plan_tick(self) -> None:
        """The next one that has something to send; where nothing can be sent, an end will make room."""
        if self._find_line_to_send() < 0:
            return
        tick_s = self.graph.campaign.tick_s
        self.tick_at = tick_s * ceil((self.now + 1e-6) / tick_s) if tick_s else self.now
        self._push(self.tick_at, TICK, -1)

    # Starting.

    def _await_parents(self, place: int) -> None:
        if not self.undone[place]:
            self._await_start(place)

    def _await_start(self, place: int) -> None:
        """Nothing of the sweep holds the job back: it waits in the site's queue."""
        wait = self.graph.shapes[place].wait
        if wait.median:
            self._push(self.now + wait.median * exp(wait.sigma * self._find_throws(place)[0]), READY, place)
        else:
            heapq.heappush(self.ready[self.graph.family[place]], place)

    def _arrive(self, place: int) -> None:
        """One more job is ready. Those that are ready already all wait for pools, so it alone can start now."""
        graph, family = self.graph, self.graph.family[place]
        if self.ready[family] or graph.holds_back[family] or not self._has_pools(family):
            heapq.heappush(self.ready[family], place)
            if graph.holds_back[family]:
                self._start()
        else:
            self._begin_attempt(place)

    def _has_pools(self, family: int) -> bool:
        for pool, amount in self.graph.families[family]:  # noqa: SIM110 - as above
            if self.free[pool] < amount:
                return False
        return True

    def _start(self) -> None:
        """What is ready and finds room in its pools, in the order of the plan.

        A job that has to wait for a pool lets others of its kind wait too; those of other kinds pass it, but where the
        pool holds back: there only those pass that must have ended when it can start.
        """
        blocked: set[int] = set()
        reserved: dict[int, float] = {}
        ready, none = self.ready, len(self.jobs)
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
                heapq.heappop(ready[family])
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
        for until, taken in sorted(self.running[pool].values()):
            free += taken
            if free >= amount:
                return until
        return NO_LIMIT

    # Attempts.

    def _begin_attempt(self, place: int, already: float = 0.0) -> None:
        """Decides at once when and how it ends. `already`: seconds that it has run."""
        shape = self.graph.shapes[place]
        _, failing, preempting = self._find_throws(place)
        self.tries[place] += 1
        startup = 0.0 if already else shape.startup.median
        needed, allowed = startup + self.steps[place], max(0.0, shape.limit_s - already)
        length, result, kept = (needed, DONE, 0.0) if needed <= allowed else (allowed, REQUEUED, allowed - startup)
        if failing < shape.fail:
            length, result = length * failing / shape.fail, FAILED  # equally often at any moment
            kept = length - startup - shape.lost_s
        if shape.preempted_per_hour:
            hours = -log(1.0 - preempting) / shape.preempted_per_hour
            if 3600 * hours < length:
                length, result, kept = 3600 * hours, REQUEUED, 3600 * hours - startup - shape.lost_s
        self.steps[place] -= max(0.0, kept)
        self.result[place] = result
        for pool, amount in self.graph.families[self.graph.family[place]]:
            self.free[pool] -= amount
            if self.graph.holds_back[self.graph.family[place]]:
                self.running[pool][place] = (self.now + allowed, amount)
        self.attempts.append((self.now, self.now + length, place))
        self._push(self.now + length, ENDED, place)

    def _end_attempt(self, place: int) -> None:
        graph = self.graph
        for pool, amount in graph.families[graph.family[place]]:
            self.free[pool] += amount
            if graph.holds_back[graph.family[place]]:
                del self.running[pool][place]
        if self.tries[place] >= MOST_ATTEMPTS and self.result[place] != DONE:
            return  # it never ends, and nor does what waits for it
        if self.result[place] == REQUEUED:
            self._await_start(place)
            return
        for limit in graph.queues[graph.queue[place]]:
            self.room[limit] += 1
        if self.result[place] == FAILED:
            heapq.heappush(self.to_send[graph.queue[place]], place)
            return
        self.ends[place] = self.now
        for child in graph.children[place]:
            self.undone[child] -= 1
            if not self.undone[child] and self.held[child]:
                self._await_start(child)
        if not graph.campaign.chained:
            self._let_children_be_sent(place)

    def _find_throws(self, place: int) -> tuple[float, float, float]:
        """What decides the next attempt's wait, whether it fails, and when it is preempted: by the job and the number
        of its attempt alone, so that no other job's course changes them."""
        return self.throws[(place * PLACE_STEP + self.tries[place]) % THROWS]
