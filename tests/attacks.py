"""`make test-attacks`: every attack that was tried on the toolkit, the tests that repeat it, and how each came out.

`ATTACKS` is the only list: docs/security.md promises nothing whose test is not in it. The fast tests run in `make test` too.
"""

from __future__ import annotations

import sys

import pytest

from tests.conftest import ROOT
from tests.tally import BROKE, Tally, outcomes, table

# attacker → attack → tests, as FILE::TEST below tests/; ::TEST is of the same file as the one before it
ATTACKS: dict[str, dict[str, str]] = {
    "source": {
        "a stored function with a URL and a variable, also one that changes after the first look": """
            test_a_hostile_source_gains_nothing.py::test_the_list_of_what_a_stored_configuration_can_name_is_chromas_own
            ::test_no_function_is_built_because_a_collection_names_it
            ::test_a_variable_of_the_services_name_is_not_sent_in_its_place
            ::test_new_vectors_are_made_by_what_the_operator_named ::test_the_applications_tests_get_allowed_functions_only
            ::test_a_run_tells_the_thief_nothing ::test_a_configuration_that_changes_after_the_look_is_not_built_either""",
        "variables of the runner": """
            test_a_hostile_source_gains_nothing.py::test_a_kernel_has_the_usual_variables_and_those_that_the_parameters_name
            ::test_another_run_in_the_same_kernel_gets_its_own_variables""",
        "redirect by exported variables and a .env file": """
            test_door_settings.py::test_every_field_keeps_its_value ::test_a_dry_run_touches_what_is_named_and_nothing_else""",
        "settings of an index, and a length of vectors, that would fill the memory": """
            test_configuration_fidelity.py::test_settings_that_no_index_has_are_not_taken_over_and_said
            test_restore_exactly.py::test_a_setting_that_no_index_has_is_not_restored_and_said
            test_rescue_of_damaged_directories.py::test_a_length_of_vectors_that_nobody_has_makes_no_matrix ::test_huge_index""",
        "keys that become one, and values of no chunk": """
            test_rescue_of_poisoned_values.py::test_keys_that_are_no_utf8_never_become_one
            ::test_values_of_chunks_that_are_not_there_are_said_with_examples""",
        "a segment whose id is a path": """
            test_rescue_of_damaged_directories.py::test_a_segment_whose_id_is_a_path_is_refused_and_nothing_is_removed
            ::test_a_collection_whose_id_is_a_path_is_refused_and_nothing_is_written""",
        "a damaged Parquet file that ends the process": """
            test_files_of_chunks_are_bounded.py::test_a_damaged_file_is_an_error_and_ends_no_process
            ::test_a_page_that_does_not_say_its_size_is_refused ::test_a_footer_that_could_be_read_in_two_ways_is_refused
            ::test_of_a_footer_only_numbers_of_the_right_kind_count""",
        "pickles in index files": """
            test_rescue_reads_index_files.py::test_a_malicious_pickle_runs_nothing
            ::test_a_pickle_with_any_byte_changed_is_read_or_refused ::test_a_pickle_that_would_fill_the_memory_is_refused""",
        "a list with a line of gigabytes": """
            test_a_page_says_only_what_was_seen.py::test_a_list_with_a_line_of_gigabytes_is_not_read_into_memory
            ::test_a_list_with_a_damaged_row_says_where_it_ends""",
        "a Parquet file that would fill the memory": """
            test_files_of_chunks_are_bounded.py::test_one_text_millions_of_times_is_refused_in_one_line
            ::test_lists_of_one_number_without_end_are_refused ::test_texts_by_their_beginnings_are_refused
            ::test_the_file_of_collections_is_no_way_round ::test_what_an_upgrade_left_beside_a_database_is_bounded_too
            ::test_a_page_that_holds_more_than_the_footer_says_is_refused ::test_vectors_that_are_not_there_take_no_place
            ::test_a_part_of_a_snapshot_is_bounded_too ::test_lists_of_a_fixed_size_inside_other_types_are_refused""",
        "a value in a database that would fill the memory": """
            test_files_of_chunks_are_bounded.py::test_a_value_that_no_request_can_bring_is_refused_before_it_is_read""",
        "markup and scripts in pages": """
            test_hostile_text.py::test_the_browser_sees_what_a_careless_page_does
            ::test_nothing_hostile_acts_on_any_page ::test_a_hostile_source_goes_through_the_whole_line""",
        "JupyterLab's live outputs": """
            test_hostile_text.py::test_tables_of_a_notebook_show_one_printable_line_a_value
            test_explore_tables_in_a_browser.py::test_a_chunk_cannot_act_in_the_table""",
        "control characters in terminals and logs": """
            test_hostile_text.py::test_a_log_line_and_an_error_stay_one_line
            ::test_a_terminal_table_keeps_one_line_a_row ::test_nothing_that_a_command_prints_acts_on_the_terminal
            ::test_a_progress_bar_moves_the_cursor_and_a_printed_text_does_not
            ::test_result_files_hold_nothing_that_a_terminal_obeys_and_read_back_the_same""",
        "formulas in tables for spreadsheets": """
            test_hostile_text.py::test_a_cell_of_an_exported_table_is_text_and_no_formula
            test_explore_findings.py::test_an_exported_finding_is_whole_harmless_and_in_the_audit_log""",
        "names in notices, e-mail and calendars": """
            test_hostile_text.py::test_names_act_in_no_notice_no_calendar_and_no_header_of_a_mail""",
        "formulas in labels of figures": "test_hostile_text.py::test_labels_of_a_figure_are_names_and_not_formulas",
        "names that are paths": """
            test_hostile_text.py::test_a_collection_name_that_no_target_takes_is_one_clear_line
            ::test_hostile_collection_names_stop_an_exact_copy_before_anything_is_written""",
        "chunks under the name of our own marker": """
            test_store_network.py::test_chunks_in_a_collection_of_the_markers_name_are_data""",
        "a snapshot's manifest that names files elsewhere": """
            test_snapshot_files.py::test_a_manifest_names_files_of_its_own_folder_only""",
        "Python modules in the folder that a run works in": """
            test_a_hostile_source_gains_nothing.py::test_modules_in_the_folder_of_a_run_are_not_imported
            test_nothing_planted_is_run.py::test_nothing_of_the_folder_in_which_a_run_works_is_read_or_run
            ::test_a_library_in_the_working_folder_is_not_taken_by_python_m""",
        "bytecode beside sources and libraries": """
            test_nothing_planted_is_run.py::test_no_bytecode_is_kept_below_a_folder_that_others_can_exchange
            ::test_bytecode_beside_the_sources_and_libraries_is_never_loaded
            ::test_the_process_that_sends_notices_has_the_same_cache""",
        "a journal that names another file": """
            test_a_look_writes_nothing_beside_a_source.py::test_a_look_plays_back_no_journal_that_names_another_file
            test_a_hostile_source_gains_nothing.py::test_a_journal_that_names_another_file_deletes_nothing""",
        "a log beside which SQLite would write": """
            test_a_look_writes_nothing_beside_a_source.py::test_no_look_writes_a_byte_beside_a_source
            ::test_a_log_that_went_while_a_directory_in_use_is_copied_is_not_made_again""",
        "a statement of blanks": "test_rescue_of_damaged_directories.py::test_a_statement_of_blanks_holds_no_look",
        "collections that no page counts": """
            test_a_hostile_source_gains_nothing.py::test_collections_that_no_page_counts_are_named""",
        "modules beside the application's tests": """
            test_a_hostile_source_gains_nothing.py::test_modules_in_the_folder_of_a_run_are_not_imported_by_the_applications_tests""",
        "a redacted value in an expression's error": """
            test_schema_expressions.py::test_an_expression_that_fails_names_no_redacted_value
            ::test_a_reason_names_no_redacted_value_that_the_language_escapes
            ::test_what_a_field_contradicts_its_document_with_is_shown_redacted""",
        "secrets in lines of the application's log": "test_cutover_logs.py::test_no_line_of_a_log_shows_a_secret",
        "names that call people in chats": """
            test_notices.py::test_names_in_a_notice_call_nobody_and_make_no_link_in_a_chat ::test_a_bare_host_makes_no_link""",
        "a pipe in place of an index file": """
            test_no_special_file_holds_us.py::test_each_file_of_a_source_is_read_past_or_refused_in_one_line
            ::test_a_pipe_in_place_of_an_index_file_holds_nobody""",
        "links to any file, and to files without an end": """
            test_no_special_file_holds_us.py::test_no_file_behind_a_link_is_copied
            ::test_an_index_folder_that_is_a_link_brings_its_index_only_and_to_its_size""",
        "other files than were proven, in a shipment": """
            test_index_files_are_shipped.py::test_a_list_that_names_other_files_is_damaged
            ::test_a_copy_that_was_changed_since_it_was_proven_becomes_no_target
            test_places_are_proven_first.py::test_an_index_folder_that_this_run_did_not_bring_is_refused""",
        "losses that a backup hides, backups that stand for others, and two places of one collection": """
            test_backup_losses.py::test_a_backup_that_lacks_vectors_is_kept_named_and_fails ::test_an_old_backup_is_kept
            ::test_a_prune_keeps_the_last_whole_backup_while_newer_ones_are_incomplete ::test_a_damaged_backup_stands_for_none
            ::test_two_places_of_one_collection_are_refused_in_one_line ::test_a_prune_takes_no_whole_backup_for_another
            ::test_a_backup_of_other_collections_satisfies_no_check ::test_a_backup_of_another_place_satisfies_no_check""",
        "links, hard links and mounts in a target": """
            test_places_are_proven_first.py::test_a_rollback_cleans_no_target_that_leads_into_the_source
            test_rollback.py::test_a_source_that_the_removal_reached_is_named
            test_places_are_proven_first.py::test_a_target_through_which_another_place_would_be_written_is_refused
            ::test_a_folder_of_the_source_mounted_in_a_target_is_refused
            ::test_a_target_that_is_exchanged_between_the_look_and_the_end_is_named
            ::test_a_source_through_which_another_place_would_be_written_is_not_mended
            test_directories_of_snapshots.py::test_a_folder_that_becomes_a_link_during_the_request_is_named""",
        "triggers and views in the database": """
            test_a_hostile_source_gains_nothing.py::test_code_in_a_database_is_never_run
            test_rescue_of_damaged_directories.py::test_code_under_another_type_is_not_run_either
            test_what_cannot_be_read_is_no_answer.py::test_a_schema_that_is_no_utf8_is_refused
            ::test_uuids_that_cannot_be_read_are_not_taken_for_none ::test_a_table_that_cannot_be_asked_hides_no_value_in_others
            ::test_only_a_database_whose_collections_were_counted_is_empty""",
        "a collection of Chroma 0.3 beside a database with the same ids": """
            test_source_layout_0_3.py::test_a_chunk_of_0_3_was_taken_over_only_where_its_collection_lists_it""",
    },
    "server": {
        "a small answer that becomes a large one": """
            test_a_hostile_server_is_bounded.py::test_each_kind_of_request_has_a_ceiling_that_fits
            ::test_a_small_answer_that_becomes_a_large_one_is_not_read_to_its_end
            ::test_a_coding_that_was_not_asked_for_is_refused""",
        "an error of megabytes": "test_a_hostile_server_is_bounded.py::test_an_error_of_megabytes_is_looked_at_at_once",
        "other chunks than were asked for": """
            test_a_hostile_server_is_bounded.py::test_an_answer_with_other_chunks_than_were_asked_for_is_one_of_our_errors""",
        "pages and patience without end": """
            test_a_hostile_server_is_bounded.py::test_pages_without_end_are_ended_by_what_the_server_counts
            ::test_a_server_that_asks_for_patience_without_end_is_given_up""",
        "one server under two addresses": """
            test_a_hostile_source_gains_nothing.py::test_one_server_under_two_addresses_is_no_target
            ::test_a_directory_that_the_target_serves_is_no_source ::test_two_folders_with_one_file_are_one_place""",
        "JSON that is nested deeply": "test_a_hostile_server_is_bounded.py::test_deep_json_is_no_answer",
        "answers and requests that trickle": """
            test_door_answers.py::test_a_trickle_ends_at_the_time_limit
            test_a_hostile_server_is_bounded.py::test_a_server_that_takes_a_body_slowly_is_given_up""",
        "another charset, and pages in place of JSON": """
            test_door_answers.py::test_a_header_that_names_another_charset_changes_no_text
            ::test_an_answer_that_is_no_json_is_one_line""",
        "a redirect to another host": """
            test_a_hostile_server_is_bounded.py::test_an_answer_of_millions_of_empty_lists_is_not_read_as_json
            test_notices.py::test_a_redirect_of_a_webhook_is_not_followed_with_its_secrets
            test_a_hostile_server_is_bounded.py::test_a_redirect_is_not_followed_with_the_secrets""",
        "errors that repeat the secret": """
            test_secrets_of_files_and_folders.py::test_the_beginning_of_a_secret_is_not_shown_where_a_text_is_cut
            ::test_every_value_of_a_key_that_stands_more_than_once_is_known
            test_evidence_secrets.py::test_a_secret_with_some_characters_escaped_is_neither_shown_nor_kept
            ::test_what_stands_before_a_secret_does_not_hide_it ::test_a_text_of_escapes_alone_is_read_in_one_pass
            ::test_what_a_server_repeats_is_shown_without_it ::test_no_text_shows_any_writing_of_a_secret
            ::test_no_byte_holds_a_secret_that_the_server_answers_with""",
    },
    "writers beside the fence": {
        "path tricks and other methods": "test_fence_nginx.py::test_no_path_gets_a_write_through",
        "smuggled requests": "test_fence_nginx.py::test_no_request_is_smuggled_behind_another",
        "a second server in the same nginx": """
            test_fence_nginx.py::test_a_listener_that_leads_to_the_source_in_a_roundabout_way_is_asked
            test_fence_ways_round.py::test_a_way_round_the_fence_is_refused ::test_a_stream_is_a_way_round_too
            ::test_where_only_a_request_decides_is_said""",
        "a fence with a hole": "test_fence_nginx.py::test_a_fence_with_a_hole_fails_and_what_got_through_is_removed",
        "workers of the old configuration": """
            test_fence_nginx.py::test_a_write_in_flight_is_waited_for
            ::test_workers_that_do_not_end_are_no_fence_and_all_is_put_back""",
        "a write that the log of writes does not show as the server took it": """
            test_what_is_read_behind_the_fence.py::test_a_write_is_brought_over_however_its_client_spells_the_collection
            ::test_whatever_a_server_took_is_in_the_log_or_makes_it_doubted
            ::test_lines_that_nginx_lost_on_a_full_disk_make_every_collection_be_read
            ::test_ids_that_stand_twice_in_a_body_are_not_known""",
        "a writer while a configuration file is changed": """
            test_no_line_of_a_configuration_file_is_lost.py::test_a_line_written_while_the_file_is_changed_is_not_lost
            ::test_a_line_written_while_the_change_is_taken_back_is_not_lost ::test_a_line_of_a_slow_writer_is_not_lost
            ::test_a_file_that_stays_open_is_not_changed ::test_of_many_changes_beside_a_busy_writer_no_line_is_lost""",
    },
    "operator": {
        "orders to a local cluster of Dask": "test_workers_of_dask.py::test_nobody_else_gives_orders_to_a_local_cluster",
        "modules and links in the folder of Dask": """
            test_workers_of_dask.py::test_a_local_cluster_takes_nothing_from_a_folder_that_others_made
            ::test_a_worker_that_imports_from_a_folder_of_others_is_refused""",
        "secrets on their way to workers": "test_workers_of_dask.py::test_an_order_holds_references_and_absolute_paths",
        "an expectation that is empty or a pattern": """
            test_backup_losses.py::test_an_expectation_that_is_no_digest_is_refused
            test_the_log_counts_the_seals.py::test_only_a_whole_digest_is_an_expected_one_for_the_plain_commands""",
        "an output inside a source": """
            test_backup_losses.py::test_nothing_is_exported_or_restored_into_the_folder_of_the_source
            ::test_a_relative_source_of_a_snapshot_is_where_it_was_taken""",
        "an end of a run that frees its snapshots": """
            test_snapshots_command.py::test_an_end_that_no_signed_line_of_its_log_names_frees_no_snapshot""",
        "a planted cache of vectors": "test_reembedding_of_collections.py::test_a_cache_that_others_may_have_planted_is_refused",
        "a folder of theirs under a name of ours": """
            test_snapshots_without_a_migration.py::test_what_is_exported_and_imported_again_is_the_same
            test_after_the_cutover.py::test_a_closeout_writes_the_record_cleans_and_leaves_the_way_back_open
            test_places_are_proven_first.py::test_a_folder_in_a_new_target_that_only_has_a_name_of_ours_stays""",
        "a cutover first, the approvals later": """
            test_a_step_that_needs_approvals_had_them_before.py::test_a_cutover_that_was_approved_afterwards_is_named
            ::test_a_fence_that_was_approved_afterwards_is_named ::test_a_cutover_that_was_set_aside_is_named
            ::test_a_cutover_that_the_log_leaves_out_is_seen_by_its_seal
            ::test_files_that_were_changed_without_approval_are_a_cutover_though_the_step_failed
            ::test_a_step_that_began_and_was_refused_is_no_cutover ::test_a_no_go_at_the_time_is_named_though_a_go_followed
            ::test_approvals_of_an_earlier_review_are_named_though_new_ones_followed
            ::test_an_approval_that_nobody_gave_and_that_was_set_aside_is_named""",
        "an approval that is none": """
            test_a_step_that_needs_approvals_had_them_before.py::test_an_approval_that_was_set_aside_counts_by_the_list_of_its_seal
            ::test_a_list_of_signers_that_another_replaced_still_judges_what_was_signed_under_it
            ::test_one_person_s_approval_under_the_names_of_others_counts_for_none_of_them
            ::test_a_file_of_another_form_below_signoffs_is_no_approval
            ::test_a_go_that_is_recorded_again_after_a_no_go_counts_for_nothing
            ::test_what_was_marginal_and_accepted_afterwards_is_named
            ::test_a_key_that_had_expired_when_its_statement_was_sealed_approves_nothing""",
        "a pipe or a device that is named; another rehearsal, time or user in run.json": """
            test_no_special_file_holds_us.py::test_what_the_parameters_name_holds_no_command
            ::test_a_secret_in_what_is_no_plain_file_is_refused_in_one_line ::test_no_file_of_a_run_that_is_a_pipe_holds_status
            test_what_binds_a_run_is_what_its_seals_say.py::test_what_run_json_says_that_a_run_is_is_what_the_seals_say""",
        "a line of the log without an end": """
            test_the_log_counts_the_seals.py::test_what_somebody_adds_without_an_end_proves_nothing_and_is_named_for_ever
            test_audit_log.py::test_a_kill_in_the_middle_of_a_line_and_of_the_one_that_closes_it_breaks_no_log""",
        "thousands of seals": """
            test_what_binds_a_run_is_what_its_seals_say.py::test_what_verify_does_grows_with_the_number_of_seals_and_not_with_its_square""",
        "lines of approvals in another order than their statements": """
            test_every_act_is_judged.py::test_a_statement_that_says_that_it_was_given_after_the_act_approves_nothing
            ::test_a_dry_run_by_hand_is_no_cutover_unless_its_result_says_another
            ::test_a_cutover_that_failed_may_have_acted_though_no_line_says_so
            ::test_step_20_by_hand_waits_for_the_approval_of_the_dry_run
            ::test_another_principal_in_the_list_outside_is_named_by_both""",
        "another limit, or words of one's own, in a statement": """
            test_every_act_is_judged.py::test_a_statement_that_says_other_than_ours_is_named_by_both_verifiers
            ::test_a_statement_that_says_other_than_ours_is_not_recorded""",
        "a key that a planted file lends": """
            test_nothing_foreign_is_sealed.py::test_a_file_that_is_no_seal_lends_its_key_to_no_line""",
        "a run that was received": """
            test_nothing_foreign_is_sealed.py::test_a_run_that_was_received_is_taken_by_no_notebook_and_names_no_secrets""",
        "an act that the log hides": """
            test_every_act_is_judged.py::test_a_second_cutover_without_its_line_is_one_too
            ::test_a_line_whose_statement_is_nowhere_approves_nothing ::test_lines_on_seals_that_are_missing_or_late_move_no_act
            ::test_a_seal_that_is_begun_again_after_it_was_set_is_named ::test_one_key_for_two_roles_is_named_at_whichever_gate
            ::test_parameters_that_were_sealed_between_approval_and_cutover_are_named
            ::test_a_no_go_that_was_given_later_stands_though_a_go_was_recorded_last
            ::test_a_line_of_another_role_than_its_statement_is_named
            ::test_a_fence_that_was_not_approved_is_named_however_its_step_ended
            ::test_a_result_that_was_set_aside_twice_is_gone ::test_a_statement_whose_name_has_another_time_is_named""",
        "another thing than was approved": """
            test_a_step_that_needs_approvals_had_them_before.py::test_a_cutover_with_other_parameters_than_were_approved_is_named_though_they_were_put_back
            ::test_a_cutover_behind_results_that_were_not_reviewed_is_named
            ::test_a_line_that_says_dry_run_excuses_no_cutover_whose_result_says_another""",
        "an order for many that was edited": """
            test_many_databases_in_one_order.py::test_an_order_that_something_else_wrote_begins_nothing
            test_fleets.py::test_an_order_that_something_else_wrote_begins_and_signs_nothing
            ::test_a_run_that_does_not_name_the_fleet_is_not_signed_with_it ::test_a_begun_row_that_is_gone_is_named
            ::test_a_row_taken_out_is_named ::test_other_parameters_and_runs_are_named ::test_texts_do_not_act_on_the_terminal""",
        "a row of a fleet that does something else than was ordered": """
            test_the_table_of_a_fleet_is_checked_first.py::test_a_row_is_begun_by_hand_with_the_file_of_its_row_only
            test_fleets.py::test_a_row_that_does_something_else_than_was_ordered_is_named_and_left_alone""",
        "a GO on a NO-GO, and seals with better verdicts": """
            test_a_step_that_needs_approvals_had_them_before.py::test_a_go_on_a_no_go_is_not_recorded_and_named_where_it_was
            ::test_a_seal_that_says_other_verdicts_than_the_results_is_named""",
        "fewer roles below seals that say the old ones": """
            test_what_binds_a_run_is_what_its_seals_say.py::test_fewer_roles_below_seals_that_say_what_the_first_one_said_are_named
            ::test_another_target_below_seals_that_say_the_old_one_is_named
            ::test_a_parameter_that_was_unset_at_the_first_seal_is_not_set_unseen""",
        "later seals that say less": "test_what_binds_a_run_is_what_its_seals_say.py::test_a_later_seal_that_says_less_is_named",
        "another file between the check and the archive": """
            test_evidence_stays_where_it_is.py::test_what_changes_after_the_check_is_not_archived
            ::test_the_copy_that_is_archived_lies_where_nobody_else_can_exchange_it""",
        "an older copy in place of the folder": """
            test_evidence_stays_where_it_is.py::test_an_older_copy_of_the_folder_is_named_where_the_newest_seal_is_known""",
        "a log and seals of any types, or of no key": """
            test_the_log_counts_the_seals.py::test_forged_lines_behind_a_log_do_not_hold_verify
            ::test_a_log_that_nobody_signed_may_hold_any_types ::test_a_line_without_an_action_and_facts_is_no_line_of_the_log
            ::test_a_seal_with_parts_of_another_type_is_named_with_all_else
            test_evidence_stays_where_it_is.py::test_a_chain_that_was_invented_is_unsigned_and_fits_nothing_that_was_kept_elsewhere""",
        "sixty forgeries of the archive": "test_sixty_forgeries_are_named.py::test_each_forgery_is_named",
        "flip a bit": """
            test_evidence_verify.py::test_one_bit_in_any_file_is_named ::test_the_plain_commands_find_the_same""",
        "delete a file": "test_evidence_verify.py::test_any_file_taken_away_is_named",
        "add a file": "test_evidence_verify.py::test_a_file_that_is_added_is_named",
        "reorder the log": """
            test_evidence_verify.py::test_two_audit_lines_in_another_order
            ::test_audit_trusts_no_key_that_only_an_untrusted_seal_names ::test_audit_names_a_line_that_no_trusted_key_signed
            ::test_audit_names_a_log_that_is_not_as_sealed test_audit_log.py::test_the_first_broken_line_is_named""",
        "links in place of files": """
            test_evidence_verify.py::test_a_link_in_place_of_a_file_is_named
            test_audit_log.py::test_nothing_is_written_through_a_log_that_is_no_plain_file
            test_restore_exactly.py::test_a_lock_that_is_no_plain_file_is_refused_and_nothing_is_created
            test_runner_keeps_runs_apart.py::test_a_lock_that_is_no_plain_file_is_refused_in_one_line
            test_secrets_of_files_and_folders.py::test_an_archive_takes_no_link""",
        "a forged seal": """
            test_evidence_verify.py::test_a_seal_whose_content_was_forged_does_not_follow
            test_evidence_custody.py::test_a_seal_without_its_runner_s_signature_is_named
            ::test_a_new_runner_key_in_the_middle_of_a_run_is_named""",
        "all seals made again": """
            test_evidence_custody.py::test_seals_made_again_with_another_key_do_not_fit_what_was_noted_elsewhere
            ::test_seals_made_again_with_the_same_key_do_not_fit_the_digest_that_was_noted
            test_the_log_counts_the_seals.py::test_seals_that_were_made_again_below_a_log_that_stayed_are_named
            ::test_a_seal_whose_line_was_killed_is_named_by_the_next_command""",
        "tampering that the toolkit seals itself": """
            test_evidence_custody.py::test_fewer_roles_by_an_edit_of_the_parameters_are_never_sealed
            ::test_an_edit_before_the_first_seal_is_never_sealed
            ::test_an_edit_of_both_files_before_the_first_seal_is_never_sealed
            ::test_a_change_between_two_seals_that_the_log_does_not_name_is_a_problem
            test_evidence_verify.py::test_a_changed_file_is_never_sealed_over""",
        "fewer approvals, by an edit and a forged line of the log": """
            test_evidence_custody.py::test_fewer_roles_are_never_sealed_whatever_the_log_says
            ::test_who_has_to_sign_is_changed_by_no_command_after_the_first_seal ::test_a_cutover_that_nobody_had_to_sign_is_named
            test_cutover_step.py::test_a_cutover_that_nobody_had_to_sign_does_not_say_that_it_was_signed""",
        "a target that is changed between validation and cutover": """
            test_cutover_step.py::test_a_target_that_changed_since_it_was_validated_is_not_cut_over
            ::test_a_target_whose_settings_changed_since_it_was_validated_is_not_cut_over
            ::test_a_target_that_changes_while_the_source_is_read_is_not_cut_over
            ::test_what_a_client_would_build_by_a_changed_schema_is_seen_before_the_cutover
            ::test_a_target_that_somebody_has_open_is_not_cut_over
            test_writers_until_the_cutover.py::test_a_chunk_that_somebody_adds_to_the_target_behind_its_comparison_stops_the_switch""",
        "a collection made anew with other indexes": """
            test_source_changes.py::test_a_collection_made_anew_with_other_indexes_has_changed
            ::test_a_source_that_lists_more_fields_or_is_of_another_version_has_no_other_indexes""",
        "a chunk of another shard, to be replayed": "test_shards.py::test_a_rollback_leaves_chunks_of_other_shards_to_a_person",
        "reports or workspace inside a source": """
            test_nothing_is_written_inside_a_database.py::test_a_folder_inside_the_source_is_refused_before_anything_is_made""",
        "a production run that becomes a rehearsal": """
            test_nothing_foreign_is_sealed.py::test_what_a_run_is_never_changes_after_the_first_seal""",
        "files changed, dropped or taken away before the seal": """
            test_what_was_written_is_what_is_sealed.py::test_a_file_that_changed_between_the_end_of_a_step_and_the_seal_is_not_sealed
            ::test_a_file_that_somebody_dropped_is_not_sealed ::test_what_a_killed_step_left_is_set_aside_and_named
            ::test_files_of_a_step_at_work_wait_for_a_later_seal
            ::test_an_edit_of_a_run_that_the_toolkit_never_changed_is_not_sealed
            ::test_an_empty_folder_among_the_seals_is_named_by_both""",
        "an edit of run.json or of the parameters between two commands": """
            test_what_was_written_is_what_is_sealed.py::test_an_edit_between_two_commands_is_not_taken_over
            ::test_a_line_that_another_key_signed_names_no_edit ::test_a_change_that_was_killed_before_its_file_is_repeated""",
        "a log that is gone, or cut short": """
            test_what_was_written_is_what_is_sealed.py::test_a_run_without_its_log_is_not_taken_for_one_of_an_older_toolkit
            ::test_a_seal_says_how_long_the_log_was""",
        "files exchanged between their writing and their digest": """
            test_runner_distrusts_papermill.py::test_the_log_names_a_notebook_as_the_runner_wrote_it
            ::test_the_log_names_a_result_and_a_figure_as_they_were_written ::test_a_list_is_named_as_it_was_streamed
            test_nothing_foreign_is_sealed.py::test_a_page_that_is_exchanged_while_the_browser_has_it_is_not_printed""",
        "parameters changed beside a run that is at work": """
            test_command_usage.py::test_nothing_is_changed_beside_a_run_that_is_at_work""",
        "results and pages of nobody": """
            test_nothing_foreign_is_sealed.py::test_a_result_of_a_step_that_never_ran_is_not_sealed
            ::test_a_page_that_lay_there_before_is_neither_kept_nor_sealed""",
        "a list of signers exchanged or put there": """
            test_nothing_foreign_is_sealed.py::test_a_list_that_lets_others_sign_is_taken_only_by_a_resume_that_names_it
            ::test_a_list_of_signers_that_somebody_put_there_is_not_sealed""",
        "forged lines of the log, chained": """
            test_nothing_foreign_is_sealed.py::test_a_line_that_the_runner_did_not_sign_proves_no_result_page_or_drill
            ::test_a_line_that_the_runner_did_not_sign_neither_records_a_statement_nor_names_a_change
            ::test_a_signed_line_of_another_run_is_none_of_this_one""",
        "other parameters, decisions, code and signers between seals": """
            test_nothing_foreign_is_sealed.py::test_run_json_and_the_log_agree_on_parameters
            ::test_another_decision_other_code_and_other_signers_between_two_seals_are_named""",
        "lines that can be read in two ways": """
            test_nothing_foreign_is_sealed.py::test_a_line_that_says_two_things_is_no_line_of_the_log""",
        "a closeout that changed after its approval, for plain commands": """
            test_nothing_foreign_is_sealed.py::test_the_plain_commands_judge_the_closeout""",
        "giant, deep and endless files, and paths that lead out, in a judged folder": """
            test_a_judged_folder_is_only_read.py::test_a_hostile_file_is_named_in_one_line_with_all_else_that_is_wrong
            ::test_a_seal_that_is_nested_or_giant_is_named ::test_nothing_that_the_folder_names_is_opened
            ::test_no_folder_is_opened_because_a_result_names_it ::test_a_run_is_judged_where_its_schema_is_not""",
        "a NO-GO during the cutover, and a statement that was never recorded": """
            test_nothing_foreign_is_sealed.py::test_a_no_go_that_comes_while_the_cutover_reads_stops_it
            ::test_no_decision_is_recorded_between_the_last_look_at_it_and_the_begin_of_the_cutover
            ::test_a_statement_that_was_never_recorded_opens_no_gate""",
        "a sealed result replaced, the old one below earlier/": """
            test_evidence_custody.py::test_a_sealed_result_is_not_replaced_by_a_copy_below_earlier
            ::test_the_closeout_is_signed_where_the_parameters_ask_for_it""",
        "a NO-GO that is hidden below earlier/, or recorded after the GO": """
            test_evidence_custody.py::test_a_no_go_that_was_recorded_after_the_go_is_seen_by_plain_commands_too
            ::test_every_no_go_is_named_and_none_is_lost_below_earlier""",
        "a run put among those of a group": """
            test_evidence_custody.py::test_a_group_signs_for_its_own_runs_only
            ::test_a_signer_sees_what_is_signed_before_it_is""",
        "a result that the notebook does not show": "test_evidence_verify.py::test_a_result_that_its_notebook_does_not_show",
        "planted bytecode": "test_evidence_for_other_tools.py::test_bytecode_that_is_not_of_its_source_stops_the_seal",
        "an archive of what does not verify": "test_evidence_custody.py::test_what_does_not_verify_is_not_archived",
    },
    "signer": {
        "replay of a signature": """
            test_evidence_verify.py::test_a_signature_of_another_run
            test_decision_signoffs.py::test_a_signature_moved_between_statements
            ::test_a_sealed_file_changed_afterwards_voids_the_approvals_and_is_named""",
        "the key of another role": """
            test_evidence_verify.py::test_a_signature_in_the_place_of_another_roles
            test_decision_signoffs.py::test_another_roles_key_signs_nothing""",
        "one key, or one person, for all roles": """
            test_evidence_custody.py::test_one_key_signs_for_one_role_at_all_gates ::test_one_key_signs_for_one_role
            test_decision_signoffs.py::test_two_lines_that_share_a_principal_are_one_person
            test_evidence_custody.py::test_principals_are_those_of_the_list_outside""",
        "a GO of the future, or an older one, over a NO-GO": """
            test_decision_signoffs.py::test_a_no_go_that_was_recorded_later_blocks_whatever_time_it_bears
            ::test_a_go_of_the_future_is_not_recorded_and_a_no_go_is
            ::test_an_older_go_is_not_recorded_over_a_no_go_and_does_not_count_without_the_log""",
        "another name than that of the key": """
            test_evidence_for_other_tools.py::test_the_name_shown_is_that_of_the_key_and_not_what_a_signer_calls_themselves""",
        "an expired key": """
            test_evidence_verify.py::test_an_expired_key
            test_evidence_custody.py::test_a_key_that_has_expired_records_nothing_under_an_earlier_time""",
        "a revoked key": """
            test_what_binds_a_run_is_what_its_seals_say.py::test_a_key_that_the_list_outside_revokes_signs_nothing
            test_decision_signoffs.py::test_a_revoked_key_signs_nothing_and_a_key_taken_from_the_list_counts_no_longer""",
        "a list without the lines that kept others from signing": """
            test_decision_signoffs.py::test_a_list_without_some_of_its_lines_lets_no_key_sign_what_it_could_not
            ::test_a_list_with_what_others_take_for_the_end_of_a_line_is_refused_in_one_line""",
        "forged statements": """
            test_decision_signoffs.py::test_forged_statements ::test_a_no_go_taken_away_leaves_the_gate_shut
            ::test_the_keys_of_a_rehearsal_are_refused_by_a_production_run""",
    },
    "clients at the target of a rollback": {
        "a collection made anew under a name of the run": """
            test_a_collection_made_anew_is_anothers.py::test_a_rollback_removes_what_the_run_made_and_leaves_what_was_made_anew
            ::test_a_rollback_of_a_run_that_was_given_up_leaves_its_successors_data
            ::test_a_catch_up_neither_drops_nor_writes_what_was_made_anew
            ::test_a_restore_goes_on_in_its_own_collection_and_never_in_one_made_anew""",
        "another setting of a collection, or a collection made anew": """
            test_rollback.py::test_what_clients_did_to_a_collection_itself_is_exported_and_waits_for_a_person
            ::test_what_clients_do_to_a_collection_after_the_last_look_keeps_it
            ::test_a_collection_that_clients_made_anew_is_exported_waits_for_a_person_and_stays""",
        "a change of the source after its proof, of a schema, and of a field under its old name": """
            test_rollback_parts.py::test_what_clients_write_to_the_source_after_the_restart_stays ::test_a_lost_replay_is_repeated
            ::test_step_22_writes_over_nothing_that_clients_wrote_to_the_target ::test_a_second_replay_brings_nothing_back
            ::test_a_cutover_that_was_taken_back_before_anybody_wrote_is_set_aside ::test_no_repair_touches_what_clients_wrote
            ::test_what_clients_made_before_a_cutover_was_taken_back_is_theirs_after_the_next_one
            ::test_a_chunk_that_changed_at_both_sides_since_the_proof_is_listed_and_left_alone
            test_writes_return_through_the_schema.py::test_a_schema_that_was_edited_since_replays_nothing
            ::test_names_are_led_back_through_chains_and_shifts ::test_what_is_open_is_not_reverted
            ::test_two_fields_that_are_one_at_the_source_are_listed_and_nothing_of_them_is_replayed""",
        "a chunk moved between two collections": """
            test_rollback_parts.py::test_a_chunk_that_clients_moved_to_another_collection_of_the_target_is_not_deleted_at_the_source""",
        "a write between the last look and the removal": """
            test_rollback_parts.py::test_what_clients_write_until_a_chunk_is_removed_is_exported_and_stays""",
    },
    "thief of the folder": {
        "a line that a digest was pushed, behind what was sealed; a planted first seal": """
            test_nothing_foreign_is_sealed.py::test_no_line_counts_behind_the_sealed_part_of_a_log_that_nobody_signs
            test_what_binds_a_run_is_what_its_seals_say.py::test_a_planted_seal_makes_no_run_one_of_an_older_toolkit""",
        "one giant line": """
            test_what_binds_a_run_is_what_its_seals_say.py::test_one_giant_line_behind_the_log_does_not_hold_verify
            ::test_one_long_line_in_a_list_of_signers_is_refused_at_once""",
        "a secret in any writing": """
            test_evidence_secrets.py::test_a_value_far_behind_the_beginning_of_a_packed_file_is_found
            ::test_a_file_that_becomes_too_large_is_named_as_not_searched ::test_every_writing_is_found_in_the_middle_of_bytes
            ::test_the_name_of_a_file_is_searched_too ::test_a_run_that_holds_a_secret_is_not_sealed_until_it_is_gone""",
        "parts of a secret header": """
            test_evidence_secrets.py::test_each_secret_part_of_a_header_is_known
            ::test_a_password_with_letters_that_are_no_utf_8_is_known
            ::test_the_words_of_a_passphrase_are_none_each_for_itself""",
        "keys that the driver of a storage finds by itself": """
            test_parameters_secrets.py::test_keys_in_a_file_of_google_are_neither_shown_nor_sealed
            ::test_keys_that_the_driver_of_azure_finds_are_neither_shown_nor_sealed""",
        "secrets of edited files": """
            test_secrets_of_files_and_folders.py::test_every_secret_of_an_edited_file_is_known
            ::test_a_secret_of_a_compose_file_is_known_however_yaml_writes_it
            ::test_a_folded_secret_is_known_as_it_is_meant_and_as_it_is_written
            ::test_a_value_in_backticks_in_pieces_or_behind_a_default_is_known
            ::test_a_key_of_a_secret_is_known_however_it_is_written ::test_a_password_inside_of_a_value_is_known
            ::test_a_command_that_prints_its_settings_leaves_no_secret
            ::test_a_restart_shows_no_secret_that_came_into_a_file_since_the_process_began
            ::test_a_new_value_that_is_a_secret_is_given_by_reference ::test_a_diff_shows_no_token_and_no_comment""",
        "tokens in URLs": """
            test_secrets_of_files_and_folders.py::test_urls_are_shown_without_what_they_carry
            ::test_a_token_in_a_parameter_is_refused_unseen ::test_a_token_in_a_parameter_of_an_older_run_is_not_shown
            test_evidence_secrets.py::test_user_info_in_a_url_is_refused_and_not_repeated
            test_notices.py::test_no_byte_of_the_run_holds_a_token_and_a_seal_looks_for_it""",
        "a secret that is unset when a step is sealed": """
            test_secrets_of_files_and_folders.py::test_a_secret_that_is_unset_at_a_steps_seal_stops_it""",
        "folders that others can read": "test_secrets_of_files_and_folders.py::test_folders_of_a_run_are_their_owners_alone",
        "a seal that nobody signed, behind the last one": """
            test_evidence_custody.py::test_nothing_is_built_on_a_seal_that_the_runner_did_not_sign
            ::test_a_seal_whose_run_has_no_plain_id_is_none""",
        "a log of another folder of the same name": """
            test_evidence_stays_where_it_is.py::test_the_log_of_another_run_of_the_same_name_is_refused_and_named
            ::test_the_log_of_another_folder_of_snapshots_proves_nothing
            ::test_a_line_that_nobody_has_proven_is_not_called_signed""",
        "a traceback that holds a secret": """
            test_evidence_stays_where_it_is.py::test_a_traceback_shows_no_secret_and_nobody_else_can_read_it""",
        "a log beside the snapshots, written again as a whole": """
            test_snapshots_command.py::test_a_log_that_was_written_again_as_a_whole_frees_no_snapshot""",
        "a snapshot rewritten where it lies, manifest and all": """
            test_snapshots_are_what_was_sealed.py::test_a_forged_snapshot_is_neither_restored_nor_called_whole
            ::test_the_run_names_it_and_keeps_it_as_evidence
            ::test_a_retention_that_was_shortened_in_the_manifest_removes_nothing
            ::test_a_rollback_writes_nothing_of_it_into_the_source ::test_nothing_is_migrated_or_replayed_from_it
            ::test_a_forged_result_does_not_vouch_for_it_once_it_is_sealed
            ::test_another_snapshot_in_its_place_is_none_of_the_run ::test_bytes_that_change_after_the_proof_are_not_read
            ::test_elsewhere_it_is_said_that_nothing_vouches_for_it""",
        "a snapshot renamed as if a prune had been killed": """
            test_snapshots_command.py::test_what_somebody_renamed_as_a_prune_does_is_not_removed
            ::test_a_log_of_another_key_begins_no_prune""",
        "an interrupted export that somebody finished or renamed": """
            test_snapshots_without_a_migration.py::test_an_interrupted_export_with_a_forged_journal_is_not_gone_on_with
            ::test_an_interrupted_export_with_a_forged_manifest_is_not_called_whole
            ::test_a_snapshot_that_was_renamed_as_an_export_is_not_deleted
            ::test_an_interrupted_export_with_a_link_in_it_is_not_gone_on_with
            ::test_a_journal_names_no_other_file_than_an_export_writes""",
        "a ledger that opens another's collection to a restore": """
            test_restore_exactly.py::test_a_ledger_that_others_wrote_opens_no_collection_to_a_restore
            ::test_a_ledger_that_is_a_pipe_is_one_line""",
        "objects of a storage changed, exchanged or named as something else": """
            test_snapshots_in_object_storage.py::test_what_is_brought_is_compared_before_it_is_used
            ::test_verify_reads_every_byte_in_the_storage_and_names_a_changed_object
            ::test_a_manifest_that_was_exchanged_is_named
            ::test_a_snapshot_that_was_exchanged_whole_in_the_storage_is_not_restored
            ::test_names_in_the_storage_lead_nowhere_else
            test_directories_of_snapshots.py::test_a_manifest_in_the_storage_that_says_nothing_is_no_recent_snapshot
            ::test_one_bad_manifest_is_a_row_and_the_others_are_listed
            test_other_content_than_was_written.py::test_a_manifest_with_a_value_of_another_type_is_one_line
            ::test_what_is_no_manifest_is_one_line test_directories_of_snapshots.py::test_a_pipe_or_a_link_is_no_object
            test_staging_in_a_storage.py::test_a_damaged_or_missing_object_is_one_line_and_a_retry_stages_again
            ::test_a_storage_that_forgets_what_was_put_there_is_noticed_before_the_index
            test_directories_of_snapshots.py::test_a_storage_that_drips_is_not_waited_for""",
        "an upload broken off, so that a half snapshot counts": """
            test_snapshots_in_object_storage.py::test_a_killed_backup_counts_for_nothing_until_the_same_command_has_ended_it
            ::test_a_lost_connection_ends_in_one_line_and_the_same_command_goes_on
            ::test_a_file_in_pieces_that_never_ended_is_no_file_and_is_removed_later""",
        "a planted file that sends snapshots elsewhere": """
            test_snapshots_in_object_storage.py::test_only_this_workspace_says_where_a_storage_is
            test_staging_in_a_storage.py::test_an_index_leads_to_no_storage_that_this_workspace_did_not_write
            test_directories_of_snapshots.py::test_a_storage_with_a_link_in_it_is_refused
            ::test_a_storage_has_no_folder_in_or_around_a_database""",
        "credentials of a storage in files and messages": """
            test_snapshots_in_object_storage.py::test_a_run_keeps_its_snapshot_in_the_storage_and_its_secrets_nowhere
            ::test_wrong_credentials_are_one_line_before_the_source_is_read
            test_directories_of_snapshots.py::test_an_error_of_a_storage_is_not_repeated
            ::test_names_and_manifests_that_repeat_a_credential_are_not_taken""",
        "a storage that lies about lengths": """
            test_directories_of_snapshots.py::test_an_object_that_is_longer_than_its_storage_said_ends_there
            ::test_a_list_or_an_error_of_a_storage_is_read_to_its_ceiling""",
        "a prune of what others put into a shared storage; a part that is replaced": """
            test_snapshots_in_object_storage.py::test_an_id_that_another_machine_gave_is_taken
            ::test_the_next_backup_sends_what_changed_and_pruning_frees_what_no_other_needs
            ::test_what_was_begun_and_not_gone_on_with_is_removed_after_its_retention
            test_staging_in_a_storage.py::test_a_prune_removes_what_nobody_names_and_nothing_else
            test_directories_of_snapshots.py::test_a_prune_leaves_what_another_machine_put_under_the_same_id
            ::test_a_prune_leaves_what_took_the_place_of_its_own ::test_uploads_of_other_applications_are_not_taken_for_ours
            test_snapshots_without_a_migration.py::test_a_part_that_is_replaced_as_soon_as_it_appears_is_not_recorded""",
        "other times in the manifest of a backup": """
            test_snapshots_without_a_migration.py::test_times_that_somebody_changed_in_a_manifest_count_for_nothing""",
        "an invented run that vouches for a snapshot": """
            test_snapshots_are_what_was_sealed.py::test_a_folder_with_an_invented_result_vouches_for_no_snapshot""",
        "links at temporary names": """
            test_secrets_of_files_and_folders.py::test_a_link_at_a_temporary_name_that_somebody_foresaw_is_not_followed""",
        "runs and snapshots whose names begin alike": """
            test_snapshots_are_what_was_sealed.py::test_a_closeout_removes_exports_of_its_own_run_and_no_id_that_begins_alike
            ::test_a_prune_keeps_what_belongs_to_a_snapshot_whose_name_begins_alike""",
        "secrets over plain http, and TLS that is not verified": """
            test_secrets_of_files_and_folders.py::test_a_connection_that_gives_secrets_away_is_told""",
    },
    "time": {
        "a clock that was set back": """
            test_evidence_custody.py::test_the_time_of_seals_rises
            test_evidence_timestamps.py::test_a_seal_that_claims_a_later_time_than_its_token_is_named""",
        "a token of another authority, or for other bytes": """
            test_evidence_timestamps.py::test_a_token_for_other_bytes_or_of_another_authority_is_named
            ::test_text_beside_the_token_that_nobody_signed_gives_no_time""",
    },
}  # fmt: skip


def attack_of() -> dict[str, tuple[str, str]]:
    """(Attacker, attack) by test, as FILE::TEST below tests/."""
    of = [(who, attack, tests) for who, attacks in ATTACKS.items() for attack, tests in attacks.items()]
    return {test: (who, attack) for who, attack, tests in of for test in _named(tests)}


def _named(tests: str) -> list[str]:
    found, last = list[str](), ""
    for file, _, test in (each.partition("::") for each in tests.split()):
        last = file or last
        found.append(f"{last}::{test}")
    return found


def main(arguments: list[str]) -> int:
    """Run them all; 1 where one broke."""
    tally, tests = Tally(), attack_of()
    code = pytest.main([*(str(ROOT / "tests" / test) for test in tests), *arguments], plugins=[tally])
    print(table(rows := outcomes(tally, tests)))
    return 1 if any(row[2] == BROKE for row in rows) else int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
