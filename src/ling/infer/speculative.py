"""Which drafts are worth their cost: decided by what costs and acceptance have been so far.

A verified draft saves a share of a step, but a step of several rows reads more experts than one of
a single row, and drafting itself costs. Time per token is least where an action is taken exactly
when the tokens that it is expected to bring, each worth the time that a token takes now, exceed
its cost (Dinkelbach 1967). So a draft is verified when its chance of being accepted pays for its
row, and the MTP layer runs once more when what it may propose pays for the pass as well.

Where drafts fail the layer stops. Now and then it drafts for a few steps without verifying: the
tokens that follow show whether it would have been right. That is paid from a fixed share of the
time, so drafts that never help cost next to nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .draft_evidence import Acceptance, Aged, Costs

PLAN_STEPS = 4
OFF_STEPS = 32
REFRESH_STEPS = 128
"""A plain step is measured again after this many steps that all verify drafts."""
DEEPER_EVERY = 32
"""One in this many plans drafts one token deeper than pays, to see whether it would."""
PROBE_STEPS = 8
PROBE_EVERY = 128
PROBE_SHARE = 0.004
"""Share of the time that goes into trying a layer whose drafts do not pay."""
TRIAL_SHARE = 0.01
"""The same where its drafts hold often enough that they might."""
FIRST_STEPS = 12
"""At first every other step is plain, so that both kinds are measured side by side."""
IDLE_OBSERVED = 4
"""One in this many steps is measured while nothing is drafted."""
JUDGED_STEPS = 24
"""Steps of drafting whose measured speed overrules what was expected of it."""
HOLD_STEPS = 256
"""So long the layer is left out then; twice as long each time it happens again."""
LIKELY = 0.3
"""A layer whose first drafts hold less often does not pay, whatever a row costs."""
MTP_PRIOR = 0.6
NGRAM_PRIOR = 0.4
MTP_EDGES = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)
"""Confidence of an MTP draft is the probability that the layer itself gives it."""
NGRAM_EDGES = (4, 5, 7, 11, 20)
"""Confidence of an n-gram draft is the length of the match before it."""


@dataclass(slots=True)
class Plan:
    """What drafts are worth in a batch of one size; units are those of `Costs`.

    `runs_mtp`: the layer drafts. `keeps_mtp`, `keeps_ngrams`: drafts may be verified; else they are
    only compared with the tokens that follow.
    """

    token: float
    rows: list[float]
    passes: list[float]
    until: int
    runs_mtp: bool = True
    keeps_mtp: bool = True
    keeps_ngrams: bool = True
    tries_ngrams: bool = False
    """Likely n-gram drafts are verified in full, to see what this many rows cost."""
    try_depth: int = 0
    """Drafts of the layer up to this depth are made and verified to see what comes of them."""
    probe: bool = False
    gain: float = 0.0
    """Units that the layer's drafts are expected to save in a step."""

    def value(self, depth: int, reach: float) -> float:
        """Units that verifying a draft saves; `reach` is the chance that it gets accepted."""
        return reach * self.token - self.rows[depth - 1]

    def keeps(self, depth: int, reach: float) -> bool:
        """Whether a draft of the layer is verified."""
        return self.keeps_mtp and (depth <= self.try_depth or self.value(depth, reach) >= 0)

    def ngrams_kept(self, chances: list[float]) -> tuple[int, float]:
        """How many drafts of these chances save most, and the units that they save. They cost no
        pass, so a row that loses may be made up for by those behind it."""
        if not self.keeps_ngrams:
            return 0, 0.0
        count, most, saved, reach = 0, 0.0, 0.0, 1.0
        for depth, chance in enumerate(chances, 1):
            reach *= chance
            saved += self.value(depth, reach)
            if saved > 0 and saved >= most:
                count, most = depth, saved
        if self.tries_ngrams and chances and chances[0] > LIKELY:
            return len(chances), most
        return count, most

    def pass_gain(self, acceptance: Acceptance, depth: int, reach: float, ahead: int = 0) -> float:
        """Units that a pass for drafts of that depth is expected to save, `ahead` more included."""
        gain = -self.passes[depth - 1]
        for share, chance in acceptance.spread(depth):
            value = self.value(depth, reach * chance)
            if ahead and depth < len(self.rows):
                value += max(0.0, self.pass_gain(acceptance, depth + 1, reach * chance, ahead - 1))
            gain += share * max(0.0, value)
        return gain


class DraftPolicy:
    """Decides about drafts, at most `most` a request; takes all of them when not `adaptive`."""

    def __init__(
        self, most: int, adaptive: bool, uses_mtp: bool = True, uses_ngrams: bool = False
    ) -> None:
        self.most, self.adaptive = most, adaptive
        self.uses_mtp, self.uses_ngrams = uses_mtp, uses_ngrams
        self.costs = Costs()
        self.mtp = Acceptance(MTP_PRIOR, MTP_EDGES)
        self.ngram = Acceptance(NGRAM_PRIOR, NGRAM_EDGES)
        self.step = 0
        self._plans: dict[int, Plan] = {}
        # Time taken as a multiple of plain decoding's, by the size of the batch in bits.
        self._relative_time: dict[int, Aged] = {}
        self._drafting_time: dict[int, Aged] = {}
        self._held_until: dict[int, int] = {}
        self._hold = HOLD_STEPS
        self._now: Plan | None = None
        self._idle = False
        self._first: dict[int, int] = {}
        self._trial_until = 0
        # Units that may go into probes, at most those of one.
        self._credit, self._probe_cost, self._next_probe = 0.0, 0.0, 0
        self._count = 0
        free = [0.0] * most
        self._always = Plan(math.inf, free, free, 0, runs_mtp=uses_mtp)

    def plan(self, batch: int) -> Plan:
        """What to draft in a step whose `batch` requests decode."""
        if not self.adaptive or not self.most:
            return self._always
        plan = self._plans.get(batch)
        if plan is None or self.step >= plan.until:
            plan = self._plans[batch] = self._new_plan(batch)
        self._now = plan
        self._idle = not (plan.runs_mtp or self.uses_ngrams)
        return plan

    def skips_step(self) -> bool:
        """Whether a step need not be observed: most of those while nothing is drafted."""
        if not self._idle or self.step % IDLE_OBSERVED == 0:
            return False
        self.step += 1
        return True

    def _new_plan(self, batch: int) -> Plan:
        depths = range(1, self.most + 1)
        known = self._relative_time.get(batch.bit_length())
        relative = min(known.mean(1.0), 1.0) if known is not None else 1.0
        plan = Plan(
            token=self.costs.step(batch) / batch * relative,
            rows=[self.costs.row(k, batch) for k in depths],
            passes=[self.costs.draft_pass(k, batch) for k in depths],
            until=self.step + PLAN_STEPS,
            runs_mtp=self.uses_mtp,
        )
        if self.uses_mtp:
            plan.gain = plan.pass_gain(self.mtp, 1, 1.0, ahead=1)
        self._count += 1
        if self._count % DEEPER_EVERY == 0:
            plan.try_depth = self._usual_depth(plan) + 1 if self.uses_mtp else 0
            plan.tries_ngrams = self.uses_ngrams
        if self._needs_plain_steps(batch):
            plan.keeps_mtp = plan.keeps_ngrams = False
            plan.until = self.step + 1
        elif plan.gain <= 0 or self._loses(batch):
            plan.gain = 0.0
            self._pause(plan, batch)
        else:
            self._next_probe = self.step + PROBE_EVERY
            size = batch.bit_length()
            self._first[size] = self._first.get(size, 0) + 1
            if self._first[size] <= FIRST_STEPS:
                self._alternate(plan)
        return plan

    def _alternate(self, plan: Plan) -> None:
        """Verify drafts in every other step: what else slows the machine down then slows both."""
        plan.until = self.step + 1
        if self.step % 2:
            plan.keeps_mtp = plan.keeps_ngrams = False

    def _needs_plain_steps(self, batch: int) -> bool:
        """Whether what a step without drafts takes is not known well enough."""
        costs = self.costs
        if costs.known(batch) and not costs.drifted(batch):
            return costs.age(batch, self.step) > REFRESH_STEPS
        return True

    def _loses(self, batch: int) -> bool:
        """Whether drafting was slower than plain decoding, whatever was expected of it."""
        size = batch.bit_length()
        if self.step < self._held_until.get(size, 0):
            return True
        measured = self._drafting_time.get(size)
        if measured is None or measured.weight < JUDGED_STEPS or measured.mean() <= 1:
            return False
        self._held_until[size], self._hold = self.step + self._hold, 2 * self._hold
        del self._drafting_time[size]
        return True

    def _pause(self, plan: Plan, batch: int) -> None:
        """The layer's drafts do not pay: leave it out, or see whether it has become better."""
        plan.keeps_mtp, plan.try_depth = False, 0
        plan.until = self.step + (PLAN_STEPS if self.uses_ngrams else OFF_STEPS)
        if self.step < self._trial_until:
            self._try_rows(plan)
            return
        self._probe_cost = PROBE_STEPS * plan.passes[0] * batch
        saved = self._credit >= self._probe_cost and self.step >= self._next_probe
        if not self.uses_mtp or not saved:
            plan.runs_mtp = False
            return
        plan.probe, plan.until = True, self.step + PROBE_STEPS
        self._next_probe = plan.until + PROBE_EVERY
        if self.mtp.mean(1) > LIKELY and self.costs.age(2 * batch, self.step) > PROBE_EVERY:
            # A further row may have become cheaper.
            self._trial_until = plan.until
            self._try_rows(plan)

    def _try_rows(self, plan: Plan) -> None:
        plan.probe = plan.keeps_mtp = True
        plan.try_depth = 1
        self._alternate(plan)

    def _usual_depth(self, plan: Plan) -> int:
        """Drafts that pay where their confidence is as usual."""
        depth, reach = 1, 1.0
        while depth <= self.most and plan.pass_gain(self.mtp, depth, reach) > 0:
            reach *= self.mtp.mean(depth)
            depth += 1
        return depth - 1

    def goes_deeper(self, plan: Plan, depth: int, reach: float) -> bool:
        """Whether the layer runs again behind a draft of the depth before, accepted with the
        chance `reach`."""
        if depth > self.most or not plan.keeps_mtp:
            return False
        return depth <= plan.try_depth or plan.pass_gain(self.mtp, depth, reach) > 0

    def observe_rows(self, rows: int, seconds: float, draft_seconds: float) -> None:
        """A step of decodes verified `rows` rows, of which some were certain beforehand."""
        if self.adaptive:
            self.step += 1
            self.costs.observe_step(rows, max(seconds - draft_seconds, 1e-9), self.step)

    def observe(
        self, batch: int, rows: int, tokens: int, seconds: float, draft_seconds: float
    ) -> None:
        """A step of `batch` decoding requests verified `rows` rows, which brought `tokens`; of its
        seconds `draft_seconds` went into drafting."""
        if not self.adaptive:
            return
        self.step += 1
        plan = self._now
        idle = self._idle and rows == batch
        self.costs.observe_step(rows, max(seconds - draft_seconds, 1e-9), self.step)
        spent, plain = seconds / self.costs.scale, self.costs.plain(batch) * tokens / batch
        size, relative = batch.bit_length(), min(spent / plain, 4.0)
        self._relative_time.setdefault(size, Aged()).add(relative, self.step, tokens / batch)
        if plan is not None and plan.runs_mtp and plan.keeps_mtp and not plan.try_depth:
            drafting = self._drafting_time.setdefault(size, Aged())
            drafting.add(relative, self.step, tokens / batch)
        times = IDLE_OBSERVED if idle else 1
        share = TRIAL_SHARE if self.mtp.mean(1) > LIKELY else PROBE_SHARE
        self._credit = min(self._credit + times * share * spent, self._probe_cost)
        if plan is not None and plan.probe:
            more = max(self.costs.step(rows) - self.costs.step(batch), 0.0)
            self._credit -= draft_seconds / self.costs.scale + more
