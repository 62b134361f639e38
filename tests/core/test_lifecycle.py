"""The lifecycle: first each decision by itself, against tables written from the design; then any order of events.

What is tested by itself are the words too, since users write them: HalfClose, CANCEL, FINISH, Grace.
"""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trioserve.core.errors import ConfigError
from trioserve.core.lifecycle import (
    CANCEL,
    FINISH,
    Cause,
    ClientRules,
    DisconnectPolicy,
    End,
    Grace,
    HalfClose,
    Lifecycle,
    Outcome,
    Phase,
    Verdict,
    half_close_after_switching,
    outcome_of,
    phase_of,
)

NOTHING, PROBE, DISCARD = Verdict.NOTHING, Verdict.PROBE, Verdict.DISCARD

LEFT = [Cause.FIN, Cause.RESET, Cause.VANISHED, Cause.TLS_ERROR]
SLOW = [Cause.READ_TIMEOUT, Cause.WRITE_TIMEOUT]
OURS = [Cause.DEADLINE, Cause.DRAIN, Cause.DROPPED, Cause.HANDLER_FAILED]
POLICIES = [CANCEL, FINISH, Grace(2.5)]
VERSIONS = ["1.1", "1.0"]

every_phase = pytest.mark.parametrize("phase", Phase)
every_policy = pytest.mark.parametrize("disconnect", POLICIES, ids=repr)
every_version = pytest.mark.parametrize("version", VERSIONS)
every_half_close = pytest.mark.parametrize("half_close", HalfClose)

# What a departure does by the disconnect policy: where no handler can run on, the connection just ends.
DEPARTED = {
    Phase.IDLE: dict.fromkeys(POLICIES, Verdict.CANCEL),
    Phase.HEAD: dict.fromkeys(POLICIES, Verdict.CANCEL),
    **{
        phase: {CANCEL: Verdict.CANCEL, FINISH: DISCARD, Grace(2.5): DISCARD}
        for phase in (Phase.BODY, Phase.QUEUED, Phase.HANDLER, Phase.RESPONSE_HEAD, Phase.RESPONSE_BODY)
    },
    Phase.COMPLETE: dict.fromkeys(POLICIES, Verdict.CANCEL),
}

# What a FIN that is heard out of band means: (half_close, http version) -> verdict; "left": as DEPARTED says.
LEFT_TO_THE_READER = dict.fromkeys(itertools.product(HalfClose, VERSIONS), NOTHING)
BEFORE_RESPONSE = {
    (HalfClose.ABORT, "1.1"): "left",
    (HalfClose.ABORT, "1.0"): "left",
    (HalfClose.FINISH, "1.1"): NOTHING,
    (HalfClose.FINISH, "1.0"): NOTHING,
    (HalfClose.PROBE, "1.1"): PROBE,
    (HalfClose.PROBE, "1.0"): NOTHING,  # there are no interim responses in HTTP/1.0: the response is the probe
}
IN_RESPONSE = BEFORE_RESPONSE | {(HalfClose.PROBE, "1.1"): NOTHING}  # its next part is the probe
FIN_MEANS = {
    Phase.IDLE: LEFT_TO_THE_READER,
    Phase.HEAD: LEFT_TO_THE_READER,
    Phase.BODY: BEFORE_RESPONSE,
    Phase.QUEUED: BEFORE_RESPONSE,
    Phase.HANDLER: BEFORE_RESPONSE,
    Phase.RESPONSE_HEAD: IN_RESPONSE,
    Phase.RESPONSE_BODY: IN_RESPONSE,
    Phase.COMPLETE: LEFT_TO_THE_READER,
}


def fin_verdict(phase: Phase, rules: ClientRules) -> Verdict:
    verdict = FIN_MEANS[phase][rules.half_close, rules.http_version]
    return DEPARTED[phase][rules.disconnect] if verdict == "left" else verdict


def ends(verdict: Verdict) -> bool:
    return verdict in (Verdict.CANCEL, DISCARD)


# One event on a connection that is well


@every_phase
@every_half_close
@every_policy
@every_version
def test_a_fin_out_of_band_means_what_half_close_says(phase, half_close, disconnect, version):
    lifecycle, rules = Lifecycle(), ClientRules(half_close, disconnect, version)
    verdict = lifecycle.peer_hung_up(Cause.FIN, phase, 7.0, rules)
    assert verdict is fin_verdict(phase, rules)
    assert lifecycle.ended == (End(Cause.FIN, phase, 7.0) if ends(verdict) else None)


@every_phase
@every_policy
@pytest.mark.parametrize("cause", [Cause.RESET, Cause.VANISHED, Cause.TLS_ERROR])
def test_a_broken_connection_is_departure_whatever_half_close_says(phase, cause, disconnect):
    for half_close, version in itertools.product(HalfClose, VERSIONS):
        lifecycle = Lifecycle()
        verdict = lifecycle.peer_hung_up(cause, phase, 7.0, ClientRules(half_close, disconnect, version))
        assert verdict is DEPARTED[phase][disconnect]
        assert lifecycle.ended == End(cause, phase, 7.0)


@every_phase
@every_policy
def test_a_fin_that_the_reader_meets_is_departure_whatever_half_close_says(phase, disconnect):
    for half_close, version in itertools.product(HalfClose, VERSIONS):
        lifecycle = Lifecycle()
        verdict = lifecycle.input_ended(phase, 7.0, ClientRules(half_close, disconnect, version))
        assert verdict is DEPARTED[phase][disconnect]
        assert lifecycle.ended == End(Cause.FIN, phase, 7.0)


@every_phase
@pytest.mark.parametrize("cause", SLOW + OURS)
def test_giving_up_cancels_under_every_policy(phase, cause):
    lifecycle = Lifecycle()
    assert lifecycle.gave_up(cause, phase, 7.0) is Verdict.CANCEL
    assert lifecycle.ended == End(cause, phase, 7.0)


@every_half_close
def test_a_head_without_news_of_the_peer_decides_nothing(half_close):
    lifecycle = Lifecycle()
    for phase in (Phase.BODY, Phase.QUEUED):
        assert lifecycle.reader_rests(phase, 7.0, ClientRules(half_close, CANCEL, "1.1")) is NOTHING
    assert lifecycle.ended is None


# A FIN and a later head


@pytest.mark.parametrize("heard_in", [Phase.IDLE, Phase.HEAD, Phase.COMPLETE])
@pytest.mark.parametrize("phase", [Phase.BODY, Phase.QUEUED])
@every_half_close
def test_a_fin_that_was_left_to_the_reader_is_judged_when_the_head_is_complete(heard_in, phase, half_close):
    for disconnect, version in itertools.product(POLICIES, VERSIONS):
        lifecycle, rules = Lifecycle(), ClientRules(half_close, disconnect, version)
        assert lifecycle.peer_hung_up(Cause.FIN, heard_in, 6.0, rules) is NOTHING
        verdict = lifecycle.reader_rests(phase, 7.0, rules)
        assert verdict is fin_verdict(phase, rules)
        assert lifecycle.ended == (End(Cause.FIN, phase, 7.0) if ends(verdict) else None)


@pytest.mark.parametrize("first", [HalfClose.FINISH, HalfClose.PROBE])
@every_half_close
def test_a_fin_that_a_route_did_not_mind_is_judged_anew_by_the_rules_of_the_next(first, half_close):
    for disconnect, version in itertools.product(POLICIES, VERSIONS):
        lifecycle, rules = Lifecycle(), ClientRules(half_close, disconnect, version)
        assert not ends(lifecycle.peer_hung_up(Cause.FIN, Phase.HANDLER, 6.0, ClientRules(first, CANCEL, "1.1")))
        verdict = lifecycle.reader_rests(Phase.QUEUED, 7.0, rules)
        assert verdict is fin_verdict(Phase.QUEUED, rules)
        assert lifecycle.ended == (End(Cause.FIN, Phase.QUEUED, 7.0) if ends(verdict) else None)


@every_phase
def test_a_second_fin_is_no_news(phase):
    lifecycle = Lifecycle()
    assert lifecycle.peer_hung_up(Cause.FIN, Phase.IDLE, 6.0, ClientRules(HalfClose.ABORT, CANCEL, "1.1")) is NOTHING
    for half_close in HalfClose:
        assert lifecycle.peer_hung_up(Cause.FIN, phase, 7.0, ClientRules(half_close, CANCEL, "1.1")) is NOTHING
    assert lifecycle.ended is None


@every_phase
@pytest.mark.parametrize("half_close", [HalfClose.FINISH, HalfClose.PROBE])
def test_a_reset_after_a_fin_is_departure(phase, half_close):
    lifecycle, rules = Lifecycle(), ClientRules(half_close, CANCEL, "1.1")
    assert not ends(lifecycle.peer_hung_up(Cause.FIN, Phase.HANDLER, 6.0, rules))
    assert lifecycle.peer_hung_up(Cause.RESET, phase, 7.0, rules) is Verdict.CANCEL
    assert lifecycle.ended == End(Cause.RESET, phase, 7.0)


# After the end


def departed(cause: Cause, disconnect: DisconnectPolicy = CANCEL) -> Lifecycle:
    lifecycle = Lifecycle()
    lifecycle.peer_hung_up(cause, Phase.HANDLER, 1.0, ClientRules(HalfClose.ABORT, disconnect, "1.1"))
    return lifecycle


def given_up() -> Lifecycle:
    lifecycle = Lifecycle()
    lifecycle.gave_up(Cause.DEADLINE, Phase.HANDLER, 1.0)
    return lifecycle


ENDED = pytest.mark.parametrize(
    "ended",
    [lambda: departed(Cause.FIN), lambda: departed(Cause.RESET), lambda: departed(Cause.FIN, FINISH), given_up],
    ids=["by FIN", "by RESET", "by FIN, running on", "by us"],
)


@ENDED
@every_phase
def test_news_of_the_client_after_the_end_is_none(ended, phase):
    lifecycle = ended()
    end = lifecycle.ended
    for half_close, disconnect in itertools.product(HalfClose, POLICIES):
        rules = ClientRules(half_close, disconnect, "1.1")
        assert [lifecycle.peer_hung_up(cause, phase, 2.0, rules) for cause in LEFT] == [NOTHING] * 4
        assert lifecycle.reader_rests(phase, 2.0, rules) is NOTHING
        assert lifecycle.input_ended(phase, 2.0, rules) is NOTHING
        assert lifecycle.ended == end


@ENDED
@every_phase
@pytest.mark.parametrize(
    ("cause", "verdict"), [*((cause, NOTHING) for cause in SLOW), *((cause, Verdict.CANCEL) for cause in OURS)]
)
def test_giving_up_after_the_end_stops_a_handler_that_ran_on_and_changes_no_story(ended, cause, verdict, phase):
    lifecycle = ended()
    end = lifecycle.ended
    assert lifecycle.gave_up(cause, phase, 2.0) is verdict
    assert lifecycle.ended == end


@pytest.mark.parametrize(
    ("reader_waits", "client_may_go", "judged"),
    [
        (False, False, HalfClose.ABORT),
        (True, False, HalfClose.FINISH),
        (False, True, HalfClose.FINISH),
        (True, True, HalfClose.FINISH),
    ],
)
def test_after_a_switch_of_protocols_a_fin_is_departure_unless_the_reader_meets_it_or_all_was_said(
    reader_waits, client_may_go, judged
):
    assert half_close_after_switching(reader_waits=reader_waits, client_may_go=client_may_go) is judged


# Any order of events, over several exchanges of one connection

FACTS = [
    "head_begun",
    "head_complete",
    "request_complete",
    "handler_started",
    "response_begun",
    "response_head_sent",
    "response_complete",
]
RULES = st.builds(ClientRules, st.sampled_from(HalfClose), st.sampled_from(POLICIES), st.sampled_from(VERSIONS))


class Connection(RuleBasedStateMachine):
    """One connection whose exchanges make progress, while news of all kinds arrives at any moment.

    Progress goes on after the end too: a handler that runs on or unwinds may still read, and begin a response. What
    ends a connection for certain waits for some steps, so that there is a story before it.
    """

    @initialize(rules=RULES, calm=st.integers(min_value=0, max_value=25))
    def accepted(self, rules, calm):
        self.calm = calm
        self.lifecycle = Lifecycle()
        self.time = 0.0
        self.verdicts: list[Verdict] = []
        self.first_end: End | None = None
        self.fin_heard = self.fin_met = self.client_broke = False
        self.begin_exchange(rules)

    def begin_exchange(self, rules: ClientRules) -> None:
        self.rules = rules
        self.facts = dict.fromkeys(FACTS, False)
        self.probes = 0

    @property
    def phase(self) -> Phase:
        return phase_of(**self.facts)

    # Progress. What can only come after something else waits for it.

    @precondition(lambda self: not self.facts["head_begun"])
    @rule()
    def the_head_begins(self):
        self.facts["head_begun"] = True

    @precondition(lambda self: self.facts["head_begun"] and not self.facts["head_complete"])
    @rule(has_body=st.booleans())
    def the_head_is_complete(self, has_body):
        self.facts["head_complete"] = True
        self.facts["request_complete"] = not has_body
        self.judged(self.lifecycle.reader_rests(self.phase, self.now(), self.rules))

    @precondition(lambda self: self.facts["head_complete"])
    @rule(fact=st.sampled_from(["request_complete", "handler_started", "response_begun"]))
    def the_exchange_goes_on(self, fact):
        self.facts[fact] = True

    @precondition(lambda self: self.facts["response_begun"])
    @rule()
    def the_response_head_is_sent(self):
        self.facts["response_head_sent"] = True

    @precondition(lambda self: self.facts["response_head_sent"] and self.lifecycle.ended is None)
    @rule()
    def the_response_is_complete(self):
        self.facts["response_complete"] = True

    @precondition(lambda self: self.facts["response_complete"] and self.facts["request_complete"])
    @rule(rules=RULES)
    def the_next_exchange_begins(self, rules):
        self.begin_exchange(rules)

    # News

    @rule()
    def the_kernel_tells_of_a_fin(self):
        phase, was_heard = self.phase, self.fin_heard
        self.fin_heard = True
        verdict = self.judged(self.lifecycle.peer_hung_up(Cause.FIN, phase, self.now(), self.rules))
        if phase in (Phase.IDLE, Phase.HEAD, Phase.COMPLETE) or was_heard:
            assert verdict is NOTHING, "the reader will meet the FIN in its place, or it is old news"

    @precondition(lambda self: self.calm <= 0)
    @rule(cause=st.sampled_from([Cause.RESET, Cause.VANISHED, Cause.TLS_ERROR]))
    def the_connection_breaks(self, cause):
        self.client_broke = True
        self.judged(self.lifecycle.peer_hung_up(cause, self.phase, self.now(), self.rules))
        assert self.lifecycle.ended is not None, "a broken connection always decides"

    @precondition(lambda self: not self.facts["request_complete"] and self.calm <= 0)
    @rule()
    def the_reader_meets_the_fin(self):
        self.fin_met = True
        self.judged(self.lifecycle.input_ended(self.phase, self.now(), self.rules))
        assert self.lifecycle.ended is not None, "an incomplete request will never be complete"

    @precondition(lambda self: self.calm <= 0)
    @rule(cause=st.sampled_from(SLOW))
    def the_client_is_too_slow(self, cause):
        was_well = self.lifecycle.ended is None
        verdict = self.judged(self.lifecycle.gave_up(cause, self.phase, self.now()))
        assert verdict is (Verdict.CANCEL if was_well else NOTHING)

    @precondition(lambda self: self.calm <= 0)
    @rule(cause=st.sampled_from(OURS))
    def we_give_up(self, cause):
        assert self.judged(self.lifecycle.gave_up(cause, self.phase, self.now())) is Verdict.CANCEL

    def now(self) -> float:
        self.time += 1.0
        return self.time

    def judged(self, verdict: Verdict) -> Verdict:
        """Note a verdict, and check what must be true of it whatever the event was."""
        end = self.lifecycle.ended
        if self.first_end is None and end is not None:
            self.first_end = end
            assert (end.at, end.phase) == (self.time, self.phase)
            assert ends(verdict), "the decisive event has a consequence"
            assert self.fin_heard or self.fin_met or end.cause is not Cause.FIN
            if end.cause is Cause.FIN and self.rules.half_close is not HalfClose.ABORT:
                assert not self.facts["request_complete"], "a half-closed client gets its answer"
        if ends(verdict):
            assert end is not None, "nothing is stopped without a cause"
        if verdict is DISCARD:
            assert not any(map(ends, self.verdicts)), "what was ended before is not let run on"
            assert self.rules.disconnect != CANCEL
            assert self.facts["head_complete"], "there is a handler that may run on"
            assert not self.facts["response_complete"]
            assert end.cause in LEFT, "the policy speaks of departure only"
        if verdict is PROBE:
            self.probes += 1
            assert self.fin_heard
            assert self.rules.half_close is HalfClose.PROBE
            assert self.rules.http_version == "1.1"
            assert self.facts["head_complete"]
            assert not self.facts["response_begun"]
            assert not any(map(ends, self.verdicts)), "nothing is written after the departure"
        self.verdicts.append(verdict)
        return verdict

    @invariant()
    def a_step_has_passed(self):
        self.calm -= 1

    @invariant()
    def the_first_decisive_cause_never_changes(self):
        assert self.lifecycle.ended == self.first_end

    @invariant()
    def an_answer_is_owed_only_where_the_client_is_there_and_was_told_nothing(self):
        end = self.lifecycle.ended
        told = end is not None and end.phase in {Phase.IDLE, Phase.COMPLETE, Phase.RESPONSE_HEAD, Phase.RESPONSE_BODY}
        if end is None or told or end.cause in {*LEFT, Cause.WRITE_TIMEOUT, Cause.DROPPED} or self.client_broke:
            assert not self.lifecycle.owes_answer
        elif not self.fin_heard:
            assert self.lifecycle.owes_answer

    @invariant()
    def there_is_one_probe_an_exchange(self):
        assert self.probes <= 1

    @invariant()
    def no_handler_runs_for_a_client_that_is_known_to_have_left(self):
        runs = self.facts["head_complete"] and not self.facts["response_complete"]
        if self.fin_heard and runs and self.rules.half_close is HalfClose.ABORT:
            assert self.lifecycle.ended is not None

    @invariant()
    def a_client_that_may_have_left_was_asked(self):
        waits = self.facts["head_complete"] and not self.facts["response_begun"]
        asks = self.rules.half_close is HalfClose.PROBE and self.rules.http_version == "1.1"
        if self.fin_heard and waits and asks and self.lifecycle.ended is None:
            assert self.probes == 1


TestAnyOrderOfEvents = Connection.TestCase
TestAnyOrderOfEvents.settings = settings(max_examples=3 * settings.default.max_examples, stateful_step_count=40)


# The phase


@pytest.mark.parametrize(
    ("facts", "phase"),
    [
        ([], Phase.IDLE),
        (["head_begun"], Phase.HEAD),
        (["head_begun", "head_complete"], Phase.BODY),
        (["head_begun", "head_complete", "handler_started"], Phase.BODY),
        (["head_begun", "head_complete", "request_complete"], Phase.QUEUED),
        (["head_begun", "head_complete", "request_complete", "handler_started"], Phase.HANDLER),
        (FACTS[:5], Phase.RESPONSE_HEAD),
        (FACTS[:6], Phase.RESPONSE_BODY),
        (FACTS, Phase.COMPLETE),
        # A response may begin, and end, while the request is still coming.
        (["head_begun", "head_complete", "handler_started", "response_begun"], Phase.RESPONSE_HEAD),
        (["head_begun", "head_complete", "handler_started", *FACTS[4:6]], Phase.RESPONSE_BODY),
        (["head_begun", "head_complete", "handler_started", *FACTS[4:7]], Phase.COMPLETE),
        # A head that was not understood is answered all the same; what the engine makes of the rest is no matter.
        (["head_begun", "request_complete"], Phase.HEAD),
        (["head_begun", "response_begun"], Phase.RESPONSE_HEAD),
        (["head_begun", *FACTS[4:]], Phase.COMPLETE),
    ],
)
def test_the_phase_follows_from_the_facts(facts, phase):
    assert phase_of(**{fact: fact in facts for fact in FACTS}) is phase


def test_the_phase_never_goes_back_while_facts_are_added():
    order = list(Phase)
    worlds = [dict(zip(FACTS, values, strict=True)) for values in itertools.product([False, True], repeat=len(FACTS))]
    possible = [world for world in worlds if world["head_complete"] or not world["handler_started"]]
    for world, later in itertools.product(possible, possible):
        if all(later[fact] for fact in FACTS if world[fact]):
            assert order.index(phase_of(**world)) <= order.index(phase_of(**later)), (world, later)


# What remains to be done, and to be told


@pytest.mark.parametrize(
    ("started", "returned", "exception", "outcome"),
    [
        (False, False, None, Outcome.NOT_STARTED),
        (True, False, None, Outcome.CANCELLED),
        (True, True, None, Outcome.FINISHED),
        (True, False, ValueError(), Outcome.FAILED),
        (True, True, ValueError(), Outcome.FAILED),  # its response was none, or failed while it was sent
        (False, False, ValueError(), Outcome.NOT_STARTED),  # what failed was not the handler
    ],
)
def test_the_outcome_tells_what_became_of_the_handler(started, returned, exception, outcome):
    assert outcome_of(started=started, returned=returned, exception=exception) is outcome


@every_phase
@pytest.mark.parametrize("cause", Cause)
def test_an_answer_is_owed_where_the_client_is_there_and_was_told_nothing(phase, cause):
    # A client that takes no data (WRITE_TIMEOUT) takes no answer either, and one that was dropped shall have none.
    there = {Cause.READ_TIMEOUT, Cause.DEADLINE, Cause.DRAIN, Cause.HANDLER_FAILED}
    waiting = {Phase.HEAD, Phase.BODY, Phase.QUEUED, Phase.HANDLER}
    lifecycle = Lifecycle()
    assert not lifecycle.owes_answer
    if cause in LEFT:
        lifecycle.peer_hung_up(cause, phase, 1.0, ClientRules(HalfClose.ABORT, CANCEL, "1.1"))
    else:
        lifecycle.gave_up(cause, phase, 1.0)
    assert lifecycle.owes_answer is (cause in there and phase in waiting)


@every_half_close
@pytest.mark.parametrize("news", LEFT)
def test_an_answer_is_not_owed_any_more_once_the_client_has_left(half_close, news):
    lifecycle, rules = Lifecycle(), ClientRules(half_close, CANCEL, "1.1")
    lifecycle.gave_up(Cause.DEADLINE, Phase.HANDLER, 1.0)
    assert lifecycle.peer_hung_up(news, Phase.HANDLER, 2.0, rules) is NOTHING
    assert lifecycle.ended == End(Cause.DEADLINE, Phase.HANDLER, 1.0)
    half_closed_only = news is Cause.FIN and half_close is not HalfClose.ABORT
    assert lifecycle.owes_answer is half_closed_only


@pytest.mark.parametrize("cause", Cause)
def test_a_cause_knows_whose_side_it_is_on(cause):
    assert cause.by == ("server" if cause in OURS else "client")
    assert cause in LEFT + SLOW + OURS


# Words that users write


def test_half_close_is_known_by_its_words():
    assert [HalfClose.of(word) for word in ("abort", "finish", "probe")] == list(HalfClose)
    assert HalfClose.of(HalfClose.PROBE) is HalfClose.PROBE


@pytest.mark.parametrize("word", ["ABORT", "", "close", None, 1])
def test_another_word_for_half_close_is_a_config_error_that_lists_the_words(word):
    with pytest.raises(ConfigError, match="abort, finish, probe"):
        HalfClose.of(word)


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
def test_a_grace_that_is_none_is_a_config_error(seconds):
    with pytest.raises(ConfigError, match="positive number of seconds"):
        Grace(seconds)


def test_policies_are_values_that_read_as_they_are_written():
    assert [repr(policy) for policy in (CANCEL, FINISH, Grace(2.5), Grace(30))] == [
        "CANCEL",
        "FINISH",
        "Grace(2.5)",
        "Grace(30)",
    ]
    assert Grace(2) == Grace(2.0) != Grace(3)
