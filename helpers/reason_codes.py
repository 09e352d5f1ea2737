"""The one table of reason codes: the reasons of checks, quarantined chunks and errors, each with its notebook or remedy."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

# (the step whose notebook resolves the trouble, the trouble in a few words)
_STOPPED = ("41", "the migration stopped before its end")
_HELD = ("41", "another process holds the run or the target")
_DISK_FULL = ("41", "the disk is full, or nobody knows whether it is")
_FOLDER = ("41", "a folder cannot be written, or is gone")
_TARGET_REFUSES = ("41", "the target refuses chunks")
_CHECKPOINT = ("41", "the checkpoint does not fit what is there")
_VALUES = ("42", "values are outside what the schema or Chroma allows")
_TOO_MANY_INVALID = ("42", "too many chunks do not pass validation")
_PROCESS = ("43", "a process ran out of memory or of open files, or was killed")
_SEARCH = ("44", "the target does not find what the source finds")
_VECTORS_DIFFER = ("44", "vectors, distances or index settings differ")
_NO_ANSWER = ("45", "a server does not answer, or not in time")
_REFUSED = ("45", "a server refuses, or is not the one that was meant")
_DIRECTORY = ("45", "a directory is not the database that was meant, or cannot be read")
_FENCE = ("45", "the write fence, or the proxy that makes it")
_FIELDS = ("46", "fields or documents are missing or differ")
_VECTORS = ("47", "vectors are NaN, infinite, lost or of another dimension")
_COUNTS = ("48", "counts do not match: chunks are missing, duplicated or unexpected")
_SNAPSHOT = ("48", "the snapshot is not what was taken")
_NAMES_TAKEN = ("48", "the target already holds collections of these names")
_STATE = ("41", "the run cannot go on from this state")
_APPLICATION = ("45", "the application does not come up with the target, or its configuration is not what it was")
_SLOW = ("44", "queries are slow, were not run, or do not find what is there")
_NOTICES = ("45", "people were not notified, or nobody to notify is named")
_QUERIES = ("44", "the application's queries or tests fail")
_TARGET_IN_USE = ("45", "the target in use answers with errors, or the watch was interrupted")
_SHRINKS = ("48", "the target in use holds less than was validated")
_CLOSEOUT = ("40", "the closeout is not complete")
_LATE = ("40", "the migration took longer than its dry run said")
_CHANGED = ("48", "chunks in the source or the target have changed")
_EVIDENCE = ("40", "the evidence, the approvals or the decision block the run, not the data")
_SEVERAL = ("40", "several causes, or an unknown one: the decision tree says where to begin")

# Remedies in one sentence, for troubles that need no notebook. {resume} and the like are commands of the run.
_GO_ON = "Go on with: {resume}"
_NEW_RUN = ("Correct the path, address, tenant, database or filter in the parameters file, check it with {runbook} schema FILE, "
            "and begin a new run: a run keeps the source and target that it began with.")  # fmt: skip
_OTHER_TARGET = "Name a new folder, or a server of a current Chroma, as the target, and begin a new run."
_COPY_AGAIN = (
    "Copy the database again from the machine that Chroma runs on, or take the last backup, and begin a new run "
    "with it. docs/sources.md says what can be read and repaired."
)
_PERMISSIONS = "Correct the folder or the file's permissions, as named above. Then: {resume}"
_WAIT = (
    "Wait until the other run or command has ended; stop nothing and remove nothing that it writes. State of "
    "this run: {status}. Then: {resume}"
)
_CONTRADICTION = (
    "The source says so, and its values are migrated as they are. Correct these fields at the source and begin a new run, "
    "or sign with this known."
)
_FREE_SPACE = "Free space on the disk named above. Then: {resume}"
_NEW_IDS = "Tell the owners of every client that keeps ids, before it uses the target."
_PREFIX_IDS = (
    "Begin a new run with migration.id_policy: prefix, which writes every id as <source collection>:<id> (tell "
    "the clients), or rename these ids at the source."
)
_ANOTHER_TARGET = (
    "Name another target in a new run. Remove a collection there only if you know whose it was and that it may go."
)
_IN_WINDOW = (
    "Inside the window: {resume}. To move it: {resume} --set window.start=TIME. If it cannot wait: {resume} "
    "--outside-window REASON"
)
_MEASURED = "Nothing is due: the steps are over. Plan the next window with the time that was measured."
_LONGER_WINDOW = "Move or lengthen the window: {resume} --retry 14 --set window.start=TIME --set window.minutes=N"
_PROGRESS = "Progress so far, and whether the run may continue: {recovery}"
_PUT_BACK = "{verify} names what changed. Put the file back from the run's archive or a backup. Then: {resume}"
_SEE_FENCE = "Correct what is named above; state of the fence: {fence}. Then: {resume}"
_LIFT_FENCE = "State of the fence of that run, and how to lift it: {runbook} fence ID"
_NOTIFY = (
    "Notify people yourself: the text is announcement.txt in the run's folder. Or correct the channel, and send it to those "
    "that have not taken it: {resume} --retry 14"
)
_NAME_THEM = "Name them; an announcement that was taken is not sent again: {resume} --retry 14 --set KEY=TEXT"
_SIGNERS = "Correct the file, or name another: {resume} --set signoff.allowed_signers=FILE"
_OPENSSH = "Install OpenSSH, which brings ssh-keygen. Then give the same command again."
_MORE_TIME = "The checkpoint keeps what is done. Go on with: {resume}; or give more time: migration.max_minutes."
_DISK_BY_NAME = (
    "Look at the free disk of the target's server and say what you saw: {resume} --retry 12 --set "
    "'expected.target_disk={{free_gb: GB, attested_by: NAME}}'"
)
_ROUTE = (
    "Route these collections apart or to other names with a schema, or leave them out (collections.exclude), and "
    "begin a new run."
)
_FULLTEXT = "Write the target again: {resume} --retry 22. If documents are still missed, name another target."
_MEASURE_SOURCE = "Measure the source again: {resume} --retry 13"
_EXACT = "Read the table of step 23: exact distances decide; the source's own index is no measure here."
_SETTING = "Step 23 names each setting. Give it in the schema, or set it at the target, and validate again: {resume} --retry 23"
_SPACE = "Nothing is due: the migration keeps the space that searches use. Tell those who declared another."
_FUNCTION = "Install what the embedding function needs, or give its key; or name no text query (validation.queries)."
_INDEX = "Give the index up (migration.drop_indexes), or name a target that can hold it, and begin a new run."
_OLD_VECTORS = "Embed these documents again if searches must follow the new text; else sign with this known."
_BY_SCHEMA = "Nothing is due: the schema that was signed leaves these chunks out."
_ZERO = (
    "They are migrated as they are; cosine has no value for them, so no such search can rank them. Embed these documents "
    "again if they matter."
)
_DOOR = "Turn authentication on at the target, or keep it off the network. Then: {resume} --retry 12"
_NEW_DATABASE = "Nothing is due if it is new. If it should be there already, correct target and begin a new run."
_QUOTA = "Raise the quota, or wait until it is given again. Then: {resume}"
_WRITERS = "Stop whatever writes to the source, or name a fence (docs/maintenance-window.md) and begin a new run."
_LEFT_BEHIND = "Delete the collection named above by hand. Then: {resume}"
_NOBODY_ELSE = "Make sure that nothing else uses the source. An administrator of this machine sees every process."
_APPLICATION_LOG = "See the application's own log and what is named above; state of the run: {status}. Then: {resume}"
_LET_WRITE = (
    "See why the application's write is not taken. Where the fence's lock command stops the application itself, lift the fence "
    "once every client uses the target: {fence} --lift"
)
_SEEN = "Check in the application, or in the log of the target's server, that its requests arrive there."
_ADDRESS = "Name the target by an address that containers reach, and begin a new run."
_FILTERS = "Test the application's filters on the target before the cutover: docs/sources.md says what changed."
_ASK_AGAIN = "Remove what is named above, which kept it from being asked. Then: {resume}"
_LOAD = "Look at load and memory of the target; step 51 has the source's figures."
_LIST = "Do what is listed, and write it down in notebook 14: step.done(ITEM, NAME)."
_PUSH = "See why: {verify}. Correct it: {resume} --set signoff.push_digest=COMMAND"
_SHORT_NOTICE = "Accept the shorter notice, or move the window: {resume} --retry 14 --set window.start=TIME"
_OWN_QUERIES = "Name the application's own queries: {resume} --retry 52 --set monitoring.queries=FILE"
_RUN_LOG = "Read the last lines of run.log in the run's folder. Then: {resume}"
_STOP_WRITING = "Find who writes to the source and stop it, or put up the fence again: {fence}. Then: {resume}"
_MORE_CHANGED = (
    "Bring it over, validate and sign again: {runbook} run --run-id ID --from 22. Another migration.delta_limit needs a "
    "new run."
)
_MISSED = (
    "The target lacks what is named. Go back to the source, with what clients wrote since: {rollback} --replay. Or bring the "
    "named chunks over by hand."
)
_CLIENTS = "Decide about these writes: {rollback} --replay, or --discard-with-reason REASON."
_REPEAT = "Repeat it, it goes on where it stopped: {rollback}"
_AS_IT_IS = "Nothing is due: it says what the source holds now."
_CLOSE_TARGET = "Stop the process that has the target open. Then: {resume}"
_AT_THE_SOURCE = "They are migrated as they are. Remove all but one of each at the source if they should not be there."
_DOCTOR = "See what is wrong and what can be mended: {runbook} doctor PATH or URL."
_BY_HAND_THERE = "Step 23 names the keys. Set them at the target by hand if the application reads them."
_SNAPSHOT_AGAIN = "Take the snapshot again: {resume} --retry 21"
_SNAPSHOT_ALTERED = ("Somebody rewrote the snapshot: find out who writes there. Use another copy of it, which `snapshots verify` "
                     "compares. Before the cutover a new one can be taken: {resume} --retry 21")  # fmt: skip
_ANOTHER_FOLDER = "Move away what is there, or name another folder, and give the command again."
_NEW_MODEL = "Correct migration.reembed, what makes new vectors, and begin a new run."

# The remedies when a step can no longer be repeated: steps 10 to 14 after the fence, steps up to 25 after the cutover.
LATE = {
    _LONGER_WINDOW: "Nothing is due in this run: its window has begun. Plan a longer one the next time.",
    _SHORT_NOTICE: "Nothing is due in this run: its window has begun. Announce the next one earlier.",
    _NOTIFY: "Notify people yourself: the text is announcement.txt in the run's folder.",
    _NAME_THEM: "Tell people yourself whom to call; name them before the next run.",
    _DISK_BY_NAME: "Look at the free disk of the target's server.",
    _DOOR: "Turn authentication on at the target, or keep it off the network.",
    _MEASURE_SOURCE: "Ask source and target the application's own queries, and compare: no step measures the source any more.",
    _FULLTEXT: "If the application needs these documents found, see what a rollback would do: {rollback} --dry-run",
    _SETTING: "Step 23 names each setting. Set it at the target by hand.",
    _SNAPSHOT_AGAIN: "Use another copy of the snapshot: this run takes no new one after its cutover.",
    _SNAPSHOT_ALTERED: "Somebody rewrote the snapshot: find out who writes there. Use another copy of it, which `snapshots "
    "verify` compares.",
}


class ReasonCode(StrEnum):
    """A reason code: its value in files, the `step` whose notebook resolves the `trouble`, a `remedy` if a sentence suffices.

    Wrong parameters and gates that wait for people explain themselves: their codes have no step.
    """

    step: str
    trouble: str
    remedy: str

    def __new__(cls, code: str, cause: tuple[str, str] = ("", ""), remedy: str = "") -> ReasonCode:
        self = str.__new__(cls, code)
        self._value_ = code
        self.step, self.trouble = cause
        self.remedy = remedy
        return self

    def of(self, field: str) -> ReasonCode:
        """The code of a field of the schema, of INVALID or MISSING: `ReasonCode.INVALID.of("year")` is `invalid_year`."""
        return ReasonCode(self.replace("*", field))

    @classmethod
    def _missing_(cls, value: object) -> ReasonCode | None:
        """Give a code for a field of a schema, whatever the field's name."""
        for pattern in (cls.INVALID, cls.MISSING):
            if isinstance(value, str) and value.startswith(pattern.removesuffix("*")):
                made = str.__new__(cls, value)
                made._name_, made._value_ = value.upper(), value
                made.step, made.trouble, made.remedy = pattern.step, pattern.trouble, ""
                return made
        return None

    @classmethod
    def known(cls, text: str) -> ReasonCode | None:
        """The code with this value; None if this version of the toolkit does not know it."""
        try:
            return cls(text)
        except ValueError:
            return None

    CELL_TIMEOUT = "cell_timeout", _STOPPED, _MORE_TIME
    INTERRUPTED = "interrupted", _STOPPED, _GO_ON
    NIGHT_TOO_LONG = "night_too_long", _STOPPED, _LONGER_WINDOW
    TIME_LIMIT = "time_limit", _STOPPED, _MORE_TIME
    TOO_SLOW = "too_slow", _STOPPED, _MORE_TIME

    LOCK_HELD = "lock_held", _HELD, _WAIT
    RUN_LOCKED = "run_locked", _HELD, _WAIT
    SNAPSHOT_IN_USE = "snapshot_in_use", _HELD, _WAIT

    DISK_FULL = "disk_full", _DISK_FULL, _FREE_SPACE
    DISK_UNKNOWN = "disk_unknown", _DISK_FULL, _DISK_BY_NAME
    PAUSED_FOR_DISK = "paused_for_disk", _DISK_FULL, _FREE_SPACE
    AUDIT_UNWRITABLE = "audit_unwritable", _FOLDER, _PERMISSIONS
    FOLDER_GONE = "folder_gone", _FOLDER, _PERMISSIONS
    FOLDER_UNWRITABLE = "folder_unwritable", _FOLDER, _PERMISSIONS
    READ_ONLY = "read_only", _FOLDER, _PERMISSIONS
    SAMPLE_PATH_IN_USE = "sample_path_in_use", _FOLDER, _ANOTHER_FOLDER
    STORAGE_UNUSABLE = "storage_unusable", _FOLDER, _GO_ON
    TARGET_UNWRITABLE = "target_unwritable", _FOLDER, _PERMISSIONS

    REFUSED = "refused", _TARGET_REFUSES
    REFUSED_BY_TARGET = "refused_by_target", _TARGET_REFUSES
    TOO_MANY_REFUSED = "too_many_refused", _TARGET_REFUSES

    CHECKPOINT_BEHIND = "checkpoint_behind", _CHECKPOINT, _PROGRESS
    CHECKPOINT_UNREADABLE = "checkpoint_unreadable", _CHECKPOINT, _PROGRESS
    CONTEXT_CHANGED = "context_changed", _CHECKPOINT, _PROGRESS
    NOTHING_STAGED = "nothing_staged", _CHECKPOINT, _PROGRESS
    STAGING_CHANGED = "staging_changed", _CHECKPOINT, _PROGRESS
    STAGING_UNREADABLE = "staging_unreadable", _CHECKPOINT, _PROGRESS

    COLLECTION_NAME = "collection_name", _VALUES, _ROUTE
    DOCUMENTS_CHANGED = "documents_changed", _VALUES, _OLD_VECTORS
    EMPTY_ID = "empty_id", _VALUES
    INVALID = "invalid_*", _VALUES
    INVALID_CITATION_URI = "invalid_citation_uri", _VALUES
    INVALID_FIELD = "invalid_field", _VALUES
    INVALID_SCORES = "invalid_scores", _VALUES
    INVALID_VALUES = "invalid_values", _VALUES
    LEFT_OUT = "left_out", _VALUES, _BY_SCHEMA
    TOO_LARGE = "too_large", _VALUES
    TYPE_DIFFERS = "type_differs", _VALUES
    UNSUPPORTED_METADATA = "unsupported_metadata", _VALUES
    UNSUPPORTED_TEXT = "unsupported_text", _VALUES
    WRONG_COLLECTION_TYPE = "wrong_collection_type", _VALUES
    MATRIX_VALIDATION_PASS_RATE = "matrix_validation_pass_rate", _TOO_MANY_INVALID
    QUARANTINED = "quarantined", _TOO_MANY_INVALID
    VALIDATION_BELOW_MINIMUM = "validation_below_minimum", _TOO_MANY_INVALID
    KERNEL_DIED = "kernel_died", _PROCESS
    OUT_OF_MEMORY = "out_of_memory", _PROCESS
    TOO_FEW_FILES = "too_few_files", _PROCESS
    FULLTEXT_MISSES = "fulltext_misses", _SEARCH, _FULLTEXT
    MATRIX_NAMED_QUERIES = "matrix_named_queries", _SEARCH
    QUERY_WITHOUT_ANSWER = "query_without_answer", _SEARCH
    SEARCH_BASELINE_MISSING = "search_baseline_missing", _SEARCH, _MEASURE_SOURCE
    SEARCH_NOT_EQUIVALENT = "search_not_equivalent", _SEARCH
    SEARCH_UNSURE = "search_unsure", _SEARCH, _EXACT

    CONFIGURATION_DIFFERS = "configuration_differs", _VECTORS_DIFFER, _SETTING
    DISTANCE_SPACE = "distance_space", _VECTORS_DIFFER, _SPACE
    EMBEDDING_FUNCTION_UNAVAILABLE = "embedding_function_unavailable", _VECTORS_DIFFER, _FUNCTION
    INDEX_DROPPED = "index_dropped", _VECTORS_DIFFER, _INDEX
    INDEX_UNSUPPORTED = "index_unsupported", _VECTORS_DIFFER, _INDEX
    MIXED_SPACES = "mixed_spaces", _VECTORS_DIFFER, _ROUTE
    SPACE_DIFFERS = "space_differs", _VECTORS_DIFFER
    VECTOR_DIFFERS = "vector_differs", _VECTORS_DIFFER
    ZERO_VECTOR = "zero_vector", _VECTORS_DIFFER, _ZERO

    ENGINE_FAILED = "engine_failed", _NO_ANSWER
    NOT_JSON = "not_json", _NO_ANSWER
    PROXY_UNUSABLE = "proxy_unusable", _NO_ANSWER
    SERVER_BUSY = "server_busy", _NO_ANSWER
    SERVER_DOES_NOT_START = "server_does_not_start", _NO_ANSWER
    TIMEOUT = "timeout", _NO_ANSWER
    UNREACHABLE = "unreachable", _NO_ANSWER
    WORKERS_UNFIT = "workers_unfit", _NO_ANSWER

    ANSWERS_ANYBODY = "answers_anybody", _REFUSED, _DOOR
    FORBIDDEN = "forbidden", _REFUSED
    TLS_UNVERIFIED = "tls_unverified", _REFUSED
    SECRET_IN_CLEAR = "secret_in_clear", _REFUSED
    HEADER_ILLEGAL = "header_illegal", _REFUSED, _NEW_RUN
    NOT_FOUND = "not_found", _REFUSED
    NOTHING_TO_MIGRATE = "nothing_to_migrate", _REFUSED, _NEW_RUN
    OTHER_SOURCE = "other_source", _REFUSED, _NEW_RUN
    QUOTA_EXCEEDED = "quota_exceeded", _REFUSED, _QUOTA
    SOURCE_NOT_CHROMA = "source_not_chroma", _REFUSED
    SOURCE_OTHER_API = "source_other_api", _REFUSED, _NEW_RUN
    TARGET_DATABASE_MADE = "target_database_made", _REFUSED, _NEW_DATABASE
    TARGET_NOT_CHROMA = "target_not_chroma", _REFUSED
    TARGET_OTHER_API = "target_other_api", _REFUSED, _NEW_RUN
    TARGET_TOO_OLD = "target_too_old", _REFUSED, _OTHER_TARGET
    TARGET_UNSOUND = "target_unsound", _REFUSED, _OTHER_TARGET
    UNKNOWN_DATABASE = "unknown_database", _REFUSED, _NEW_RUN
    UNKNOWN_TENANT = "unknown_tenant", _REFUSED, _NEW_RUN

    NOT_EMBEDDED = "not_embedded", _DIRECTORY
    RENAME_NOT_0_3 = "rename_not_0_3", _DIRECTORY
    SOURCE_DAMAGED = "source_damaged", _DIRECTORY, _COPY_AGAIN
    SOURCE_DOUBLED_NAMES = "source_doubled_names", _DIRECTORY, _ROUTE
    SOURCE_EMPTY = "source_empty", _DIRECTORY, _NEW_RUN
    SOURCE_ENGINE_FAILED = "source_engine_failed", _DIRECTORY
    SOURCE_FOREIGN_FILE = "source_foreign_file", _DIRECTORY, _COPY_AGAIN
    SOURCE_INCOMPLETE = "source_incomplete", _DIRECTORY, _COPY_AGAIN
    SOURCE_LAYOUT_0_3 = "source_layout_0_3", _DIRECTORY
    SOURCE_LFS_POINTER = "source_lfs_pointer", _DIRECTORY, _COPY_AGAIN
    SOURCE_LINK_BROKEN = "source_link_broken", _DIRECTORY
    SOURCE_MISSING = "source_missing", _DIRECTORY, _NEW_RUN
    SOURCE_NOT_A_FOLDER = "source_not_a_folder", _DIRECTORY, _NEW_RUN
    SOURCE_OLDER_LAYOUT = "source_older_layout", _DIRECTORY
    SOURCE_TRUNCATED = "source_truncated", _DIRECTORY, _COPY_AGAIN
    SOURCE_UNREADABLE = "source_unreadable", _DIRECTORY, _PERMISSIONS
    TARGET_DAMAGED = "target_damaged", _DIRECTORY
    TARGET_EMPTY = "target_empty", _DIRECTORY, _OTHER_TARGET
    TARGET_FOREIGN_FILE = "target_foreign_file", _DIRECTORY, _OTHER_TARGET
    TARGET_LAYOUT_0_3 = "target_layout_0_3", _DIRECTORY, _OTHER_TARGET
    TARGET_LFS_POINTER = "target_lfs_pointer", _DIRECTORY, _OTHER_TARGET
    TARGET_LINK_BROKEN = "target_link_broken", _DIRECTORY
    TARGET_MISSING = "target_missing", _DIRECTORY, _NEW_RUN
    TARGET_NOT_A_FOLDER = "target_not_a_folder", _DIRECTORY, _NEW_RUN
    TARGET_OLDER_LAYOUT = "target_older_layout", _DIRECTORY, _OTHER_TARGET
    TARGET_TRUNCATED = "target_truncated", _DIRECTORY
    TARGET_UNREADABLE = "target_unreadable", _DIRECTORY, _PERMISSIONS
    UNKNOWN_COLLECTION = "unknown_collection", _DIRECTORY, _NEW_RUN

    CONFIG_UNWRITABLE = "config_unwritable", _FENCE, _PERMISSIONS
    COUNTS_MOVE = "counts_move", _FENCE, _SEE_FENCE
    FENCE_BYPASS = "fence_bypass", _FENCE, _SEE_FENCE
    FENCE_CONFIG = "fence_config", _FENCE, _SEE_FENCE
    FENCE_ELSEWHERE = "fence_elsewhere", _FENCE, _SEE_FENCE
    FENCE_NOT_LIFTED = "fence_not_lifted", _FENCE, _SEE_FENCE
    FENCE_OF_OTHER_RUN = "fence_of_other_run", _FENCE, _LIFT_FENCE
    FENCE_OPEN = "fence_open", _FENCE, _SEE_FENCE
    FENCE_STATE_DAMAGED = "fence_state_damaged", _FENCE, _PUT_BACK
    NGINX_READS_OTHER_FILES = "nginx_reads_other_files", _FENCE, _SEE_FENCE
    NGINX_REFUSES = "nginx_refuses", _FENCE, _SEE_FENCE
    NGINX_RELOAD_REFUSED = "nginx_reload_refused", _FENCE, _SEE_FENCE
    NGINX_TWO_SERVERS = "nginx_two_servers", _FENCE, _SEE_FENCE
    NO_FENCE = "no_fence", _FENCE, _WRITERS
    NO_NGINX = "no_nginx", _FENCE, _SEE_FENCE
    OLD_WORKERS = "old_workers", _FENCE, _SEE_FENCE
    PROBE_LEFT_BEHIND = "probe_left_behind", _FENCE, _LEFT_BEHIND
    PROGRAM_FAILED = "program_failed", _FENCE, _SEE_FENCE
    PROGRAM_MISSING = "program_missing", _FENCE, _SEE_FENCE
    PROGRAM_TIMEOUT = "program_timeout", _FENCE, _SEE_FENCE
    READS_REFUSED = "reads_refused", _FENCE, _SEE_FENCE
    SOURCE_IN_USE = "source_in_use", _FENCE, _SEE_FENCE
    SOURCE_USE_UNKNOWN = "source_use_unknown", _FENCE, _NOBODY_ELSE

    COLLECTION_METADATA_DIFFERS = "collection_metadata_differs", _FIELDS, _BY_HAND_THERE
    DOCUMENT_DIFFERS = "document_differs", _FIELDS
    FIELD_EXTRA = "field_extra", _FIELDS
    FIELD_MISSING = "field_missing", _FIELDS
    MATRIX_METADATA_COMPLETENESS = "matrix_metadata_completeness", _FIELDS
    METADATA_CONTRADICTS = "metadata_contradicts", _FIELDS, _CONTRADICTION
    METADATA_DIFFERS = "metadata_differs", _FIELDS
    MISSING = "missing_*", _FIELDS
    MISSING_DOCUMENT = "missing_document", _FIELDS
    MISSING_METADATA = "missing_metadata", _FIELDS
    URI_DIFFERS = "uri_differs", _FIELDS

    INFINITE_EMBEDDING = "infinite_embedding", _VECTORS
    MATRIX_NAN_EMBEDDINGS_IN_THE_SOURCE = "matrix_NaN_embeddings_in_the_source", _VECTORS
    MISSING_EMBEDDING = "missing_embedding", _VECTORS
    MIXED_DIMENSIONS = "mixed_dimensions", _VECTORS
    NAN_EMBEDDING = "nan_embedding", _VECTORS
    REEMBED_COST = "reembed_cost", _VECTORS, "Raise migration.reembed.maximum_cost, or leave collections out of it."
    REEMBED_DIMENSION = "reembed_dimension", _VECTORS, _NEW_MODEL
    REEMBED_FAILED = "reembed_failed", _VECTORS, _NEW_MODEL
    REEMBEDDED = "reembedded", _VECTORS
    SOURCE_UNREADABLE_IDS = "source_unreadable_ids", _VECTORS, _DOCTOR
    TINY_NORM = "tiny_norm", _VECTORS
    VECTORS_LOST = "vectors_lost", _VECTORS
    VECTORS_NOT_FOUND = "vectors_not_found", _VECTORS, _DOCTOR
    VECTORS_RESCUED = "vectors_rescued", _VECTORS
    WRONG_DIMENSION = "wrong_dimension", _VECTORS

    CHUNK_DOUBLED = "chunk_doubled", _COUNTS
    CHUNK_EXTRA = "chunk_extra", _COUNTS
    CHUNK_MISSING = "chunk_missing", _COUNTS
    COLLECTION_MISSING = "collection_missing", _COUNTS
    COUNT_MISMATCH = "count_mismatch", _COUNTS
    DUPLICATES = "duplicates", _COUNTS, _AT_THE_SOURCE
    ID_COLLISION = "id_collision", _COUNTS, _PREFIX_IDS
    IDS_REWRITTEN = "ids_rewritten", _COUNTS, _NEW_IDS
    MATRIX_COLLECTION_COUNTS = "matrix_collection_counts", _COUNTS
    QUARANTINE_UNEXPLAINED = "quarantine_unexplained", _COUNTS
    QUARANTINE_UNKNOWN = "quarantine_unknown", _COUNTS
    RESTORE_DIFFERS = "restore_differs", _COUNTS, _ANOTHER_FOLDER
    SOURCE_DOUBLED_IDS = "source_doubled_ids", _COUNTS, _DOCTOR
    SOURCE_FINDINGS = "source_findings", _COUNTS, _DOCTOR

    RESTORE_LEDGER_UNREADABLE = "restore_ledger_unreadable", _SNAPSHOT, _ANOTHER_FOLDER
    SNAPSHOT_ALTERED = "snapshot_altered", _SNAPSHOT, _SNAPSHOT_ALTERED
    SNAPSHOT_DAMAGED = "snapshot_damaged", _SNAPSHOT, _SNAPSHOT_AGAIN
    SNAPSHOT_EXISTS = "snapshot_exists", _SNAPSHOT, _ANOTHER_FOLDER
    SNAPSHOT_TOO_SMALL = "snapshot_too_small", _SNAPSHOT, _SNAPSHOT_AGAIN
    SNAPSHOT_UNREADABLE = "snapshot_unreadable", _SNAPSHOT, _SNAPSHOT_AGAIN

    EXISTS = "exists", _NAMES_TAKEN, _ANOTHER_TARGET
    TARGET_NOT_EMPTY = "target_not_empty", _NAMES_TAKEN, _ANOTHER_TARGET

    MIGRATION_RUNS = "migration_runs", _STATE, _WAIT
    NOTIFY_STATE_DAMAGED = "notify_state_damaged", _STATE, _PUT_BACK
    OUTSIDE_WINDOW = "outside_window", _STATE, _IN_WINDOW
    PARAMETERS_UNREADABLE = "parameters_unreadable", _STATE, _PUT_BACK
    RETRY_STATE_DAMAGED = "retry_state_damaged", _STATE, _PUT_BACK
    RUN_DAMAGED = "run_damaged", _STATE, _PUT_BACK
    STAGED_GONE = "staged_gone", _STATE, _PROGRESS
    TARGET_DATABASE_STATE_DAMAGED = "target_database_state_damaged", _STATE, _PUT_BACK

    APPLICATION_UNSEEN = "application_unseen", _APPLICATION, _SEEN
    BACKUP_DAMAGED = "backup_damaged", _APPLICATION, _APPLICATION_LOG
    CONFIG_CHANGED = "config_changed", _APPLICATION, _APPLICATION_LOG
    CONFIG_FILE = "config_file", _APPLICATION, _APPLICATION_LOG
    CONFIG_NOT_WRITTEN = "config_not_written", _APPLICATION, _APPLICATION_LOG
    CUTOVER_REVERTED = "cutover_reverted", _APPLICATION, _APPLICATION_LOG
    CUTOVER_STATE_DAMAGED = "cutover_state_damaged", _APPLICATION, _PUT_BACK
    CUTOVER_UNWELL = "cutover_unwell", _APPLICATION, _APPLICATION_LOG
    LOG_UNREADABLE = "log_unreadable", _APPLICATION, _APPLICATION_LOG
    LOOPBACK_IN_CONTAINER = "loopback_in_container", _APPLICATION, _ADDRESS
    NOT_HEALTHY = "not_healthy", _APPLICATION, _APPLICATION_LOG
    PUT_BACK_FAILED = "put_back_failed", _APPLICATION, _APPLICATION_LOG
    ROLLBACK_STATE_DAMAGED = "rollback_state_damaged", _APPLICATION, _PUT_BACK
    WRITES_REFUSED = "writes_refused", _APPLICATION, _LET_WRITE
    SOURCE_ILL = "source_ill", _APPLICATION
    SOURCE_SETTINGS = "source_settings", _APPLICATION, _REPEAT

    FILTERS_CHANGE = "filters_change", _SLOW, _FILTERS
    NOT_MEASURED = "not_measured", _SLOW, _ASK_AGAIN
    NOT_QUERIED = "not_queried", _SLOW, _ASK_AGAIN
    NOTHING_TO_ASK = "nothing_to_ask", _SLOW, _ASK_AGAIN
    REPLAY_UNFOUND = "replay_unfound", _SLOW, _REPEAT
    SLOW_QUERIES = "slow_queries", _SLOW, _LOAD

    BY_HAND_OPEN = "by_hand_open", _NOTICES, _LIST
    LATE_NOTICE = "late_notice", _NOTICES, _SHORT_NOTICE
    NOBODY_NAMED = "nobody_named", _NOTICES, _NAME_THEM
    NOBODY_TO_CALL = "nobody_to_call", _NOTICES, "Name them, and step 10 is done again: {resume} --set KEY=TEXT"
    NOBODY_TOLD = "nobody_told", _NOTICES, _NOTIFY
    NOTICE_FAILED = "notice_failed", _NOTICES, _NOTIFY

    INTEGRATION_FAILED = "integration_failed", _QUERIES
    NO_APPLICATION_QUERIES = "no_application_queries", _QUERIES, _OWN_QUERIES
    TESTS_BROKEN = "tests_broken", _QUERIES, _RUN_LOG

    TARGET_ERRORS = "target_errors", _TARGET_IN_USE
    WATCH_INTERRUPTED = "watch_interrupted", _TARGET_IN_USE, _GO_ON

    COUNT_SHRINKS = "count_shrinks", _SHRINKS

    CLOSEOUT_STATE_DAMAGED = "closeout_state_damaged", _CLOSEOUT, _PUT_BACK
    FENCE_KEPT = "fence_kept", _CLOSEOUT
    LONGER_THAN_ESTIMATED = "longer_than_estimated", _LATE, _MEASURED
    NOT_CLEANED = "not_cleaned", _CLOSEOUT
    NOT_READY_TO_CLOSE = "not_ready_to_close", _CLOSEOUT

    CATCH_UP_LEDGER_DAMAGED = "catch_up_ledger_damaged", _CHANGED, _PUT_BACK
    CATCH_UP_NOT_PROVEN = "catch_up_not_proven", _CHANGED, _GO_ON
    CHANGES_MISSED = "changes_missed", _CHANGED, _MISSED
    CLIENT_WRITES = "client_writes", _CHANGED, _CLIENTS
    FOREIGN_CHUNKS = "foreign_chunks", _CHANGED
    REPLAY_DIFFERS = "replay_differs", _CHANGED, _REPEAT
    REPLAY_OPEN = "replay_open", _CHANGED, _CLIENTS
    SOURCE_CHANGED = "source_changed", _CHANGED, _STOP_WRITING
    SOURCE_KEEPS_CHANGING = "source_keeps_changing", _CHANGED, _STOP_WRITING
    DELTA_OVER_LIMIT = "delta_over_limit", _CHANGED, _MORE_CHANGED
    SOURCE_MOVED_ON = "source_moved_on", _CHANGED, _AS_IT_IS
    SOURCE_RESTORED = "source_restored", _CHANGED, _AS_IT_IS
    TARGET_CHANGED = "target_changed", _CHANGED
    TARGET_IN_USE = "target_in_use", _CHANGED, _CLOSE_TARGET
    TARGET_NOT_CLEAN = "target_not_clean", _CHANGED, _REPEAT

    ALLOWED_SIGNERS_BAD = "allowed_signers_bad", _EVIDENCE, _SIGNERS
    CUT_OVER_AND_HELD = "cut_over_and_held", _EVIDENCE
    BYTECODE_ALTERED = "bytecode_altered", _EVIDENCE
    DIGEST_NOT_PUSHED = "digest_not_pushed", _EVIDENCE, _PUSH
    DRY_RUN = "dry_run", _EVIDENCE
    FIGURE_DIFFERS = "figure_differs", _EVIDENCE
    GATE_SHUT = "gate_shut", _EVIDENCE
    HELD = "held", _EVIDENCE
    NO_DECISION = "no_decision", _EVIDENCE
    NOT_ARCHIVED = "not_archived", _EVIDENCE
    NOT_SEALABLE = "not_sealable", _EVIDENCE
    NOTHING_TO_CUT_OVER = "nothing_to_cut_over", _EVIDENCE
    ROLLED_BACK = "rolled_back", _EVIDENCE
    SEAL_BROKEN = "seal_broken", _EVIDENCE, _PUT_BACK
    SEALED_FILE_CHANGED = "sealed_file_changed", _EVIDENCE, _PUT_BACK
    SECRET_FOUND = "secret_found", _EVIDENCE
    SIGNERS_MISSING = "signers_missing", _EVIDENCE, _SIGNERS
    SSH_KEYGEN_MISSING = "ssh_keygen_missing", _EVIDENCE, _OPENSSH

    CELL_FAILED = "cell_failed", _SEVERAL
    CELLS_NOT_EXECUTED = "cells_not_executed", _SEVERAL
    CHECK_FAILED = "check_failed", _SEVERAL
    CLIENT_DOES_NOT_WORK = "client_does_not_work", _SEVERAL
    MARGINAL = "marginal", _SEVERAL
    NO_GO = "no_go", _SEVERAL
    NO_RESULT = "no_result", _SEVERAL
    NOT_EXECUTED = "not_executed", _SEVERAL
    NOTEBOOK_EXITED = "notebook_exited", _SEVERAL
    PRECONDITION_FAILED = "precondition_failed", _SEVERAL
    REHEARSAL_FAILED = "rehearsal_failed", _SEVERAL
    SAMPLE_FAILED = "sample_failed", _SEVERAL
    SIGNED_NO_GO = "signed_no_go", _SEVERAL
    STEP_FAILED = "step_failed", _SEVERAL
    UNEXPECTED = "unexpected", _SEVERAL

    # Wrong parameters and commands, and waiting for people: the message is sufficient.
    ALREADY_MIGRATING = "already_migrating"
    BAD_DECISION = "bad_decision"
    BAD_NAME = "bad_name"
    BAD_OUTPUT = "bad_output"
    BAD_REASON = "bad_reason"
    BAD_REPAIR = "bad_repair"
    BAD_RUN_ID = "bad_run_id"
    BAD_SIGNATURE = "bad_signature"
    CHUNK_UNKNOWN = "chunk_unknown"
    CHUNK_WITHOUT_VECTOR = "chunk_without_vector"
    COLLECTION_UNKNOWN = "collection_unknown"
    CUTOVER_CHANGED = "cutover_changed"
    DATABASES_UNLISTED = "databases_unlisted"
    DECISION_NO_GO = "decision_no_go"
    DRY_RUN_DONE = "dry_run_done"
    EMBEDDING_FUNCTION_UNKNOWN = "embedding_function_unknown"
    FENCE_CHANGED = "fence_changed"
    FIELD_UNKNOWN = "field_unknown"
    FILE_EXISTS = "file_exists"
    FILE_NOT_MAPPING = "file_not_mapping"
    FILE_UNREADABLE = "file_unreadable"
    FINDING_UNKNOWN = "finding_unknown"
    FROM_NEEDS_RUN = "from_needs_run"
    GROUP_OF_RUNS = "group_of_runs"
    HOW_TO_SIGN = "how_to_sign"
    MANY_DATABASES = "many_databases"
    NO_ALLOWED_SIGNERS = "no_allowed_signers"
    NO_CHECKPOINT = "no_checkpoint"
    NO_DATABASE = "no_database"
    NO_KEY = "no_key"
    NO_PARAMETERS = "no_parameters"
    NO_RETRY = "no_retry"
    NO_SIGNATURE = "no_signature"
    NO_STATEMENT = "no_statement"
    NO_SUCH_COLLECTION = "no_such_collection"
    NO_SUCH_DIRECTORY = "no_such_directory"
    NO_SUCH_RUN = "no_such_run"
    NO_SUCH_SNAPSHOT = "no_such_snapshot"
    NO_TABLE = "no_table"
    NO_TARGET = "no_target"
    NOT_MARGINAL = "not_marginal"
    NOT_SEALED = "not_sealed"
    NOT_SIGNED = "not_signed"
    NOTHING_OPEN = "nothing_open"
    NOTHING_TO_SIGN = "nothing_to_sign"
    OTHER_CHECKPOINT = "other_checkpoint"
    OTHER_CONTEXT = "other_context"
    OTHER_FOLDER = "other_folder"
    PARAMETERS_INVALID = "parameters_invalid"
    PLACEHOLDER = "placeholder"
    QUERIES_INVALID = "queries_invalid"
    REHEARSAL_NOT_BUILT = "rehearsal_not_built"
    RESUME_CONTEXT = "resume_context"
    RETRY_UNFINISHED = "retry_unfinished"
    RUN_EXISTS = "run_exists"
    SAMPLE_TOO_SMALL = "sample_too_small"
    SCHEMA_INVALID = "schema_invalid"
    SCHEMA_UNKNOWN = "schema_unknown"
    SECRET_MISSING = "secret_missing"
    SET_MALFORMED = "set_malformed"
    SET_UNKNOWN = "set_unknown"
    SIGNATURE_REFUSED = "signature_refused"
    SIGNED_BEFORE = "signed_before"
    SIGNOFFS_MISSING = "signoffs_missing"
    SNAPSHOT_AMBIGUOUS = "snapshot_ambiguous"
    SNAPSHOT_KEPT = "snapshot_kept"
    STEP_BROKEN = "step_broken"
    STEP_MISSING = "step_missing"
    STEP_OFF_LINE = "step_off_line"
    STEPS_REVERSED = "steps_reversed"
    TENANTS_UNLISTED = "tenants_unlisted"
    TESTS_MISSING = "tests_missing"
    UNKNOWN_GATE = "unknown_gate"
    UNKNOWN_ITEM = "unknown_item"
    UNKNOWN_PARAMETER = "unknown_parameter"
    UNKNOWN_ROLE = "unknown_role"
    UNKNOWN_STEP = "unknown_step"
    USAGE = "usage"
    YAML_INVALID = "yaml_invalid"


Reason = ReasonCode | Literal[""]  # "" for no reason
