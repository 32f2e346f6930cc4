//! The engine and its shims with real containers: run as root.

#![allow(clippy::unwrap_used)] // A panic is the report; the standard harness, which clippy knows, is not used here.

mod harness;
mod lifecycle;
mod logs;
mod site;
mod streams;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::main(tests![
        lifecycle::output_and_exit_code_are_kept,
        lifecycle::states_are_told_in_order,
        lifecycle::a_signal_reaches_the_process_and_its_end_is_told,
        lifecycle::a_program_that_is_not_there_is_named,
        lifecycle::a_container_that_cannot_be_made_leaves_nothing,
        lifecycle::a_shim_that_cannot_be_started_says_why,
        lifecycle::delete_leaves_nothing,
        lifecycle::a_running_container_is_removed_by_force_only,
        lifecycle::containers_outlive_the_agent,
        lifecycle::an_end_without_the_agent_is_found,
        lifecycle::a_created_container_is_started_by_the_next_agent,
        lifecycle::a_killed_shim_takes_its_container_along,
        lifecycle::a_shim_killed_without_the_agent_is_found,
        lifecycle::signals_for_the_agents_group_do_not_reach_a_shim,
        lifecycle::directories_may_have_long_names,
        lifecycle::what_was_there_before_the_hosts_restart_is_explained,
        lifecycle::an_end_for_lack_of_memory_is_told,
        lifecycle::statistics_are_those_of_the_container,
        streams::standard_input_goes_in_until_it_is_closed,
        streams::without_standard_input_it_is_empty,
        streams::a_terminal_has_the_size_that_is_set,
        streams::output_of_a_process_that_ended_at_once_is_replayed,
        streams::a_replay_and_what_follows_have_neither_gap_nor_double,
        streams::a_slow_reader_gets_everything,
        streams::attaching_to_what_has_ended_is_a_conflict,
        streams::exec_has_its_own_streams_and_exit_code,
        streams::exec_with_a_terminal,
        streams::exec_output_in_bulk_is_exact,
        streams::exec_input_in_bulk_is_exact,
        streams::exec_goes_on_without_its_client,
        streams::exec_in_a_container_that_does_not_run_is_a_conflict,
        streams::exec_of_what_is_not_there_is_named,
        streams::a_signal_to_an_exec,
        streams::a_program_left_in_the_background_does_not_hold_an_exec,
        logs::bytes_that_are_no_text_are_kept,
        logs::a_tail_and_a_time_are_kept_to,
        logs::following_ends_with_the_container,
        logs::following_goes_over_rotations,
        logs::the_log_is_bounded,
    ])
}
