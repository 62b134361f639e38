"""Defects that a person might make, or leave behind: one change of one place each, and the tests that must see it.

Each is a line or two of `core/`, `connection/` or what tells of their records, made wrong in a way that type checker
and linter let pass. None is only another way of writing the same: whoever sees one survive has found a missing test.

`old` stands exactly once in the file. When the code has changed and it does not any more, bring the defect up to date
with the code, and take it out only where what it breaks is gone.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Defect:
    """`file` is below `trioserve/`; `tests` are the smallest part of the suite that must fail, as pytest is given it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


DEFECTS = (
    # The judgement
    Defect(
        "the-cancel-is-skipped",
        "core/lifecycle.py",
        "return Verdict.DISCARD if handler_may_run_on else Verdict.CANCEL",
        "return Verdict.DISCARD",
        ("tests/core/test_lifecycle.py::test_a_fin_out_of_band_means_what_half_close_says",),
    ),
    Defect(
        "finish-is-cancelled-too",
        "core/lifecycle.py",
        "handler_may_run_on = phase not in READER_MEETS_FIN and rules.disconnect != CANCEL",
        "handler_may_run_on = phase in READER_MEETS_FIN and rules.disconnect != CANCEL",
        ("tests/core/test_lifecycle.py::test_a_broken_connection_is_departure_whatever_half_close_says",),
    ),
    Defect(
        "a-reset-after-a-fin-is-swallowed",
        "core/lifecycle.py",
        "        if cause is not Cause.FIN:\n            return self._departed",
        "        if cause is not Cause.FIN and self.peer is Peer.OPEN:\n            return self._departed",
        ("tests/core/test_lifecycle.py::test_a_reset_after_a_fin_is_departure",),
    ),
    Defect(
        "the-phase-stays-at-the-head-when-it-was-sent",
        "core/lifecycle.py",
        "    if response_head_sent:\n        return Phase.RESPONSE_BODY\n    if response_begun:\n"
        "        return Phase.RESPONSE_HEAD\n",
        "    if response_begun:\n        return Phase.RESPONSE_HEAD\n    if response_head_sent:\n"
        "        return Phase.RESPONSE_BODY\n",
        ("tests/core/test_lifecycle.py::test_the_phase_follows_from_the_facts",),
    ),
    Defect(
        "the-body-outlasts-the-response",
        "core/lifecycle.py",
        "    if head_complete and not request_complete:\n        return Phase.BODY\n    if handler_started:\n"
        "        return Phase.HANDLER\n",
        "    if handler_started:\n        return Phase.HANDLER\n    if head_complete and not request_complete:\n"
        "        return Phase.BODY\n",
        ("tests/core/test_lifecycle.py::test_the_phase_follows_from_the_facts",),
    ),
    Defect(
        "what-comes-later-changes-the-story",
        "core/lifecycle.py",
        "        if self.ended is None:\n            self.ended = End(cause, phase, at)\n            return Verdict.CANCEL",
        "        if self.ended is None or cause in SERVER_CAUSES:\n            self.ended = End(cause, phase, at)\n"
        "            return Verdict.CANCEL",
        (
            "tests/core/test_lifecycle.py::test_giving_up_after_the_end_stops_a_handler_that_ran_on_and_changes_no_story",
        ),
    ),
    Defect(
        "a-handler-that-runs-on-is-never-stopped",
        "core/lifecycle.py",
        "return Verdict.CANCEL if cause in SERVER_CAUSES else Verdict.NOTHING",
        "return Verdict.NOTHING",
        (
            "tests/core/test_lifecycle.py::test_giving_up_after_the_end_stops_a_handler_that_ran_on_and_changes_no_story",
        ),
    ),
    Defect(
        "an-answer-is-owed-to-one-who-left",
        "core/lifecycle.py",
        "if self.ended is None or self.peer is Peer.GONE:",
        "if self.ended is None:",
        ("tests/core/test_lifecycle.py::test_an_answer_is_not_owed_any_more_once_the_client_has_left",),
    ),
    Defect(
        "who-leaves-during-the-unwind-is-still-there",
        "core/lifecycle.py",
        "            if cause is not Cause.FIN or rules.half_close is HalfClose.ABORT:\n"
        "                self.peer = Peer.GONE\n            return Verdict.NOTHING",
        "            return Verdict.NOTHING",
        ("tests/core/test_lifecycle.py::test_an_answer_is_not_owed_any_more_once_the_client_has_left",),
    ),
    Defect(
        "a-fin-inside-a-body-may-be-a-half-close",
        "core/lifecycle.py",
        "        if self.ended is not None:\n            return Verdict.NOTHING\n"
        "        return self._departed(Cause.FIN, phase, at, rules)",
        "        if self.ended is not None:\n            return Verdict.NOTHING\n"
        "        return self._judge_fin(phase, at, rules)",
        ("tests/core/test_lifecycle.py::test_a_fin_that_the_reader_meets_is_departure_whatever_half_close_says",),
    ),
    Defect(
        "a-1.0-client-is-probed",
        "core/lifecycle.py",
        ' and rules.http_version == "1.1"',
        "",
        ("tests/core/test_lifecycle.py::test_a_fin_out_of_band_means_what_half_close_says",),
    ),
    Defect(
        "a-probe-in-the-middle-of-a-response",
        "core/lifecycle.py",
        "may_probe = phase in BEFORE_RESPONSE and",
        "may_probe = phase is not Phase.COMPLETE and",
        ("tests/core/test_lifecycle.py::test_a_fin_out_of_band_means_what_half_close_says",),
    ),
    Defect(
        "silence-is-broken-by-an-answer",
        "core/lifecycle.py",
        "ANSWERABLE = frozenset({Cause.READ_TIMEOUT,",
        "ANSWERABLE = frozenset({Cause.DROPPED, Cause.READ_TIMEOUT,",
        ("tests/core/test_lifecycle.py::test_an_answer_is_owed_where_the_client_is_there_and_was_told_nothing",),
    ),
    Defect(
        "an-answer-is-owed-in-the-middle-of-a-response",
        "core/lifecycle.py",
        "return self.ended.cause in ANSWERABLE and self.ended.phase in BEFORE_RESPONSE",
        "return self.ended.cause in ANSWERABLE",
        ("tests/core/test_lifecycle.py::test_an_answer_is_owed_where_the_client_is_there_and_was_told_nothing",),
    ),
    Defect(
        "a-fin-between-exchanges-is-judged",
        "core/lifecycle.py",
        "READER_MEETS_FIN = frozenset({Phase.IDLE, Phase.HEAD, Phase.COMPLETE})",
        "READER_MEETS_FIN = frozenset({Phase.IDLE, Phase.COMPLETE})",
        ("tests/core/test_lifecycle.py::test_a_fin_out_of_band_means_what_half_close_says",),
    ),
    Defect(
        "every-handler-was-cancelled",
        "core/lifecycle.py",
        "return Outcome.FINISHED if returned else Outcome.CANCELLED",
        "return Outcome.CANCELLED",
        ("tests/core/test_lifecycle.py::test_the_outcome_tells_what_became_of_the_handler",),
    ),
    Defect(
        "the-last-word-of-a-switched-protocol-is-not-waited-for",
        "core/lifecycle.py",
        "return HalfClose.FINISH if reader_waits or client_may_go else HalfClose.ABORT",
        "return HalfClose.FINISH if client_may_go else HalfClose.ABORT",
        (
            "tests/core/test_lifecycle.py::test_after_a_switch_of_protocols_a_fin_is_departure_unless_the_reader_meets_it_or_all_was_said",
        ),
    ),
    # Status codes and records
    Defect(
        "a-request-that-was-never-whole-is-499",
        "core/status.py",
        "**_row(Phase.BODY, left=400,",
        "**_row(Phase.BODY, left=499,",
        ("tests/core/test_status.py::test_a_cell_has_the_status_code_of_the_design",),
    ),
    Defect(
        "one-number-for-the-servers-causes-too",
        "core/status.py",
        "if code is not None and cell[1] in clients}",
        "if code is not None}",
        ("tests/core/test_status.py::test_a_number_replaces_the_cells_of_the_client_and_no_others",),
    ),
    Defect(
        "a-function-holds-against-a-later-change",
        "core/status.py",
        "functions = {cell: function for cell, function in self.functions.items() if cell not in codes}",
        "functions = self.functions",
        (
            "tests/core/test_status.py::test_a_change_of_some_cells_leaves_the_others_to_the_function_that_was_there_before",
        ),
    ),
    Defect(
        "the-log-tells-what-was-never-sent",
        "core/records.py",
        "return self.status if self.sent_status is None else self.sent_status",
        "return self.status",
        ("tests/core/test_records.py::test_the_logged_status_is_what_was_sent_if_anything_was",),
    ),
    Defect(
        "the-unwind-begins-with-the-request",
        "core/records.py",
        "return self.unwound_at - self.noticed_at",
        "return self.unwound_at - self.started_at",
        ("tests/core/test_records.py::test_the_unwind_time_is_from_the_notice_to_the_unwound_handler",),
    ),
    # Patience
    Defect(
        "patience-is-saved-up",
        "core/patience.py",
        "self.left = min(filled, self._capacity)",
        "self.left = filled",
        ("tests/core/test_patience.py::test_it_is_never_more_than_the_capacity_nor_less_than_nothing",),
    ),
    Defect(
        "patience-becomes-less-than-nothing",
        "core/patience.py",
        "self.left = max(self.left - seconds, 0.0)",
        "self.left = self.left - seconds",
        ("tests/core/test_patience.py::test_it_is_never_more_than_the_capacity_nor_less_than_nothing",),
    ),
    # The gate and the engine
    Defect(
        "one-field-too-many",
        "core/gate.py",
        "if self._fields >= limits.fields and",
        "if self._fields > limits.fields and",
        ("tests/core/test_gate.py::test_rfc9112_5_fields_are_taken_up_to_their_limit_and_no_further",),
    ),
    Defect(
        "chunk-extensions-are-limited-one-by-one",
        "core/gate.py",
        "        self._extension_bytes += extensions\n",
        "",
        (
            "tests/core/test_gate.py::test_rfc9112_7_1_1_chunk_extensions_are_taken_up_to_their_limit_in_all_and_no_further",
        ),
    ),
    Defect(
        "empty-lines-without-end",
        "core/gate.py",
        "while not self._checked and self._empty_lines < MAX_EMPTY_LINES and",
        "while not self._checked and",
        ("tests/core/test_gate.py::test_rfc9112_2_to_5_a_bad_head_is_refused_at_the_byte_that_makes_it_so",),
    ),
    Defect(
        "content-before-a-mistake-is-lost",
        "core/gate.py",
        "            if not content:\n                raise\n",
        "            raise\n",
        (
            "tests/core/test_gate.py::test_rfc9112_7_1_bad_chunks_are_refused_at_the_byte_that_makes_them_so_and_what_came_before_passes",
        ),
    ),
    Defect(
        "a-chunk-may-be-longer-than-it-says",
        "core/gate.py",
        'if held[start : start + 2] not in {b"", b"\\r"}:',
        'if held[start : start + 1] not in {b"", b"\\r"}:',
        (
            "tests/core/test_gate.py::test_rfc9112_7_1_bad_chunks_are_refused_at_the_byte_that_makes_them_so_and_what_came_before_passes",
        ),
    ),
    Defect(
        "secrets-are-remembered",
        "core/field_section.py",
        "if name in _REMEMBERED:",
        "if name:",
        ("tests/core/test_field_section.py::test_what_may_be_secret_is_not_remembered",),
    ),
    Defect(
        "lines-are-remembered-without-end",
        "core/remembered.py",
        "                self.clear()\n",
        "                pass\n",
        ("tests/core/test_field_section.py::test_what_is_remembered_is_bounded",),
    ),
    Defect(
        "a-line-is-remembered-by-its-name",
        "core/field_section.py",
        "_remembered.remember(line, field, line)",
        "_remembered.remember(name, field, line)",
        ("tests/core/test_field_section.py::test_a_line_that_comes_again_is_remembered_by_all_of_its_bytes",),
    ),
    Defect(
        "limits-are-not-judged-where-a-line-is-remembered",
        "core/gate.py",
        "return fields if fields is not None and len(fields) <= limits.fields else None",
        "return fields",
        ("tests/core/test_gate.py::test_rfc9112_5_fields_are_taken_up_to_their_limit_and_no_further",),
    ),
    Defect(
        "who-has-nothing-to-send-awaits-continue",
        "core/gate.py",
        'length != 0 and http_version != "1.0" and',
        'http_version != "1.0" and',
        (
            "tests/core/test_gate.py::test_rfc9110_10_1_1_a_client_awaits_continue_if_it_says_so_and_has_content_to_send",
        ),
    ),
    Defect(
        "a-connection-is-reused-inside-a-request",
        "core/engine.py",
        "return self.request_complete and self.keeps_alive",
        "return self.keeps_alive",
        ("tests/core/test_engine.py::test_rfc9112_9_3_a_connection_is_not_reused_before_the_request_is_complete",),
    ),
    Defect(
        "pipelined-bytes-are-not-there",
        "core/gate.py",
        'return size > 1 or (size == 1 and not (self._next is _HEAD and self._held.endswith(b"\\r")))',
        "return False",
        ("tests/core/test_engine.py::test_unparsed_bytes_are_those_of_which_no_event_has_told",),
    ),
    Defect(
        "bytes-that-the-gate-holds-are-lost-in-a-switch",
        "core/gate.py",
        "return self._held[self._at :]",
        'return b""',
        (
            "tests/core/test_engine.py::test_a_switch_is_a_101_with_the_fields_given_and_what_follows_the_request_is_kept",
        ),
    ),
    Defect(
        "a-1.0-response-with-a-length-ends-with-the-connection",
        "core/engine.py",
        'version == "1.0" and head.length is None and self',
        'version == "1.0" and self',
        ("tests/core/test_engine.py::test_a_streamed_response_with_a_content_length_keeps_it",),
    ),
    Defect(
        "a-line-break-in-a-value-begins-a-field",
        "core/response_head.py",
        r"[\t\x20-\x7e\x80-\xff]*+\r\n(?<![ \t]\r\n))",
        r"[\t\r\n\x20-\x7e\x80-\xff]*\r\n(?<![ \t]\r\n))",
        ("tests/core/test_response_head.py::test_rfc9110_5_5_a_value_that_http_cannot_carry_is_refused",),
    ),
    Defect(
        "a-refusal-is-forgotten-for-the-next-one",
        "core/gate.py",
        "self._refusal = self._refusal or (status, detail)",
        "self._refusal = (status, detail)",
        ("tests/core/test_engine.py::test_an_answer_to_a_refused_head_leaves_the_refusal_as_it_was",),
    ),
    Defect(
        "the-rest-of-a-head-that-was-answered-early-is-taken",
        "core/engine.py",
        '        self.refuse(400, "the request was answered before its head was complete")\n',
        "",
        ("tests/core/test_engine.py::test_of_a_head_that_was_answered_before_it_was_complete_no_more_is_taken",),
    ),
    Defect(
        "terms-of-many-fields-are-kept",
        "core/gate.py",
        "is_kept = end - start <= _SMALL_HEAD and len(acted_on) <= _FEW_ACTED_ON",
        "is_kept = end - start <= _SMALL_HEAD",
        ("tests/core/test_kept.py::test_nobody_can_make_a_process_remember_more_than_so_much",),
    ),
    Defect(
        "a-switch-goes-to-a-protocol-that-nobody-offered",
        "core/switching.py",
        "if not chosen or not set(chosen).issubset(offered):",
        "if not chosen:",
        (
            "tests/core/test_engine.py::test_rfc9110_7_8_a_switch_that_is_malformed_or_not_what_was_asked_for_is_refused_and_another_response_can_be_sent",
        ),
    ),
    Defect(
        "what-is-remembered-of-whole-responses-is-alike-for-all-requests",
        "core/engine.py",
        "        known = self.head_for_machine\n",
        '        known = b"GET / HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n"\n',
        ("tests/core/test_engine.py::test_a_whole_response_is_what_the_machine_makes_of_it_in_parts",),
    ),
    Defect(
        "what-stands-behind-connect-is-served",
        "core/engine.py",
        'if closes or self.head_for_machine.startswith(b"CONNECT"):',
        "if closes:",
        ("tests/core/test_engine.py::test_rfc9110_9_3_6_what_stands_behind_a_connect_is_not_taken_for_requests",),
    ),
    Defect(
        "h11r-goes-on-with-a-response-that-is-not-what-its-head-says",
        "core/engine_h11r.py",
        "        self._machine = _Spoilt()  # type: ignore[assignment]\n",
        "",
        ("tests/core/test_engines_agree.py::test_the_engines_agree_on_every_answer",),
    ),
    # Departure: what carries the judgement out
    Defect(
        "a-shielded-wait-outlives-the-cancellation",
        "connection/departure.py",
        "self.scope.cancel(reason=self._reason())\n        self._transport.interrupt()",
        "self.scope.cancel(reason=self._reason())",
        ("tests/lifecycle/test_orders.py::test_a_shielded_read_that_waits_when_we_give_up_ends_at_once",),
    ),
    Defect(
        "a-blocked-send-outlives-the-client-under-finish",
        "connection/departure.py",
        "                self._transport.interrupt()\n                if rules",
        "                if rules",
        ("tests/lifecycle/test_orders.py::test_under_finish_a_departure_ends_a_send_that_is_blocked",),
    ),
    Defect(
        "grace-has-no-end",
        "connection/departure.py",
        "if rules.disconnect.seconds < math.inf:",
        "if rules.disconnect.seconds == math.inf:",
        ("tests/lifecycle/test_policies.py::test_grace_cancels_when_it_is_over",),
    ),
    Defect(
        "grace-ends-at-once",
        "connection/departure.py",
        "self._timer.set(trio.current_time() + rules.disconnect.seconds)",
        "self._timer.set(trio.current_time())",
        ("tests/lifecycle/test_policies.py::test_grace_cancels_when_it_is_over",),
    ),
    Defect(
        "an-overdue-unwind-is-not-reported",
        "connection/departure.py",
        "        self._timer.set(trio.current_time() + self._unwind)\n",
        "",
        ("tests/lifecycle/test_giving_up.py::test_a_slow_unwind_is_reported_while_it_lasts_and_never_cut",),
    ),
    Defect(
        "an-unwind-that-is-over-is-overdue",
        "connection/departure.py",
        '        whatever is still heard.\n        """\n        self._timer.discard()',
        '        whatever is still heard.\n        """',
        ("tests/lifecycle/test_orders.py::test_while_a_client_is_given_time_to_read_its_answer_nothing_is_overdue",),
    ),
    Defect(
        "in-a-shield-the-end-goes-unnoticed",
        "connection/departure.py",
        "            raise ClientGone(self._reason())",
        "            return",
        (
            "tests/lifecycle/test_giving_up.py::test_a_send_inside_a_shield_raises_after_the_departure_instead_of_waiting",
        ),
    ),
    Defect(
        "unacknowledged-bytes-are-not-looked-at",
        "connection/departure.py",
        "                self._note_unacked()\n                self._cancel()",
        "                self._cancel()",
        ("tests/server/test_deadlines.py::test_a_client_that_takes_nothing_of_a_stream_is_cut_as_too_slow",),
    ),
    # The reader
    Defect(
        "the-heads-deadline-begins-anew-with-each-byte",
        "connection/reader.py",
        "await self._arrival(self.head_begun_at + self._deadlines.head)",
        "await self._arrival(self._now() + self._deadlines.head)",
        ("tests/lifecycle/test_giving_up.py::test_a_head_must_be_whole_within_its_deadline_however_it_is_dripped",),
    ),
    Defect(
        "who-was-dismissed-takes-the-next-requests-bytes",
        "connection/reader.py",
        "            if self._waiter is not waiter:\n"
        "                raise Interrupted  # dismissed in the very moment in which bytes came: they are not for us\n",
        "",
        (
            "tests/lifecycle/test_orders.py::test_bytes_that_come_in_the_moment_of_the_answer_are_not_for_a_task_that_was_left_over",
        ),
    ),
    Defect(
        "a-wait-that-was-cancelled-does-not-count",
        "connection/reader.py",
        "        try:\n            data = await self._arrival(since + patience.left) or await self._met_fin()\n        finally:\n"
        "            # Also if the handler has cancelled its wait: it was one all the same.\n"
        "            patience.waited(self._now() - since)\n",
        "        data = await self._arrival(since + patience.left) or await self._met_fin()\n"
        "        patience.waited(self._now() - since)\n",
        ("tests/lifecycle/test_giving_up.py::test_waits_for_a_body_that_the_handler_gives_up_count_too",),
    ),
    Defect(
        "who-waits-for-a-body-is-not-told-that-all-is-over",
        "connection/reader.py",
        "            self._timer.stop()\n            self._transport.interrupt()",
        "            self._timer.stop()",
        ("tests/lifecycle/test_orders.py::test_a_task_that_waits_for_the_body_of_a_complete_exchange_is_told_so",),
    ),
    Defect(
        "two-may-read-at-once",
        "connection/reader.py",
        "        if self._waiter is not None:\n"
        '            raise trio.BusyResourceError("another task is already reading from this client")\n',
        "",
        (
            "tests/lifecycle/test_orders.py::test_of_two_tasks_that_read_one_body_the_second_is_refused_and_the_first_gets_it",
        ),
    ),
    Defect(
        "bytes-that-came-with-the-end-are-begun-with",
        "connection/reader.py",
        "            if not self._departure.cancelled:\n                return data",
        "            return data",
        (
            "tests/lifecycle/test_orders.py::test_a_request_that_comes_in_the_moment_in_which_we_give_up_waiting_is_not_begun",
        ),
    ),
    Defect(
        "patience-is-not-renewed",
        "connection/reader.py",
        "        self._patience = None\n        self.head",
        "        self.head",
        ("tests/lifecycle/test_giving_up.py::test_slowness_with_one_request_does_not_count_against_the_next",),
    ),
    Defect(
        "the-clock-runs-on-after-a-read",
        "connection/reader.py",
        "                self._waiter = None\n                self._timer.stop()\n        await",
        "                self._waiter = None\n        await",
        (
            "tests/lifecycle/test_giving_up.py::test_only_waiting_for_a_body_counts_and_not_what_the_handler_does_in_between",
        ),
    ),
    Defect(
        "what-had-arrived-is-lost-under-finish",
        "connection/reader.py",
        "            except Interrupted:\n                if not self._departure.discarding:\n                    raise\n",
        "            except Interrupted:\n                raise\n",
        (
            "tests/lifecycle/test_policies.py::test_under_finish_the_rest_of_a_body_that_comes_together_with_the_fin_is_read",
        ),
    ),
    # The sender
    Defect(
        "a-cut-piece-is-forgotten-as-such",
        "connection/sender.py",
        "        self._cut = self._cut or 0 < _size(self._unsent) < _size(self._wire)\n",
        "",
        (
            "tests/lifecycle/test_switching.py::test_no_last_words_follow_a_piece_that_was_cut_though_there_is_room_again",
        ),
    ),
    Defect(
        "an-interim-response-counts-as-the-response",
        "connection/sender.py",
        "            self.response_bytes -= len(data)  # these bytes are not the response's, whenever they get out\n",
        "",
        (
            "tests/lifecycle/test_orders.py::test_a_response_of_which_not_one_byte_got_out_was_not_sent_though_the_100_before_it_was",
        ),
    ),
    Defect(
        "a-blocked-send-writes-on-after-the-departure",
        "connection/sender.py",
        "                if self._departure.lifecycle.ended is not None:\n",
        "                if self._departure.cancelled:\n",
        ("tests/lifecycle/test_orders.py::test_under_finish_a_blocked_send_writes_nothing_more_after_the_departure",),
    ),
    Defect(
        "content-is-counted-from-the-connections-beginning",
        "connection/sender.py",
        '        """A new exchange begins: count from zero."""\n        self.response_bytes = 0\n'
        "        self._content_bytes = 0\n",
        '        """A new exchange begins: count from zero."""\n        self.response_bytes = 0\n',
        ("tests/lifecycle/test_orders.py::test_each_record_counts_the_bytes_of_its_own_response_alone",),
    ),
    Defect(
        "a-send-that-is-given-up-sets-the-clock-back",
        "connection/sender.py",
        "        try:\n            await self._transport.wait_writable()\n        finally:\n            self._timer.stop()\n"
        "            self._patience.waited(trio.current_time() - self._waits_since)\n",
        "        try:\n            await self._transport.wait_writable()\n        finally:\n            self._timer.stop()\n"
        "        self._patience.waited(trio.current_time() - self._waits_since)\n",
        (
            "tests/lifecycle/test_orders.py::test_a_handler_that_gives_its_sends_up_again_and_again_does_not_set_the_stalls_clock_back",
        ),
    ),
    Defect(
        "what-was-taken-once-counts-at-every-look",
        "connection/sender.py",
        "            self._taken_bytes = taken\n",
        "",
        ("tests/lifecycle/test_departure.py::test_a_half_closed_client_that_never_reads_is_cut_by_the_send_deadline",),
    ),
    Defect(
        "two-may-send-at-once",
        "connection/sender.py",
        "        if self._busy:\n"
        '            raise trio.BusyResourceError("another task is already sending this response")\n',
        "",
        ("tests/lifecycle/test_giving_up.py::test_two_tasks_cannot_send_at_once",),
    ),
    Defect(
        "a-response-is-kept-after-it-is-out",
        "connection/sender.py",
        "        self._content_bytes += len(self._wire.payload)\n        self._wire = _NOTHING\n",
        "        self._content_bytes += len(self._wire.payload)\n"
        '        self._wire = Wire(self._wire.prefix, b"", b"")\n',
        ("tests/lifecycle/test_orders.py::test_an_idle_connection_holds_nothing_of_the_response_before",),
    ),
    # The exchange
    Defect(
        "a-response-that-was-thrown-away-is-complete",
        "connection/exchange.py",
        "        if self._connection.departure.lifecycle.ended is None:\n            self._complete()",
        "        self._complete()",
        (
            "tests/lifecycle/test_orders.py::test_under_finish_a_whole_response_that_is_blocked_when_its_client_leaves_is_abandoned",
        ),
    ),
    Defect(
        "a-status-is-sent-before-its-first-byte",
        "connection/exchange.py",
        "if self.response is None or self._connection.sender.response_bytes <= 0:",
        "if self.response is None:",
        (
            "tests/lifecycle/test_orders.py::test_a_response_of_which_not_one_byte_got_out_was_not_sent_though_the_100_before_it_was",
        ),
    ),
    Defect(
        "content-that-came-with-the-head-is-not-limited",
        "connection/exchange.py",
        "            self._count(event.data)\n            self._take_early(event.data)",
        "            self._take_early(event.data)",
        ("tests/lifecycle/test_giving_up.py::test_content_that_has_come_with_its_head_may_be_too_large_too",),
    ),
    Defect(
        "one-who-left-is-asked-for-its-body",
        "connection/exchange.py",
        "if self._connection.engine.client_awaits_continue and self._connection.departure.lifecycle.ended is None:",
        "if self._connection.engine.client_awaits_continue:",
        ("tests/lifecycle/test_orders.py::test_nobody_is_asked_for_a_body_after_the_departure",),
    ),
    Defect(
        "a-failure-while-unwinding-is-logged",
        "connection/exchange.py",
        "        self.exception = error\n        if self._connection.departure.lifecycle.ended is None:\n",
        "        self.exception = error\n        if not self.completed:\n",
        ("tests/lifecycle/test_giving_up.py::test_a_failure_while_unwinding_is_told_by_the_record_and_not_logged",),
    ),
    Defect(
        "the-departure-is-noticed-when-all-is-over",
        "connection/exchange.py",
        "            noticed_at=noticed_at,",
        "            noticed_at=trio.current_time(),",
        ("tests/lifecycle/test_departure.py::test_a_shielded_cleanup_may_end_and_the_record_comes_after_it",),
    ),
    Defect(
        "a-thread-is-started-for-one-who-left",
        "connection/exchange.py",
        "            await trio.lowlevel.checkpoint_if_cancelled()\n            self.handler_starts()",
        "            self.handler_starts()",
        (
            "tests/lifecycle/test_orders.py::test_a_plain_handler_whose_client_leaves_as_it_gets_its_thread_either_runs_or_is_not_started",
        ),
    ),
    Defect(
        "a-part-is-written-without-a-checkpoint",
        "connection/exchange.py",
        "        # Before the part and not after it: nothing may be written once the client is known to be gone.\n"
        "        await trio.lowlevel.checkpoint()\n",
        "",
        ("tests/lifecycle/test_streams.py::test_each_part_is_a_checkpoint_also_where_there_is_room",),
    ),
    Defect(
        "the-last-words-come-twice",
        "connection/exchange.py",
        'words = b"" if self._said_last else self._last_words(cause)',
        "words = self._last_words(cause)",
        ("tests/lifecycle/test_switching.py::test_the_last_words_are_not_said_to_one_who_has_heard_the_last",),
    ),
    Defect(
        "who-may-go-has-left",
        "connection/exchange.py",
        "        if not data and not self._client_may_go:",
        "        if not data:",
        (
            "tests/lifecycle/test_switching.py::test_the_answer_to_the_last_word_can_be_awaited_and_a_fin_is_none_the_worse",
        ),
    ),
    Defect(
        "content-of-a-response-that-never-began-is-counted",
        "connection/exchange.py",
        "response_body_bytes=self._connection.sender.content_bytes if self.response else 0,",
        "response_body_bytes=self._connection.sender.response_bytes if self.response else 0,",
        ("tests/lifecycle/test_departure.py::test_a_stream_is_cancelled_between_two_parts",),
    ),
    # The connection
    Defect(
        "the-record-comes-before-the-close",
        "connection/connection.py",
        "            self._close(exchange)\n            if exchange is not None and end is not None and exchange.completed_at is None:\n"
        "                status = self._abandoned_status(end)\n"
        "                record = exchange.abandoned_record(end, status, self.departure.unacked_bytes)\n"
        "                await self.context.reporter.abandoned(record)\n",
        "            if exchange is not None and end is not None and exchange.completed_at is None:\n"
        "                status = self._abandoned_status(end)\n"
        "                record = exchange.abandoned_record(end, status, self.departure.unacked_bytes)\n"
        "                await self.context.reporter.abandoned(record)\n            self._close(exchange)\n",
        ("tests/lifecycle/test_policies.py::test_a_hook_hears_of_it_when_the_connection_is_closed",),
    ),
    Defect(
        "an-exchange-is-reported-twice",
        "connection/connection.py",
        "if exchange is not None and end is not None and exchange.completed_at is None:",
        "if exchange is not None and end is not None:",
        ("tests/lifecycle/test_clearing_up.py::test_a_client_that_goes_with_its_whole_answer_stops_no_commit",),
    ),
    Defect(
        "a-fin-behind-pipelined-bytes-is-lost",
        "connection/connection.py",
        "            self.departure.reader_rests()\n            if exchange.refusal",
        "            if exchange.refusal",
        ("tests/lifecycle/test_departure.py::test_a_fin_heard_during_one_exchange_is_judged_anew_for_the_next",),
    ),
    Defect(
        "a-handler-is-started-for-one-who-left",
        "connection/connection.py",
        "        if self.departure.cancelled:\n            return  # a client",
        "        if self.departure.discarding:\n            return  # a client",
        ("tests/lifecycle/test_departure.py::test_a_handler_whose_client_left_at_once_is_not_started",),
    ),
    Defect(
        "nobody-looks-before-a-handler-starts",
        "connection/connection.py",
        '        """Call the endpoint, and see its response out."""\n        self.transport.look()\n',
        '        """Call the endpoint, and see its response out."""\n',
        ("tests/lifecycle/test_departure.py::test_a_handler_whose_client_left_at_once_is_not_started",),
    ),
    Defect(
        "a-turn-is-lost-with-its-client",
        "connection/connection.py",
        "            try:\n                await self._call_endpoint(exchange, endpoint)\n            finally:\n"
        "                self.context.turns.give_back()\n",
        "            await self._call_endpoint(exchange, endpoint)\n            self.context.turns.give_back()\n",
        ("tests/lifecycle/test_queue.py::test_a_turn_is_given_back_however_the_exchange_ends",),
    ),
    Defect(
        "a-departure-behind-the-answer-stops-the-commit",
        "connection/connection.py",
        "        if self._clears_up:\n            self._waits_for_endpoint.append(lambda: self._client_hung_up(cause))\n"
        "        else:\n            self.departure.hung_up(cause)",
        "        self.departure.hung_up(cause)",
        ("tests/lifecycle/test_clearing_up.py::test_a_client_that_goes_with_its_whole_answer_stops_no_commit",),
    ),
    Defect(
        "a-drain-forgets-a-request-that-is-there",
        "connection/connection.py",
        "elif self.phase in {Phase.IDLE, Phase.COMPLETE} and not self._request_is_there:",
        "elif self.phase in {Phase.IDLE, Phase.COMPLETE}:",
        ("tests/server/test_stopping.py::test_an_idle_connection_in_which_a_request_lies_is_answered",),
    ),
    Defect(
        "an-early-answer-is-destroyed-by-the-close",
        "connection/connection.py",
        "                await self._linger()\n",
        "                self.transport.send_eof()\n",
        (
            "tests/lifecycle/test_lingering.py::test_a_client_that_uploads_first_and_reads_afterwards_gets_an_early_answer",
        ),
    ),
    Defect(
        "a-cut-response-ends-like-a-whole-one",
        "connection/connection.py",
        "return self.engine.closing_ends_response or (end is not None and end.cause in CLIENT_SLOW)",
        "return end is not None and end.cause in CLIENT_SLOW",
        ("tests/lifecycle/test_agreement.py::test_memory_and_sockets_agree_record_for_record",),
    ),
    Defect(
        "the-status-policy-of-a-route-is-ignored",
        "connection/connection.py",
        "status = self._rules.status.status(end.phase, end.cause)",
        "status = self.context.application.rules.status.status(end.phase, end.cause)",
        ("tests/lifecycle/test_policies.py::test_a_route_can_have_a_status_of_its_own",),
    ),
    Defect(
        "a-deadline-outlives-its-exchange",
        "connection/connection.py",
        "        self._handler_deadline.stop()\n        self._unread_delay.end(self)",
        "        self._unread_delay.end(self)",
        ("tests/lifecycle/test_giving_up.py::test_a_deadline_ends_with_its_exchange",),
    ),
    Defect(
        "context-variables-leak-into-the-next-exchange",
        "connection/connection.py",
        "            self._task.context = self._context_variables.copy()\n",
        "",
        ("tests/server/test_isolation.py::test_what_a_handler_leaves_in_context_variables_is_not_the_next_requests",),
    ),
    Defect(
        "the-rest-of-a-body-is-read-without-end",
        "connection/connection.py",
        "while not self.engine.request_complete and left >= 0:",
        "while not self.engine.request_complete:",
        (
            "tests/conformance/test_rfc9112_09_connections.py::test_9_6_a_chunked_unread_body_over_the_limit_ends_the_connection",
        ),
    ),
    Defect(
        "an-answer-during-a-drain-promises-more",
        "connection/connection.py",
        "            or self.context.draining\n",
        "",
        ("tests/server/test_stopping.py::test_an_exchange_under_way_completes_and_announces_the_end",),
    ),
    Defect(
        "an-answer-promises-more-until-the-order-to-end-is-acted-on",
        "connection/context.py",
        "return self.stopping.is_set() or self.replaced.is_set()",
        "return self.drain_begun.is_set()",
        ("tests/server/test_stopping.py::test_an_answer_announces_the_end_from_the_very_moment_of_the_order_on",),
    ),
    Defect(
        "a-delay-passes-for-a-connection-that-is-closed",
        "connection/connection.py",
        "        if not self.departure.cancelled:  # else a FIN",
        "        if True:  # else a FIN",
        (
            "tests/lifecycle/test_orders.py::test_who_asks_for_a_body_behind_a_closed_connection_leaves_nothing_to_be_looked_at",
        ),
    ),
    # The transport
    Defect(
        "who-vanished-has-reset",
        "connection/transport.py",
        "return Cause.VANISHED if error in _SILENCE else Cause.RESET",
        "return Cause.VANISHED if error == errno.ETIME else Cause.RESET",
        ("tests/connection/test_socket_transport.py::test_an_error_of_silence_means_vanished_and_any_other_a_reset",),
    ),
    Defect(
        "a-reset-is-told-as-a-fin",
        "connection/transport.py",
        "self._on_hangup(cause_of(error) if error else Cause.FIN)",
        "self._on_hangup(Cause.FIN)",
        ("tests/connection/test_socket_transport.py::test_a_reset_is_told_as_reset",),
    ),
    Defect(
        "receive-buffers-are-never-given-back",
        "connection/transport.py",
        "        self._receive_buffers.give_back(self._receive_buffer_claim)\n",
        "",
        (
            "tests/connection/test_socket_transport.py::test_only_as_many_receive_buffers_are_raised_as_the_budget_allows",
        ),
    ),
    Defect(
        "a-reset-is-a-close",
        "connection/transport.py",
        "            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)\n",
        "            pass\n",
        ("tests/connection/test_socket_transport.py::test_a_reset_is_seen_as_broken",),
    ),
    Defect(
        "a-file-that-became-shorter-spins",
        "connection/transport.py",
        "        if not sent:\n            raise _ended_early(part)\n        self._sent_bytes += sent\n",
        "        self._sent_bytes += sent\n",
        ("tests/connection/test_socket_transport.py::test_a_file_that_ends_before_its_slice_is_a_response_error",),
    ),
    Defect(
        "a-unix-client-that-closed-is-half-closed",
        "connection/transport.py",
        "        if self._sock.family == socket.AF_UNIX:\n            self._tell_full_close()\n",
        "",
        (
            "tests/server/test_isolation.py::test_under_finish_a_client_of_a_unix_socket_that_closes_altogether_has_left",
        ),
    ),
    # The hangup watch
    Defect(
        "one-that-was-removed-ends-the-watch",
        "connection/hangup.py",
        "            listener = self._listeners.get(fd)\n            if listener is None:\n"
        "                continue  # removed by a listener that was called just before\n",
        "            listener = self._listeners[fd]\n",
        ("tests/connection/test_hangup.py::test_a_listener_may_remove_another_that_was_to_be_told_in_the_same_round",),
    ),
    Defect(
        "who-hears-bytes-hears-no-hangup",
        "connection/hangup.py",
        "self._epoll.modify(fd, _HANGUP | select.EPOLLIN)",
        "self._epoll.modify(fd, select.EPOLLET | select.EPOLLIN)",
        (
            "tests/connection/test_socket_transport.py::test_a_fin_behind_a_closed_window_arrives_when_bytes_are_absorbed",
        ),
    ),
    Defect(
        "a-removed-socket-is-still-watched",
        "connection/hangup.py",
        "        del self._listeners[fd]\n        self._epoll.unregister(fd)",
        "        self._epoll.unregister(fd)",
        ("tests/connection/test_hangup.py::test_a_listener_may_remove_another_that_was_to_be_told_in_the_same_round",),
    ),
    # Reading ahead
    Defect(
        "behind-a-fin-nothing-is-heard",
        "connection/readahead.py",
        "return not self._closed and self._end in (None, Cause.FIN)",
        "return not self._closed and self._end is None",
        ("tests/connection/test_readahead.py::test_a_reset_after_a_fin_is_told_too",),
    ),
    Defect(
        "what-came-before-a-reset-is-lost",
        "connection/readahead.py",
        "        except HungUp as error:\n            self._keep_the_rest()\n            self._ended(error.cause)",
        "        except HungUp as error:\n            self._ended(error.cause)",
        (
            "tests/lifecycle/test_policies.py::test_under_finish_a_body_that_had_come_whole_before_a_reset_is_read_whole",
        ),
    ),
    Defect(
        "the-pump-reads-on-for-the-next-exchange",
        "connection/readahead.py",
        "        self._on_bytes = None\n        self._reach = READ_AHEAD",
        "        self._on_bytes = None",
        ("tests/connection/test_readahead.py::test_once_nobody_minds_unread_bytes_the_reach_is_short_again",),
    ),
    Defect(
        "what-the-pump-has-not-read-is-not-there",
        "connection/readahead.py",
        "        self.look()  # what lies there need not be bytes for us: over TLS it may be a farewell\n",
        "",
        ("tests/connection/test_readahead.py::test_bytes_are_there_whether_the_pump_has_had_its_turn_or_not",),
    ),
    Defect(
        "beside-a-watch-nobody-reads-while-a-handler-runs",
        "connection/readahead.py",
        "            self._transport.watch_unread(self._read_on)\n",
        "            pass\n",
        ("tests/server/test_tls.py::test_a_close_notify_behind_a_body_that_nobody_reads_is_noticed",),
    ),
    Defect(
        "who-was-interrupted-takes-the-bytes-from-the-next",
        "connection/readahead.py",
        "            self._waiting -= 1\n",
        "            self._waiting = 0\n",
        (
            "tests/connection/test_readahead.py::test_beside_a_watch_one_who_was_interrupted_leaves_the_bytes_to_the_next",
        ),
    ),
    Defect(
        "who-waits-is-not-woken-by-one-who-looks",
        "connection/readahead.py",
        "        if self._waiting:\n            self._transport.interrupt()\n",
        "        pass\n",
        ("tests/connection/test_readahead.py::test_beside_a_watch_who_waits_is_woken_by_a_look_and_a_sender_is_not",),
    ),
    # TLS
    Defect(
        "close-notify-is-no-end",
        "connection/tls.py",
        "                if not record:  # close_notify\n                    self._end = Cause.FIN\n                    break",
        "                if not record:  # close_notify\n                    break",
        ("tests/connection/test_tls.py::test_a_close_notify_is_the_clients_fin_behind_what_it_sent_before",),
    ),
    Defect(
        "broken-tls-is-a-reset",
        "connection/tls.py",
        "        self._end = Cause.TLS_ERROR\n",
        "        self._end = Cause.RESET\n",
        ("tests/connection/test_tls.py::test_a_broken_record_is_a_tls_error_behind_what_was_whole_before_it",),
    ),
    Defect(
        "a-farewell-to-one-who-hung-up",
        "connection/tls.py",
        "    def _hung_up(self, cause: Cause) -> None:\n        self._client_gone = True\n",
        "    def _hung_up(self, cause: Cause) -> None:\n",
        ("tests/connection/test_tls.py::test_nothing_is_written_to_a_client_that_has_hung_up",),
    ),
    Defect(
        "a-record-counts-before-it-is-out",
        "connection/tls.py",
        "        uncounted = max(left - 1, min(left, 1))\n",
        "        uncounted = 0\n",
        ("tests/connection/test_tls.py::test_a_record_without_room_counts_as_one_byte_until_all_of_it_is_out",),
    ),
    Defect(
        "no-farewell-before-the-fin",
        "connection/tls.py",
        "    def send_eof(self) -> None:\n        self._say_goodbye()\n",
        "    def send_eof(self) -> None:\n",
        ("tests/connection/test_tls.py::test_after_our_fin_receiving_goes_on",),
    ),
    # Turns, idle connections, timers, spools
    Defect(
        "a-turn-is-given-back-twice",
        "connection/turns.py",
        "            self._waiting.unpark()\n        else:\n            self._free += 1",
        "            self._waiting.unpark()\n        self._free += 1",
        ("tests/connection/test_turns.py::test_who_has_waited_longest_is_next_and_nobody_comes_in_between",),
    ),
    Defect(
        "one-too-many-in-the-queue",
        "connection/turns.py",
        "return len(self._waiting) >= self._queue",
        "return len(self._waiting) > self._queue",
        ("tests/connection/test_turns.py::test_the_queue_is_full_when_as_many_wait_as_there_are_places",),
    ),
    Defect(
        "idle-connections-stand-where-they-were-first",
        "connection/idle.py",
        "        self._waiting.move_to_end(connection)\n",
        "",
        ("tests/server/test_admission.py::test_the_connection_that_has_been_idle_for_longest_is_closed_for_who_comes",),
    ),
    Defect(
        "one-idle-for-a-moment-is-not-spared",
        "connection/idle.py",
        "            if since is not None and since > before:\n                return\n",
        "",
        ("tests/server/test_admission.py::test_one_that_has_been_idle_for_a_moment_only_is_spared",),
    ),
    Defect(
        "a-timer-that-was-put-off-is-forgotten",
        "connection/timers.py",
        "        elif self.when < math.inf:\n            self.set(self.when)\n",
        "",
        ("tests/connection/test_timers.py::test_a_timer_set_to_later_is_due_then_and_not_before",),
    ),
    Defect(
        "an-earlier-timer-wakes-nobody",
        "connection/timers.py",
        "            self._sleep.deadline = when\n",
        "            pass\n",
        ("tests/connection/test_timers.py::test_a_timer_set_while_the_task_sleeps_for_long_wakes_it_in_time",),
    ),
    Defect(
        "a-stopped-timer-is-cleaned-away",
        "connection/timers.py",
        "if not entry[2].is_discarded]",
        "if entry[2].is_set]",
        (
            "tests/connection/test_timers.py::test_a_stopped_timer_can_be_set_again_also_when_discarded_ones_were_cleaned_away",
        ),
    ),
    Defect(
        "what-a-spool-held-is-never-given-back",
        "connection/spool.py",
        "        self._chunks = None\n        self._budget.give_back(self._charge(self.size))\n",
        "        self._chunks = None\n",
        ("tests/connection/test_spool.py::test_what_is_cleared_makes_room_for_others_once",),
    ),
    Defect(
        "bytes-come-back-in-the-wrong-order",
        "connection/spool.py",
        "self._held().appendleft(data)",
        "self._held().append(data)",
        (
            "tests/connection/test_spool.py::test_what_is_put_back_is_the_oldest_again_and_counts_even_where_there_is_no_room",
        ),
    ),
    Defect(
        "a-spool-takes-more-than-there-is",
        "connection/spool.py",
        "return self._charge(size) - self._charge(self.size) <= max(self._budget.left, 0)",
        "return True",
        ("tests/connection/test_spool.py::test_a_spool_has_room_only_for_a_whole_receive_within_the_budget",),
    ),
    # What is told of the records
    Defect(
        "the-shield-of-the-hooks-is-forgotten",
        "observe/reporter.py",
        "            with trio.CancelScope(shield=True):\n",
        "            with trio.CancelScope():\n",
        ("tests/observe/test_reporter.py::test_hooks_run_to_their_end_although_the_caller_is_being_cancelled",),
    ),
    Defect(
        "a-hook-may-hang-for-ever",
        "observe/reporter.py",
        "patience = trio.move_on_after(self._hook_deadline)",
        "patience = trio.CancelScope()",
        ("tests/observe/test_reporter.py::test_a_hanging_hook_is_stopped_at_its_deadline_and_logged_once",),
    ),
)
