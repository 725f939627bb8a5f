"""Mutations of the program that each break a promise, and the tests that are expected to fail, the likeliest first."""

from __future__ import annotations

from typing import Final

from tests.faults.mutation import Edit, Mutation
from tests.faults.recovery_mutations import RECOVERY

REDEEM: Final = "issuer/contract/lua/redeem.lua"
WORKER: Final = "sync_worker/worker.py"
AUDIT: Final = "issuer/storage/migrations/audit_schema.py"
EXACT_TESTS: Final = "tests/integration/test_exact_recovery.py"
LINEAGE_TESTS: Final = "tests/integration/test_lineage.py"

MUTATIONS: Final = (
    Mutation(
        "worker acks before it inserts",
        (
            Edit(
                WORKER,
                "            token = await self._write(part)\n            if token is None:\n                break\n"
                "            removed = await self._reader.ack(part, token)\n",
                "            removed = await self._reader.ack(part, self._writer._lineage.last or UUID(int=0))\n"
                "            token = await self._write(part)\n            if token is None:\n                break\n",
            ),
        ),
        ("worker_killed_before_insert", "worker_killed"),
    ),
    Mutation(
        "no fence: every server is taken for the blessed one",
        (
            Edit(
                "issuer/storage/incarnation.py",
                "        if self.blessed is not None and self.blessed.run_id == run_id:\n",
                "        if self.blessed is not None:\n",
            ),
        ),
        (),
        ("tests/integration/test_redis_link.py",),
    ),
    Mutation(
        "fixed windows instead of sliding ones",
        (
            Edit(
                REDEEM,
                "local leaves_at_ms = tonumber(sub(log, from + 1, from + STAMP)) + window_ms",
                "local leaves_at_ms = (math.floor(tonumber(sub(log, from + 1, from + STAMP)) / window_ms) + 1)"
                " * window_ms",
            ),
        ),
        ("api_killed", "worker_killed", "backlog_lowered_under_load"),
    ),
    Mutation(
        "call ids are ignored: a repeated call is not recognised",
        (Edit(REDEEM, "if kept then\n", "if false then\n"),),
        (),
        ("tests/conformance/test_redeem_script.py",),
    ),
    Mutation(
        "calls of unknown outcome are repeated with a new call id",
        (
            Edit(
                "issuer/engine/sender.py",
                "            await asyncio.sleep(min(RECONNECT_EVERY_S, max(left_s, 0)))\n            return calls\n",
                "            await asyncio.sleep(min(RECONNECT_EVERY_S, max(left_s, 0)))\n"
                "            return [self.new_call(call.partition, call.waiting) for call in calls]\n",
            ),
        ),
        ("network_api_to_redis",),
    ),
    Mutation(
        "LPOP outside the script",
        (
            Edit(REDEEM, "call('LPOP', KEYS[list_base + p], pools[p].taken)", "call('LLEN', KEYS[list_base + p])"),
            Edit(
                "issuer/engine/sender.py",
                "            replies = await self._link.call(commands, timeout_s=left_s + self._wait_timeout_s)\n",
                "            replies = await self._link.call(commands, timeout_s=left_s + self._wait_timeout_s)\n"
                "            pops = [\n"
                '                ("LPOP", w.pool.codes_key)\n'
                "                for c, r in zip(calls, replies, strict=False)\n"
                '                if not isinstance(r, Exception) and r[0] == b"DONE"\n'
                '                for w, a in zip(c.waiting, r[1].split(b"\\x1e", 2)[2].split(b"\\x1f"), strict=True)\n'
                '                if a.startswith(b"GRANTED")\n'
                "            ]\n"
                "            if pops:\n"
                "                await self._link.call(pops, timeout_s=left_s)\n",
            ),
        ),
        ("redis_killed", "api_killed"),
    ),
    Mutation(
        "the consumer group starts at $",
        (Edit("issuer/contract/lua/bless_partition.lua", "ARGV[5], '0', 'MKSTREAM'", "ARGV[5], '$', 'MKSTREAM'"),),
        ("group_destroyed",),
    ),
    Mutation(
        "ON CONFLICT without a target",
        (
            Edit(
                "issuer/ledger/record.py",
                "  WHERE c.code = e.code\n  ORDER BY e.pool_id, e.seq, e.place\n"
                "  ON CONFLICT (pool_id, seq) DO NOTHING\n",
                "  WHERE c.code = e.code\n  ORDER BY e.pool_id, e.seq, e.place\n  ON CONFLICT DO NOTHING\n",
            ),
        ),
        (),
        ("tests/integration/test_ledger.py",),
    ),
    Mutation(
        "a batch is opened before the pools that an import has taken back",
        (Edit("issuer/batches/revisions.py", '        await reopen_pool(stores, row["id"])\n', "        pass\n"),),
        (),
        ("tests/integration/test_import_ango.py",),
    ),
    Mutation(
        "a recovery leaves the list of a pool that an import has taken back",
        (
            Edit(
                "issuer/recovery/rebuild.py",
                "            elif pool.issued_before is not None:\n",
                "            elif False:\n",
            ),
        ),
        (),
        ("tests/integration/test_import_ango.py",),
    ),
    Mutation(
        "acked entries are trimmed in two commands",
        (
            Edit(
                "issuer/contract/lua/ack_events.lua",
                "if redis.call('XDEL', KEYS[2], ARGV[i]) == 1 then",
                "if #redis.call('XRANGE', KEYS[2], ARGV[i], ARGV[i]) == 1 then",
            ),
            Edit(
                "sync_worker/reader.py",
                "            removed += int(reply[2])\n        return removed\n",
                "            removed += int(reply[2])\n"
                "        for partition in parts:\n"
                "            stream = partition_keys(partition).stream\n"
                '            (pending,) = await self._call([("XPENDING", stream, GROUP)])\n'
                '            (groups,) = await self._call([("XINFO", "GROUPS", stream)])\n'
                '            ms, _, number = groups[0][7].partition(b"-")\n'
                '            cut = pending[1] if pending[0] else ms + b"-%d" % (int(number) + 1)\n'
                '            await self._call([("XTRIM", stream, "MINID", "=", cut)])\n'
                "        return removed\n",
            ),
        ),
        ("two_workers_killed", "two_workers_one_frozen", "two_workers_killed", "two_workers_killed"),
        ("tests/integration/test_worker.py",),
    ),
    Mutation(
        "appendfsync everysec counts as durable",
        (Edit("issuer/recovery/inspection.py", "if not (now.durable and before.durable):", "if False:"),),
        ("everysec_power_cut", "everysec_tail_lost"),
    ),
    Mutation(
        "pending entries are read at start only",
        (
            Edit(
                WORKER,
                "            self._look_back_at = time.monotonic() + LOOK_BACK_EVERY_S\n",
                "            self._look_back_at = time.monotonic() + 1e9\n",
            ),
        ),
        ("worker_killed_before_insert", "two_workers_killed", "network_worker_to_redis"),
    ),
    Mutation(
        "the redeem script does not check the epoch",
        (Edit(REDEEM, "if state[1] ~= ARGV[1] then", "if false then"),),
        (),
        ("tests/conformance/test_redeem_script.py",),
    ),
    Mutation(
        "a second recovery ignores what the first one quarantined",
        (
            Edit(
                "issuer/recovery/quarantine.py",
                "    AND NOT EXISTS (SELECT FROM quarantined s WHERE s.pool_id = u.pool_id AND s.seq = issuable.seq)\n",
                "",
            ),
            Edit(
                "issuer/recovery/quarantine.py",
                "SELECT pool_id, seq, $3, $4, $5 FROM ({_UNACCOUNTED}) AS u\n",
                "SELECT pool_id, seq, $3, $4, $5 FROM ({_UNACCOUNTED}) AS u ON CONFLICT DO NOTHING\n",
            ),
        ),
        (),
        (f"{EXACT_TESTS}::test_a_loss_behind_a_failover_of_postgres_or_an_unreadable_event_is_never_exact",),
    ),
    Mutation(
        "the worker acks on an incarnation that is not blessed",
        (
            Edit("sync_worker/writer.py", "if row is None or (row[", "if False and (row["),
            Edit(
                "sync_worker/reader.py",
                " and self._link.blessed == self._incarnations.blessed",
                "",
            ),
        ),
        ("old_primary_reaches_its_bound", "old_primary_keeps_running"),
        ("tests/integration/test_worker.py",),
    ),
    Mutation(
        "LPOP last",
        (
            Edit(
                REDEEM,
                "  if pools[p].taken > 0 and not pools[p].coupon then call("
                "'LPOP', KEYS[list_base + p], pools[p].taken) end\nend\nanswers[1]",
                "end\nanswers[1]",
            ),
            Edit(
                REDEEM,
                "return {'DONE', result, data, host}",
                "for p = 1, pool_count do\n"
                "  if pools[p].taken > 0 and not pools[p].coupon then call("
                "'LPOP', KEYS[list_base + p], pools[p].taken) end\nend\nreturn {'DONE', result, data, host}",
            ),
        ),
        (),
        ("tests/conformance/test_redeem_script.py",),
    ),
    Mutation(
        "a pool that is empty in Redis is reported as sold out",
        (Edit(REDEEM, "    return 'REFILLING'\n", "    return 'SOLD_OUT'\n"),),
        (),
        ("tests/conformance/test_pool_scripts.py",),
    ),
    Mutation(
        "Idempotency-Keys are not looked up",
        (Edit(REDEEM, "if not answer then return nil end", "if true then return nil end"),),
        ("api_killed",),
    ),
    Mutation(
        "a process that leaves an epoch still gets replies",
        (
            Edit(
                "issuer/engine/engine.py",
                "        if (task := self._task) is not None:\n",
                "        if (task := None) is not None:\n",
            ),
        ),
        (),
        (f"{EXACT_TESTS}::test_close_answers_unavailable_to_everything_unanswered",),
    ),
    Mutation(
        "a registration whose journal is lost counts as settled",
        (
            Edit(
                "issuer/registration/registrations.py",
                "epoch <= $2 AND settled IS NULL ORDER BY",
                "epoch <= $2 AND settled IS NULL AND NOT has_journal ORDER BY",
            ),
        ),
        (),
        (f"{EXACT_TESTS}::test_disk_a_registration_is_settled_only_with_its_own_journal",),
    ),
    Mutation(
        "the journal of a living process is settled by others",
        (
            Edit(
                "issuer/journal/dead_journals.py",
                "        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)\n",
                "        os.fstat(lock)\n",
            ),
        ),
        (),
        (f"{EXACT_TESTS}::test_lock_the_journal_of_a_living_process_is_left_to_it",),
    ),
    Mutation(
        "a process that was frozen while it settled a journal continues behind the fence of the next recovery",
        (Edit("issuer/storage/lineage.py", "if current != epoch:", "if False:"),),
        (),
        (f"{EXACT_TESTS}::test_frozen_a_process_that_replays_a_journal_keeps_it_from_no_recovery",),
    ),
    Mutation(
        "the journal of an earlier boot settles its registrations",
        (
            Edit(
                "issuer/registration/replay.py",
                "    if journal.is_complete:\n",
                "    if True:\n",
            ),
        ),
        (),
        (f"{EXACT_TESTS}::test_boot_a_journal_of_an_earlier_boot_is_replayed_and_settles_nothing",),
    ),
    Mutation(
        "a process registers behind a fence",
        (
            Edit(
                "issuer/registration/registrations.py",
                "        if await connection.fetchval(_EPOCH) != epoch:\n",
                "        if False:\n",
            ),
        ),
        (),
        (f"{EXACT_TESTS}::test_regtx_no_process_registers_behind_a_fence",),
    ),
    Mutation(
        "a fence does not wait for a registration",
        (
            Edit(
                "issuer/registration/registrations.py",
                "        await refuse_incident(connection)\n        if await",
                "        if await",
            ),
        ),
        (),
        (f"{EXACT_TESTS}::test_regtx_no_process_registers_behind_a_fence",),
    ),
    Mutation(
        "a process that has waited for two heartbeats begins although another one objects",
        (
            Edit(
                "issuer/registration/registrar.py",
                "            if self._incarnations.incident:\n",
                "            if False:\n",
            ),
        ),
        (),
        (LINEAGE_TESTS,),
    ),
    Mutation(
        "a recovery does not look for the tokens of journals",
        (
            Edit(
                "issuer/recovery/hearing.py",
                "        await refuse_unknown(postgres, tokens,",
                "        await refuse_unknown(postgres, tokens[:0],",
            ),
            Edit(
                "issuer/registration/replay.py",
                "            await refuse_unknown(connection, tokens,",
                "            await refuse_unknown(connection, tokens[:0],",
            ),
        ),
        (),
        (LINEAGE_TESTS,),
    ),
    Mutation(
        "a decision stands although an operator says that it rests on lost commits",
        (Edit("issuer/recovery/recovery.py", " and not (self._options.forced and decision.bound == 0)", ""),),
        (),
        ("tests/integration/test_recovery_options.py::test_an_operator_may_distrust_an_exact_decision",),
    ),
    Mutation(
        "a restart stores no serials with which its epoch begins",
        (Edit("issuer/recovery/recovery.py", "            if not is_loss:\n", "            if False:\n"),),
        (),
        (f"{EXACT_TESTS}::test_carry_a_registration_is_settled_when_nothing_of_its_epoch_is_left",),
    ),
    Mutation(
        "events that a recovery has made void are recorded",
        (
            Edit(
                "issuer/ledger/record.py",
                'if oldest < unsettled["base_epoch"] else',
                "if False else",
            ),
        ),
        (),
        (f"{EXACT_TESTS}::test_void_what_no_caller_received_is_issued_again_and_never_recorded",),
    ),
    Mutation(
        "open registrations of epochs before a restart are forgotten",
        (
            Edit(
                "issuer/recovery/survey.py",
                "return self.installation.lost_epoch, self.last_epoch",
                "return self.last_epoch - 1, self.last_epoch",
            ),
        ),
        (),
        (f"{EXACT_TESTS}::test_carry_an_open_registration_of_an_epoch_before_a_restart_counts_in_a_loss",),
    ),
    Mutation(
        "registrations are carried although events of their epoch are left",
        (
            Edit(
                "issuer/recovery/aftermath.py",
                '        if entries and StreamEntry(partition, "", entries[0][1]).epoch < blessed.epoch:\n',
                "        if False:\n",
            ),
        ),
        (),
        (f"{EXACT_TESTS}::test_carry_a_registration_is_settled_when_nothing_of_its_epoch_is_left",),
    ),
    Mutation(
        "a recovery decides before a living process has settled",
        (
            Edit(
                "issuer/recovery/hearing.py",
                "any(found.is_alive for",
                "False and any(found.is_alive for",
            ),
        ),
        (),
        (f"{EXACT_TESTS}::test_hearall_a_recovery_decides_after_every_living_process_has_settled",),
    ),
    Mutation(
        "rows that are recorded late are not brought to Redis",
        (
            Edit(
                "issuer/ledger/record.py",
                '    if recorder.recorded.inserted and oldest <= unsettled["lost_epoch"]:\n',
                "    if False:\n",
            ),
        ),
        (),
        (f"{EXACT_TESTS}::test_keep_rows_that_are_recorded_late_come_to_redis",),
    ),
    Mutation(
        "a quarantine ends before all registrations are settled",
        (
            Edit(
                "issuer/recovery/aftermath.py",
                "            if not await find_open(connection, *lost) and not await count_unreadable(connection):\n",
                "            if True:\n",
            ),
        ),
        (),
        (f"{EXACT_TESTS}::test_all_a_quarantine_ends_when_all_registrations_are_settled",),
    ),
    Mutation(
        "a loss is exact although a registration is open",
        (
            Edit(
                "issuer/recovery/quarantine.py",
                "Verdict.BOUNDED if missing or unreadable or forced else Verdict.EXACT",
                "Verdict.EXACT",
            ),
        ),
        (),
        (f"{EXACT_TESTS}::test_disk_a_registration_is_settled_only_with_its_own_journal",),
    ),
    Mutation(
        "gaps of a loss are never issued again",
        (
            Edit(
                "issuer/recovery/aftermath.py",
                "        await reissue_void(stores)\n        await bring",
                "        await bring",
            ),
        ),
        (),
        (f"{EXACT_TESTS}::test_void_what_no_caller_received_is_issued_again_and_never_recorded",),
    ),
    Mutation(
        "the reports of the API processes are ignored",
        (
            Edit(
                "issuer/storage/floors.py",
                "    for row in await postgres.fetch(_REPORTS, epoch):\n",
                "    for row in ():\n",
            ),
            Edit("issuer/recovery/recovery.py", "        if self._floors.epoch == epoch:\n", "        if False:\n"),
        ),
        ("old_data_restored_processes_ahead",),
        ("tests/integration/test_data_gone_back.py",),
    ),
    Mutation(
        "data that went back in time below a floor are redeemed from",
        (
            Edit(
                REDEEM,
                "if serial < tonumber(ARGV[4]) or (state[6] ~= ARGV[5] and",
                "if false and (state[6] ~= ARGV[5] and",
            ),
        ),
        (),
        ("tests/conformance/test_redeem_script.py",),
    ),
    Mutation(
        "the beat of data that are behind is raised",
        (
            Edit(
                "issuer/contract/lua/beat_partition.lua",
                "if tonumber(state[2]) < tonumber(ARGV[2]) or tonumber(state[3]) < tonumber(ARGV[3]) then",
                "if false then",
            ),
        ),
        (),
        ("tests/conformance/test_partition_scripts.py", "tests/integration/test_data_gone_back.py"),
    ),
    Mutation(
        "beats are not compared: idle data may be old",
        (Edit("issuer/recovery/serials.py", '("beat", floors.beats)', '("beat", [0] * len(states))'),),
        (),
        ("tests/integration/test_data_gone_back.py",),
    ),
    Mutation(
        "serials are not compared",
        (Edit("issuer/recovery/serials.py", '("serial", floors.serials)', '("serial", [0] * len(states))'),),
        (),
        ("tests/integration/test_data_gone_back.py",),
    ),
    Mutation(
        "a recovery does not look at the journals of its host before it calls data a restart",
        (Edit("issuer/recovery/hearing.py", "settle_dead(settings, installation, epoch=epoch)", "asyncio.sleep(0)"),),
        (),
        ("tests/integration/test_data_gone_back.py",),
    ),
    Mutation(
        "a loss gives serials again that lost facts may have",
        (Edit("issuer/recovery/quarantine.py", "serial + bound for serial", "serial for serial"),),
        (),
        (f"{EXACT_TESTS}::test_disk_a_registration_is_settled_only_with_its_own_journal",),
    ),
    Mutation(
        "the event has another serial than the partition",
        (Edit(REDEEM, "'s', first_serial", "'s', '1'"),),
        (),
        (
            "tests/conformance/test_redeem_model.py",
            "tests/integration/test_reconcile.py",
        ),
    ),
    Mutation(
        "a replay has no receipt",
        (
            Edit(
                "issuer/engine/receipts.py",
                'if b"REPLAYED " in answers or b"USED_BEFORE " in answers:',
                "if False:",
            ),
        ),
        (),
        ("tests/integration/test_receipts.py",),
    ),
    Mutation(
        "what has no receipt is answered",
        (Edit("issuer/engine/sender.py", "            return False\n        return True\n", "        return True\n"),),
        (),
        ("tests/integration/test_receipts.py", "tests/integration/test_exact_recovery.py"),
    ),
    Mutation(
        "a frozen recovery is not interrupted",
        (Edit("issuer/recovery/lock.py", "SILENT_FOR: Final = 3\n", "SILENT_FOR: Final = 3_000\n"),),
        (),
        ("tests/integration/test_recovery_options.py::test_a_frozen_recovery_is_replaced_and_does_not_continue",),
    ),
    Mutation(
        "a recovery works batch by batch",
        (
            Edit("issuer/recovery/inspection.py", "BATCH_SIZE: Final = 500\n", "BATCH_SIZE: Final = 1\n"),
            Edit("issuer/pools/group_loader.py", "GROUP_SIZE: Final = 100\n", "GROUP_SIZE: Final = 1\n"),
        ),
        (),
        ("tests/integration/test_recovery_of_many.py",),
    ),
    Mutation(
        "a row that has failed is worked on with others",
        (
            Edit(
                "issuer/storage/task_rows.py",
                "ON CONFLICT DO NOTHING RETURNING row_id",
                "ON CONFLICT (task, row_id) DO UPDATE SET session = excluded.session RETURNING row_id",
            ),
        ),
        (),
        ("tests/integration/test_task_rows.py",),
    ),
    Mutation(
        "limits are not restored after a loss",
        (
            Edit(
                "issuer/batches/window_rebuild.py",
                "        if not pools:\n            return 0\n",
                "        return 0\n",
            ),
        ),
        ("redis_wiped", "two_losses_in_a_row", "redis_wiped_with_journal"),
    ),
    Mutation(
        "a coupon is never used up",
        (Edit(REDEEM, "if pool.issued + pool.taken >= coupon.total then return 'SOLD_OUT' end", ""),),
        (),
        ("tests/conformance/test_coupon_uses.py",),
    ),
    Mutation(
        "no use of a coupon is quarantined after a loss",
        (Edit("issuer/recovery/quarantine.py", "AND b.kind = 'coupon') AS", "AND false) AS"),),
        (),
        ("tests/integration/test_coupon_recovery.py::test_seqs_that_a_lost_redis_may_have_granted_are_quarantined",),
    ),
    Mutation(
        "a use can be reversed repeatedly",
        (Edit("issuer/coupons/reversal.py", "        if reversed_at is None:\n", "        if False:\n"),),
        (),
        ("tests/integration/test_coupon_recovery.py::test_seqs_that_a_lost_redis_may_have_granted_are_quarantined",),
    ),
    Mutation(
        "a reversed use still counts against the customer's limit",
        (
            Edit(
                "issuer/batches/revisions.py",
                "        await return_uses(stores.redis, reversals)\n",
                "        pass\n",
            ),
        ),
        (),
        ("tests/integration/test_routes_coupons.py",),
    ),
    Mutation(
        "a time may be the last of Python's calendar, which Postgres stores as infinity",
        (
            Edit("issuer/instants.py", "    if not FIRST <= instant <= LAST:\n", "    if instant < FIRST:\n"),
            Edit(
                "issuer/storage/migrations/versions/v0001_initial.py",
                "'1970-01-01T00:00:00Z' AND '9999-12-30T00:00:00Z'",
                "'1970-01-01T00:00:00Z' AND 'infinity'",
            ),
        ),
        (),
        ("tests/unit/test_instants.py", "tests/integration/test_instants.py"),
    ),
    Mutation(
        "a row that cannot be processed stops its task",
        (
            Edit(
                "issuer/storage/task_rows.py",
                "            await self.fail(task, row, error, version=version)\n            return None\n",
                "            await self._unmark(task, row)\n            raise\n",
            ),
        ),
        (),
        ("tests/integration/test_task_rows.py",),
    ),
    Mutation(
        "a row that kills the worker is tried by the next one at once",
        (
            Edit(
                "issuer/storage/task_rows.py",
                'f"{_process_name(os.getpid())}{secrets.token_hex(4)}"',
                '"the worker"',
            ),
        ),
        (),
        ("tests/integration/test_task_rows.py",),
    ),
    Mutation(
        "a crash at a row counts towards the limit of restarts",
        (Edit("issuer/processes/children.py", "FIRST_DELAY_S if await self._is_excused() else ", ""),),
        (),
        ("tests/acceptance/test_deadly_rows.py",),
    ),
    Mutation(
        "codes from a file do not count against the space of generated ones",
        (Edit("issuer/generating/request.py", '    return int(found + row["promised"])\n', "    return 0\n"),),
        (),
        ("tests/integration/test_generating.py",),
    ),
    Mutation(
        "an offer to upgrade loses the body of its request",
        (
            Edit(
                "issuer/http/edge/protocol.py",
                "            self._has_offer = self.parser.should_upgrade()\n",
                "            self._has_offer = False\n",
            ),
        ),
        (),
        ("tests/integration/test_framing.py",),
    ),
    Mutation(
        "an encoded slash separates segments",
        (Edit("issuer/http/request_path.py", "    return path\n", '    return unquote(path, "latin-1")\n'),),
        (),
        ("tests/integration/test_request_paths.py",),
    ),
    Mutation(
        "a form that is cut off is taken",
        (Edit("issuer/http/multipart_form.py", "            if not parser.is_complete:\n", "            if False:\n"),),
        (),
        ("tests/integration/test_multipart_forms.py",),
    ),
    Mutation(
        "audit entries are chained without a lock on the newest end",
        (Edit(AUDIT, "WHERE which = 'newest' FOR UPDATE;", "WHERE which = 'newest';"),),
        (),
        ("tests/integration/test_audit_chain.py::test_four_writers_at_the_same_time_write_one_chain",),
    ),
    Mutation(
        "retention does not keep the last removed hash",
        (
            Edit(
                AUDIT,
                "SET id = cut.id, hash = cut.hash WHERE which = 'removed'",
                "SET id = cut.id WHERE which = 'removed'",
            ),
        ),
        (),
        ("tests/integration/test_audit_chain.py::test_retention_cuts_the_oldest_entries_and_the_chain_stays_whole",),
    ),
    Mutation(
        "verify does not compare the content of an audit entry",
        (
            Edit(
                "issuer/access/audit_chain.py",
                'if entry_hash(last.hash, *tuple(row)[:-1]) != row["hash"]:',
                "if False:",
            ),
        ),
        (),
        ("tests/integration/test_audit_chain.py::test_a_changed_removed_reordered_or_inserted_entry_is_found",),
    ),
    Mutation(
        "a refusal on the fast path is not in the security log",
        (Edit("issuer/http/hot_exchange.py", "if problem.status in LOGGED:", "if False:"),),
        (),
        ("tests/integration/test_security_log.py::test_refusals_on_the_fast_path_and_on_the_asgi_path_are_logged",),
    ),
    Mutation(
        "an anonymous Idempotency-Key is shared by all API keys",
        (Edit("issuer/contract/keys.py", "(customer_id or _ANONYMOUS + scope)", "(customer_id or _ANONYMOUS)"),),
        (),
        ("tests/integration/test_anonymous.py",),
    ),
    Mutation(
        "a code that the client has in another batch is loaded again",
        (
            Edit(
                "issuer/loading/duplicates.py",
                "    if await connection.fetchval(_HAVE_CODES, clients):\n",
                "    if False:\n",
            ),
            Edit(
                "issuer/storage/migrations/versions/v0001_initial.py",
                "    UNIQUE (code, client_id)\n",
                "    UNIQUE (code, client_id, batch_id)\n",
            ),
        ),
        (),
        ("tests/integration/test_unique_codes.py",),
    ),
    Mutation(
        "loads of one client do not wait for each other",
        (
            Edit(
                "issuer/pools/pool.py",
                "    await connection.execute(_LOCK_CLIENTS, clients, timeout=FILE_TIMEOUT_S)\n",
                "",
            ),
        ),
        (),
        ("tests/integration/test_unique_codes.py",),
    ),
    Mutation(
        "a move takes codes that were issued",
        (Edit("issuer/loading/moves.py", " AND c.seq > p.final_issued\n", "\n"),),
        (),
        ("tests/integration/test_unique_codes.py",),
    ),
    Mutation(
        "a move does not wait until the batch is drained",
        (Edit("issuer/loading/moves.py", "    if undrained is not None:\n", "    if False:\n"),),
        (),
        ("tests/integration/test_unique_codes.py",),
    ),
    Mutation(
        "the answer of an act is kept after its transaction",
        (
            Edit(
                "issuer/loading/preload.py",
                "                await self._act.keep(connection, self.report(dry_run=False))\n",
                "                pass\n",
            ),
            Edit(
                "issuer/loading/preload.py",
                "    if not dry_run:\n        await load.load_pools()\n    return load.report(dry_run=dry_run)\n",
                "    if not dry_run:\n        await load.load_pools()\n"
                "        async with stores.postgres.acquire() as connection:\n"
                "            await act.keep(connection, load.report(dry_run=False))\n"
                "    return load.report(dry_run=dry_run)\n",
            ),
        ),
        (),
        ("tests/acceptance/test_kept_uploads.py",),
    ),
    Mutation(
        "requests with one Idempotency-Key are carried out at the same time",
        (
            Edit(
                "issuer/http/idempotency.py",
                "        if not await try_lock(connection, self.answer_key):\n",
                "        if False:\n",
            ),
        ),
        (),
        ("tests/integration/test_kept_answers.py",),
    ),
    Mutation(
        "a kept answer is returned to another request",
        (
            Edit(
                "issuer/http/idempotency.py",
                "        if answer.request_sha256 != self.digest:\n",
                "        if False:\n",
            ),
        ),
        (),
        ("tests/integration/test_kept_answers.py",),
    ),
    Mutation(
        "a tenant takes all slots",
        (Edit("issuer/http/limiting/fair_slots.py", "            if held >= free:\n", "            if False:\n"),),
        (),
        ("tests/unit/test_fair_slots.py", "tests/integration/test_fair_shares.py"),
    ),
    Mutation(
        "a slow upload holds the slot of a load",
        (
            Edit(
                "issuer/http/admin/uploads.py",
                "        slots.uploads.hold(caller.tenant),\n",
                "        slots.uploads.hold(caller.tenant),\n        slots.loads.hold((id(context),)),\n",
            ),
        ),
        (),
        ("tests/integration/test_fair_shares.py",),
    ),
    Mutation(
        "an upload may be as slow as any body",
        (
            Edit(
                "issuer/http/edge/limits.py",
                "max(MIN_BODY_RATE, announced_bytes / self.body_timeout_s)",
                "MIN_BODY_RATE",
            ),
        ),
        (),
        ("tests/integration/test_fair_shares.py",),
    ),
    Mutation(
        "statements of one tenant take all connections of the pool",
        (Edit("issuer/http/operations.py", "    if not operation.takes_slot:\n", "    if True:\n"),),
        (),
        ("tests/integration/test_fair_shares.py",),
    ),
    Mutation(
        "the client with the most jobs gets the most chunks",
        (Edit("issuer/generating/jobs.py", "ORDER BY served_at NULLS FIRST, touched_at", "ORDER BY touched_at"),),
        (),
        ("tests/integration/test_fair_shares.py",),
    ),
    Mutation(
        "callers of a public key above its limit are refused before the lookup",
        (
            Edit(
                "issuer/http/limiting/failed_lookups.py",
                "            found = [self._callers.find(caller.address)]\n",
                "            found = [self._callers.find(caller.address)]\n"
                "            found.append(None if key is None else self._public_keys.find(key.id))\n",
            ),
        ),
        (),
        ("tests/integration/test_failed_lookups.py",),
    ),
    Mutation(
        "many addresses have as many attempts with a public key above its limit as below it",
        (
            Edit(
                "issuer/http/limiting/failed_lookups.py",
                "subject.limit.burst if known is not None and known.is_over(now) else 1",
                "1",
            ),
        ),
        (),
        ("tests/integration/test_failed_lookups.py",),
    ),
    Mutation(
        "a campaign of another client is answered differently from one that does not exist",
        (
            Edit(
                "issuer/http/campaigns/events.py",
                "        if caller.client_id not in (None, campaign.client_id):\n"
                '            raise CampaignNotFoundError("no campaign found")\n',
                "        if caller.client_id not in (None, campaign.client_id):\n"
                '            raise CampaignNotFoundError("not your campaign")\n',
            ),
        ),
        (),
        ("tests/integration/test_tenants.py",),
    ),
    Mutation(
        "a purchase that is continued does not look whether its code was issued",
        (Edit("issuer/loyalty/purchases.py", "issued.get(attempt.key_hash)", "None"),),
        (),
        ("tests/integration/test_purchases.py",),
    ),
    Mutation(
        "an attempt whose lease has ended undoes a purchase",
        (
            Edit(
                "issuer/loyalty/purchase_store.py",
                "if await connection.fetchval(_LOCK_ATTEMPT, self._move_id) != self._attempt:",
                "if await connection.fetchval(_LOCK_ATTEMPT, self._move_id) is None:",
            ),
        ),
        (),
        ("tests/integration/test_purchases.py",),
    ),
    Mutation(
        "points: a credit is available although there is a debt",
        (Edit("issuer/loyalty/book.py", "        paid = min(self.debt, total(buckets))\n", "        paid = 0\n"),),
        tests=("tests/unit/test_points_rules.py",),
    ),
    Mutation(
        "points: a refund takes what is there and forgets the rest",
        (
            Edit(
                "issuer/loyalty/reversing.py",
                "if on_refund is OnRefund.CLAMP and book.debt > owed:",
                "if book.debt > owed:",
            ),
        ),
        tests=("tests/unit/test_points_rules.py",),
    ),
    Mutation(
        "points: a hold can be settled twice",
        (
            Edit(
                "issuer/loyalty/spending.py",
                "    if hold.state is not HoldState.OPEN:\n        raise book.refuse(RefusalCode.HOLD_SETTLED)\n",
                "",
            ),
        ),
        tests=("tests/unit/test_points_rules.py",),
    ),
    Mutation(
        "points: no answer is looked for, so a repeat is carried out again",
        (
            Edit(
                "issuer/loyalty/transaction.py",
                "return await find_answers(self.connection, keys) if keys else {}",
                "return {}",
            ),
        ),
        tests=("tests/integration/test_points_keys.py",),
    ),
    Mutation(
        "points: they can be spent at the instant of their expiry",
        (
            Edit(
                "issuer/loyalty/due.py",
                "for bucket in book.buckets if bucket.expires_at <= now]",
                "for bucket in book.buckets if bucket.expires_at < now]",
            ),
        ),
        tests=("tests/unit/test_points_rules.py",),
    ),
    Mutation(
        "points: each partial refund is rounded by itself",
        (
            Edit(
                "issuer/loyalty/reversing.py",
                "    points = max(0, order.points - kept - order.reversed)\n",
                "    points = order.points * (refunded - order.refunded_minor) // order.amount_minor\n",
            ),
        ),
        tests=("tests/unit/test_points_rules.py",),
    ),
    Mutation(
        "points: two orders that are recorded at once are not compared",
        (
            Edit(
                "issuer/loyalty/writing.py",
                "            if count != len(self.rows[name]):\n",
                "            if count > len(self.rows[name]):\n",
            ),
        ),
        tests=("tests/integration/test_points_executor.py",),
    ),
    Mutation(
        "points: accounts are read without a lock",
        (
            Edit(
                "issuer/loyalty/reading.py",
                "ORDER BY a.id FOR NO KEY UPDATE OF a",
                "ORDER BY a.id",
            ),
        ),
        tests=("tests/integration/test_points_executor.py",),
    ),
    Mutation(
        "a delivery of a shop counts whatever its signature is",
        (Edit("issuer/loyalty/hooks/signatures.py", "    if not any(matches):\n", "    if not matches:\n"),),
        (),
        ("tests/unit/test_shop_deliveries.py",),
    ),
    Mutation(
        "the topic alone, which is not signed, says that an order was cancelled",
        (Edit("issuer/loyalty/hooks/shopify.py", 'if order.get("cancelled_at") is None:', "if not order:"),),
        (),
        ("tests/unit/test_shop_deliveries.py",),
    ),
    Mutation(
        "a refund takes points back at each of its deliveries",
        (
            Edit(
                "issuer/loyalty/hooks/processing.py",
                "if await has_counted(self.postgres, self.program.id, order, event.refund_id):",
                "if not event.refund_id:",
            ),
            Edit("issuer/loyalty/hooks/order_notes.py", "*self._values) is None:", "*self._values) is self:"),
        ),
        (),
        ("tests/integration/test_shop_hooks.py",),
    ),
    Mutation(
        "a refund that is faster than its order is dropped",
        (
            Edit(
                "issuer/loyalty/hooks/processing.py",
                "_NO_ORDER: Final = DeliveryResult(InboxState.WAITS_FOR_ORDER,",
                "_NO_ORDER: Final = DeliveryResult(InboxState.DONE,",
            ),
        ),
        (),
        ("tests/integration/test_shop_hooks.py",),
    ),
    Mutation(
        "a key finds the programs of another client by their ids",
        (
            Edit(
                "issuer/loyalty/named_programs.py",
                "p.id = named.id AND (named.client_id IS NULL OR p.client_id = named.client_id)",
                "p.id = named.id",
            ),
        ),
        (),
        ("tests/integration/test_loyalty_members.py",),
    ),
    Mutation(
        "points: an amount counts in whatever currency the terms have by then",
        (
            Edit(
                "issuer/loyalty/earning.py",
                "if operation.order.currency not in (None, rate.currency):",
                "if False:",
            ),
        ),
        (),
        ("tests/integration/test_points_executor.py",),
    ),
    Mutation(
        "an erasure leaves what other tables have about a member",
        (
            Edit(
                "issuer/loyalty/member_erasure.py",
                "    await erase_traces(connection, await Person.of(connection, member))\n",
                "    await Person.of(connection, member)\n",
            ),
        ),
        (),
        ("tests/integration/test_loyalty_members.py",),
    ),
    Mutation(
        "a request holds its slot during its points operation",
        (Edit("issuer/http/loyalty/requests.py", "    await context.end_slot()\n", ""),),
        (),
        ("tests/integration/test_loyalty_points.py",),
    ),
    Mutation(
        "a pause and an end are refused at the memory limit",
        (Edit("issuer/contract/lua/put_batch.lua", "redis.call('PERSIST', KEYS[1])\n", ""),),
        (),
        ("tests/conformance/test_short_memory.py",),
    ),
    Mutation(
        "a recovery is refused at the memory limit",
        (Edit("issuer/contract/lua/bless_partition.lua", "redis.call('PERSIST', KEYS[1])\n", ""),),
        (),
        ("tests/conformance/test_short_memory.py",),
    ),
    Mutation(
        "a recovery at the memory limit restores no kept answers",
        (Edit("issuer/contract/lua/put_answers.lua", "redis.call('PERSIST', KEYS[1])\n", ""),),
        (),
        ("tests/conformance/test_short_memory.py",),
    ),
    Mutation(
        "a clock that jumped is followed within a call",
        (
            Edit(
                "issuer/engine/clocks.py",
                "        if abs(offset_ms - known_ms) > MAX_APART_MS:\n",
                "        if False:\n",
            ),
        ),
        (),
        (
            "tests/unit/test_server_watch.py",
            "tests/integration/test_clocks.py",
        ),
    ),
    Mutation(
        "a deadline may be met by a clock that is too far ahead",
        (Edit("issuer/engine/clocks.py", "MAX_DEADLINE_MS: Final = 4_000\n", "MAX_DEADLINE_MS: Final = 10_000\n"),),
        (),
        ("tests/unit/test_server_watch.py",),
    ),
    Mutation(
        "redeem.lua accepts a deadline that only a clock too far behind has",
        (Edit(REDEEM, "FARTHEST_DEADLINE_MS = 30000, 5000\n", "FARTHEST_DEADLINE_MS = 30000, 20000\n"),),
        (),
        (
            "tests/integration/test_clocks.py",
            "tests/conformance/test_redeem_model.py",
        ),
    ),
    Mutation(
        "Redis' clock is not compared with Postgres'",
        (
            Edit(
                "issuer/storage/server_watch.py",
                "        if self._postgres is not None and time.monotonic() - self._postgres_read_at < FRESH_S:\n",
                "        if False:\n",
            ),
        ),
        (),
        ("tests/unit/test_server_watch.py",),
    ),
    Mutation(
        "a connection opens while issuing is stopped",
        (
            Edit(
                "issuer/engine/sender.py",
                "        if stopped := self._incarnations.watch.stopped:\n",
                '        if stopped := "":\n',
            ),
        ),
        (),
        (
            "tests/integration/test_clocks.py",
            "tests/integration/test_eviction.py",
        ),
    ),
    Mutation(
        "windows are rebuilt by a clock that cannot be right",
        (
            Edit(
                "issuer/storage/redis_link.py",
                "        if not watch.judge_clock(ClockReading.of(now_ms, began_s, time.monotonic())):\n",
                "        if False:\n",
            ),
        ),
        (),
        ("tests/integration/test_clocks.py",),
    ),
    Mutation(
        "windows that expired on a wrong clock are not rebuilt",
        (
            Edit(
                "issuer/storage/server_watch.py",
                '                self._note_lost_keys("keys may have expired early, since Redis\' clock was ahead")\n',
                "                pass\n",
            ),
        ),
        (),
        (
            "tests/unit/test_server_watch.py",
            "tests/integration/test_clocks.py",
        ),
    ),
    Mutation(
        "a partition's clock stays ahead",
        (
            Edit(
                "issuer/contract/lua/set_clock.lua", "if tonumber(clock) > tonumber(ARGV[2]) then\n", "if false then\n"
            ),
        ),
        (),
        (
            "tests/conformance/test_partition_scripts.py",
            "tests/integration/test_clocks.py",
        ),
    ),
    Mutation(
        "a recovery rebuilds windows of the future",
        (
            Edit(
                "issuer/batches/window_rebuild.py",
                "max_digits, latest_ms, customers,",
                "max_digits, [None] * len(latest_ms), customers,",
            ),
        ),
        (),
        ("tests/integration/test_clocks.py",),
    ),
    Mutation(
        "an evicting policy is accepted",
        (Edit("issuer/storage/server_watch.py", '        safe = policy == "noeviction"\n', "        safe = True\n"),),
        (),
        (
            "tests/unit/test_server_watch.py",
            "tests/integration/test_eviction.py",
        ),
    ),
    Mutation(
        "evicted keys are not rebuilt",
        (Edit("issuer/storage/server_watch.py", "        if evicted > 0:\n", "        if False:\n"),),
        (),
        (
            "tests/unit/test_server_watch.py",
            "tests/integration/test_eviction.py",
        ),
    ),
    Mutation(
        "a consumer group that was destroyed is created at the end of the stream",
        (Edit("issuer/contract/lua/create_group.lua", "ARGV[2], '0', 'MKSTREAM'", "ARGV[2], '$', 'MKSTREAM'"),),
        (),
        (
            "tests/conformance/test_partition_scripts.py",
            "tests/integration/test_streams.py",
        ),
    ),
    Mutation(
        "events of a later version become dead letters",
        (
            Edit(
                "sync_worker/reader.py",
                "(self.newer if entry.is_newer else self.entries).append(entry)",
                "self.entries.append(entry)",
            ),
        ),
        (),
        ("tests/integration/test_streams.py",),
    ),
    Mutation(
        "a recovery takes events of a later version for lost",
        (
            Edit(
                "issuer/recovery/rebuild.py",
                "            if any(entry.is_newer for entry in entries):\n",
                "            if False:\n",
            ),
        ),
        (),
        ("tests/integration/test_streams.py",),
    ),
    Mutation(
        "dead letters of whole entries are outside the bound",
        (
            Edit(
                "issuer/ledger/dead_letters.py",
                'FROM dead_letters WHERE seq IS NULL AND resolved_at IS NULL"\n',
                'FROM dead_letters WHERE false"\n',
            ),
        ),
        (),
        ("tests/integration/test_streams.py",),
    ),
    Mutation(
        "a fence counts the backlog of a stream that was cut",
        (
            Edit(
                "issuer/contract/lua/bless_partition.lua",
                "epoch < 0 and math.max(tonumber(state[3] or 0), tonumber(ARGV[4])) or tonumber(ARGV[4])",
                "tonumber(ARGV[4])",
            ),
        ),
        (),
        (
            "tests/conformance/test_partition_scripts.py",
            "tests/integration/test_streams.py",
        ),
    ),
    Mutation(
        "a stream that was cut is taken for a whole one",
        (Edit("issuer/recovery/rebuild.py", 'if counted[p] < int(state["backlog"])]', "if counted[p] < 0]"),),
        (),
        ("tests/integration/test_streams.py",),
    ),
    Mutation(
        "events that were deleted are not noticed",
        (Edit("sync_worker/maintenance/tasks.py", " if count and not first]", " if False]"),),
        (),
        ("tests/integration/test_streams.py",),
    ),
    Mutation(
        "the bound is lowered in Postgres whatever Redis enforces",
        (
            Edit(
                "issuer/recovery/backlog.py",
                "WHERE $2::bigint IS NULL OR epoch = $2 RETURNING true",
                "WHERE $2::bigint IS NULL OR true RETURNING true",
            ),
        ),
        (),
        ("tests/integration/test_backlog_bound.py",),
    ),
    Mutation(
        "a recovery quarantines by the bound before its fence",
        (
            Edit(
                "issuer/recovery/recovery.py",
                '                return row["epoch"], row["max_backlog"], token\n',
                '                return row["epoch"], survey.installation.max_backlog, token\n',
            ),
        ),
        (),
        ("tests/integration/test_backlog_bound.py",),
    ),
    Mutation(
        "data of an earlier incarnation are a restart",
        (Edit("issuer/recovery/inspection.py", "    if stale:\n", "    if False:\n"),),
        (),
        (
            "tests/unit/test_judge.py",
            "tests/integration/test_old_data.py",
        ),
    ),
    Mutation(
        "data behind the ledger are a restart",
        (
            Edit(
                "issuer/recovery/inspection.py",
                "        elif pool.issued_before < pool.accounted:\n",
                "        elif False:\n",
            ),
        ),
        (),
        ("tests/unit/test_judge.py",),
    ),
    Mutation(
        "a promoted replica is a restart",
        (Edit("issuer/recovery/inspection.py", "if now.promoted and not all_settled:", "if False:"),),
        (),
        ("tests/unit/test_judge.py",),
    ),
    Mutation(
        "another server is a restart",
        (
            Edit(
                "issuer/recovery/inspection.py",
                "        if (now.address, now.directory) != (before.address, before.directory):\n",
                "        if False:\n",
            ),
        ),
        (),
        ("tests/unit/test_judge.py",),
    ),
    Mutation(
        "a restart counts entries, not redemptions",
        (
            Edit(
                "issuer/recovery/rebuild.py",
                "            count += sum(entry.announced for entry in entries)\n",
                "            count += len(entries)\n",
            ),
        ),
        (),
        ("tests/integration/test_old_data.py",),
    ),
    Mutation(
        "two recoveries at once",
        (
            Edit(
                "issuer/recovery/lock.py",
                '        while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", RECOVERY_LOCK):\n',
                "        while False:\n",
            ),
        ),
        (),
        ("tests/integration/test_old_data.py",),
    ),
    Mutation(
        "worker records on a Postgres that lacks its commits",
        (Edit("sync_worker/writer.py", 'if row is not None and row["unknown"]:', "if False:"),),
        tests=(f"{LINEAGE_TESTS}::test_a_worker_looks_for_its_tokens_itself",),
    ),
    Mutation(
        "no process looks for its token",
        (Edit("issuer/storage/incarnation.py", 'if row is not None and row["unknown"]:', "if False:"),),
        tests=(LINEAGE_TESTS,),
    ),
    Mutation(
        "recovery ignores a token of Redis that Postgres does not know",
        (Edit("issuer/recovery/recovery.py", "if unknown and not incident:", "if False:"),),
        tests=(LINEAGE_TESTS,),
    ),
    Mutation(
        "recovery fences during an incident",
        (Edit("issuer/recovery/recovery.py", "WHERE $3 OR incident IS NULL", "WHERE $3 IS NOT NULL"),),
        tests=(LINEAGE_TESTS,),
    ),
    Mutation(
        "recovery decides during an incident",
        (
            Edit(
                "issuer/recovery/quarantine.py",
                "if incident := await postgres.fetchval(_LOCK_INSTALLATION):",
                "if await postgres.fetchval(_LOCK_INSTALLATION) == 0:",
            ),
        ),
        tests=(LINEAGE_TESTS,),
    ),
    Mutation(
        "recovery blesses during an incident",
        (Edit("issuer/recovery/recovery.py", "recovering = NULL WHERE incident IS NULL", "recovering = NULL"),),
        tests=(LINEAGE_TESTS,),
    ),
    Mutation(
        "rules are changed and pools topped up during an incident",
        (Edit("issuer/storage/redis_link.py", "if self._incarnations.incident:", "if False:"),),
        tests=(LINEAGE_TESTS,),
    ),
    Mutation(
        "acknowledgement leaves no token",
        (Edit("issuer/contract/lua/ack_events.lua", ", 'lineage', ARGV[3])", ")"),),
        tests=(LINEAGE_TESTS,),
    ),
    Mutation(
        "a copied database is accepted",
        (
            Edit(
                "issuer/storage/database_identity.py",
                "(stored == _BEING_RESTORED or not is_same(stored, found))",
                "stored == _BEING_RESTORED",
            ),
        ),
        tests=(LINEAGE_TESTS,),
    ),
    Mutation(
        "a revision is recognised by its number alone",
        (Edit("issuer/contract/lua/put_batch.lua", "there[3] == ARGV[10]", "there[1] == ARGV[2]"),),
        tests=("tests/integration/test_batch_tokens.py",),
    ),
    Mutation(
        "a batch in Redis may be older than Postgres knows it to be",
        (Edit("issuer/recovery/inspection.py", "if behind else []", "if False else []"),),
        tests=("tests/integration/test_batch_tokens.py",),
    ),
    Mutation(
        "recovery keeps a later revision that Redis has",
        (Edit("issuer/contract/lua/put_batch.lua", "if tonumber(ARGV[1]) > 0 then", "if true then"),),
        tests=("tests/integration/test_batch_tokens.py",),
    ),
    *RECOVERY,
)
