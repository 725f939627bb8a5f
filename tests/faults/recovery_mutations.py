"""Mutations of recovery: each branch of the verdict, registrations, journals, tokens and serials."""

from __future__ import annotations

from typing import Final

from tests.faults.mutation import Edit, Mutation

INSPECTION: Final = "issuer/recovery/inspection.py"
RECOVER: Final = "issuer/recovery/recovery.py"
REGISTRAR: Final = "issuer/registration/registrar.py"
JOURNAL: Final = "issuer/journal/journal.py"
JUDGE_TESTS: Final = ("tests/unit/test_judge.py",)
DECISION_TESTS: Final = ("tests/unit/test_recovery_decision.py",)
JOURNAL_TESTS: Final = ("tests/integration/test_journal.py",)
EXACT: Final = "tests/integration/test_exact_recovery.py"
OPTIONS: Final = "tests/integration/test_recovery_options.py"
LINEAGE: Final = "tests/integration/test_lineage.py"
NEVER_EXACT_TESTS: Final = (
    f"{EXACT}::test_a_loss_behind_a_failover_of_postgres_or_an_unreadable_event_is_never_exact",
)
OLD_EPOCH_TESTS: Final = (f"{LINEAGE}::test_an_epoch_before_the_last_one_is_never_used_again",)
GONE_BACK_TESTS: Final = (
    "tests/integration/test_data_gone_back.py::test_a_server_whose_data_went_back_under_its_run_id_is_recovered[False]",
)
REPLACED_TESTS: Final = ("tests/integration/test_recovery.py::test_a_replaced_server_is_never_blessed_again",)


def _mutation(name: str, file: str, old: str, new: str, *, tests: tuple[str, ...]) -> Mutation:
    """Return a mutation of one edit."""
    return Mutation(name, (Edit(file, old, new),), tests=tests)


VERDICT: Final = (
    _mutation(
        "a server of which nothing is on record is a restart",
        INSPECTION,
        '        reasons.append("codes were issued, but no server is on record")\n',
        "        pass\n",
        tests=JUDGE_TESTS,
    ),
    _mutation(
        "data without a pool are a restart",
        INSPECTION,
        '            missing.append(f"{name} is missing")\n',
        "            continue\n",
        tests=JUDGE_TESTS,
    ),
    _mutation(
        "a pool whose list contradicts its counters is a restart",
        INSPECTION,
        "        elif pool.in_list != pool.loaded_before - pool.issued_before:\n",
        "        elif False:\n",
        tests=JUDGE_TESTS,
    ),
    _mutation(
        "data that are behind what is known are a restart",
        INSPECTION,
        "    reasons += [*lower, *contradictions_within",
        "    reasons += [*contradictions_within",
        tests=JUDGE_TESTS,
    ),
    _mutation(
        "a loss that a stopped recovery has found is forgotten",
        "issuer/recovery/decision.py",
        "        if self.verdict is Verdict.LOSS and finding.verdict is not Verdict.LOSS:\n",
        "        if False:\n",
        tests=DECISION_TESTS,
    ),
    _mutation(
        "a recovery that is continued decides again",
        "issuer/recovery/decision.py",
        "        if self.phase is RecoveryPhase.DECIDED:\n",
        "        if False:\n",
        tests=DECISION_TESTS,
    ),
    _mutation(
        "a loss is exact although no version can read a dead letter",
        "issuer/recovery/quarantine.py",
        "if missing or unreadable or forced",
        "if missing or forced",
        tests=NEVER_EXACT_TESTS,
    ),
    _mutation(
        "an announced restore is exact",
        "issuer/recovery/quarantine.py",
        "if missing or unreadable or forced",
        "if missing or unreadable",
        tests=(
            "tests/integration/test_recovery.py::test_an_announced_restore_is_a_loss_and_a_dry_run_changes_nothing",
        ),
    ),
    _mutation(
        "a loss behind a failover of Postgres is exact",
        RECOVER,
        "forced=self._options.forced or failed_over",
        "forced=self._options.forced",
        tests=NEVER_EXACT_TESTS,
    ),
    _mutation(
        "a Redis whose epoch Postgres has forgotten is recovered",
        RECOVER,
        "        if is_ahead and not self._options.forced:\n",
        "        if False:\n",
        tests=OLD_EPOCH_TESTS,
    ),
    _mutation(
        "the data of another installation are recovered",
        RECOVER,
        "        if others := foreign_installations(states, installation.id):\n",
        "        if others := foreign_installations([], installation.id):\n",
        tests=(f"{OPTIONS}::test_the_redis_of_another_installation_is_not_changed",),
    ),
    _mutation(
        "a server that was replaced is blessed again",
        RECOVER,
        "        if await self._postgres.fetchval(_WAS_REPLACED, server.run_id):\n",
        "        if False:\n",
        tests=REPLACED_TESTS,
    ),
    _mutation(
        "a server is blessed while another one issues",
        RECOVER,
        "        if before.is_alive and before.identity.address != server.address:\n",
        "        if False:\n",
        tests=REPLACED_TESTS,
    ),
    _mutation(
        "windows are rebuilt beside pools that were evicted",
        RECOVER,
        "Finding(Verdict.LOSS if doubts else Verdict.RESTART, tuple(doubts))",
        "Finding(Verdict.RESTART, ())",
        tests=(f"{OPTIONS}::test_a_pool_whose_key_was_deleted_is_reported_and_rebuilt",),
    ),
    _mutation(
        "data below a floor are blessed if run_id and epoch are the blessed ones",
        RECOVER,
        "            and not await self._behind(installation.epoch, installation.partitions)\n",
        "",
        tests=GONE_BACK_TESTS,
    ),
)

REGISTRATION: Final = (
    _mutation(
        "a process begins before the others had two heartbeats to object",
        REGISTRAR,
        "HEARTBEATS_TO_WAIT: Final = 2\n",
        "HEARTBEATS_TO_WAIT: Final = 0\n",
        tests=(f"{LINEAGE}::test_no_process_registers_or_begins_during_an_incident",),
    ),
    _mutation(
        "a process enters an epoch that is older than one it knows",
        REGISTRAR,
        "        if epoch < self._highest:\n",
        "        if False:\n",
        tests=OLD_EPOCH_TESTS,
    ),
    _mutation(
        "a process whose journal fails keeps it",
        REGISTRAR,
        "        if (error := self._engine.journal_error) is not None:\n",
        "        if (error := None) is not None:\n",
        tests=(f"{EXACT}::test_append_what_cannot_be_appended_is_not_answered",),
    ),
    _mutation(
        "a process removes its journal and keeps no token",
        REGISTRAR,
        "                        if not await asyncio.to_thread(keep_token, directory, installation, token):\n",
        "                        if not directory.exists():\n",
        tests=(f"{LINEAGE}::test_the_journals_of_a_host_know_what_postgres_has_forgotten",),
    ),
    _mutation(
        "a journal has no bound",
        JOURNAL,
        "        if kept + SEGMENT_BYTES > self._max_bytes:\n",
        "        if False:\n",
        tests=JOURNAL_TESTS,
    ),
    _mutation(
        "a journal need not be on the disk before its first receipt",
        JOURNAL,
        "            os.write(file, content)\n            os.fsync(file)\n",
        "            os.write(file, content)\n",
        tests=JOURNAL_TESTS,
    ),
    _mutation(
        "the journal of another installation is replayed",
        "issuer/journal/dead_journals.py",
        "                if head.installation == installation:\n                    found",
        "                if True:\n                    found",
        tests=JOURNAL_TESTS,
    ),
    _mutation(
        "a segment is deleted before it is recorded",
        "issuer/journal/segments.py",
        "if await connection.fetchval(_IN_LEDGER_OF, *columns) == seqs:",
        "if await connection.fetchval(_IN_LEDGER_OF, *columns) >= 0:",
        tests=JOURNAL_TESTS,
    ),
    _mutation(
        "a replay takes receipts for recorded that are not",
        "issuer/journal/segments.py",
        "columns.pool_ids, columns.seqs) == len(columns))",
        "columns.pool_ids, columns.seqs) >= 0)",
        tests=JOURNAL_TESTS,
    ),
    _mutation(
        "a damaged receipt is recorded",
        "issuer/journal/segments.py",
        "if len(body) != length or zlib.crc32(body) != checksum:",
        "if len(body) != length:",
        tests=JOURNAL_TESTS,
    ),
)

ORDER: Final = (
    _mutation(
        "a process keeps no floor of what it was answered",
        "issuer/engine/sender.py",
        "self._floors.see(call.partition, int(serial) + int(facts) - 1)",
        "self._floors.see(call.partition, 0)",
        tests=GONE_BACK_TESTS,
    ),
    _mutation(
        "a beat is not raised",
        "issuer/contract/lua/beat_partition.lua",
        "'HINCRBY', KEYS[1], 'beat', 1",
        "'HINCRBY', KEYS[1], 'beat', 0",
        tests=("tests/conformance/test_partition_scripts.py",),
    ),
    _mutation(
        "serials that are in no place are not noticed",
        "issuer/ledger/partition_balance.py",
        "    if balance.accounted != serial:\n",
        "    if False:\n",
        tests=("tests/integration/test_reconcile.py::test_every_serial_of_a_partition_is_in_one_place",),
    ),
    _mutation(
        "an acknowledgement is refused at the memory limit",
        "issuer/contract/lua/ack_events.lua",
        "local entries, redemptions = 0, 0\n",
        "local entries, redemptions = 0, 0\nredis.call('HSET', KEYS[1], 'backlog', state[2])\n",
        tests=("tests/conformance/test_short_memory.py",),
    ),
    _mutation(
        "a token that an operator has accepted begins an incident again",
        "issuer/storage/lineage.py",
        "if await find_unknown(connection, tokens) else text",
        "if tokens else text",
        tests=(f"{LINEAGE}::test_what_an_operator_has_accepted_begins_no_incident_again",),
    ),
    _mutation(
        "a worker does not note the token that it replaces in Redis",
        "sync_worker/reader.py",
        "            self._incarnations.lineage.see([reply[3]])\n",
        "            pass\n",
        tests=("tests/integration/test_worker.py::test_reader_works_with_redis_7_and_valkey",),
    ),
    _mutation(
        "a batch of a Postgres that was set back is recovered",
        RECOVER,
        "        if batches.unknown and not self._options.restored:\n",
        "        if False:\n",
        tests=("tests/integration/test_batch_tokens.py",),
    ),
    _mutation(
        "an epoch that a Postgres has forgotten is assigned again",
        RECOVER,
        "CASE WHEN $3 THEN extract",
        "CASE WHEN $3 IS NULL THEN extract",
        tests=(f"{LINEAGE}::test_an_incident_begins_before_a_worker_records_or_a_recovery_decides",),
    ),
    _mutation(
        "the doctor does not compare Redis' clock with Postgres'",
        "issuer/recovery/doctor.py",
        "        abs(ahead_ms) <= MAX_APART_MS,\n",
        "        True,\n",
        tests=("tests/integration/test_clocks.py::test_limits_and_kept_answers_outlive_a_clock_on_which_they_expire",),
    ),
)

RECOVERY: Final = (*VERDICT, *REGISTRATION, *ORDER)
