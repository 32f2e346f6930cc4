//! One host through its verbs, with real containers: run as root.
#![allow(clippy::unwrap_used, missing_docs)] // A panic is the report.

mod cluster;
mod copy;
#[path = "../engine/harness.rs"]
mod harness;
mod health;
mod services;
mod site;
mod verbs;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::main(tests![
        services::a_service_runs_and_its_output_and_exit_code_come_back,
        services::a_service_that_removes_itself_leaves_nothing,
        services::a_task_that_fails_is_tried_again,
        services::a_killed_task_is_replaced_and_a_stopped_one_is_not,
        services::a_service_is_scaled_and_removed,
        services::services_and_tasks_outlive_the_agent,
        services::a_program_that_is_not_there_is_said,
        services::out_of_memory_is_said,
        verbs::bad_requests_are_refused_with_their_reason,
        verbs::exec_is_like_the_first_process,
        verbs::logs_of_several_tasks_are_one,
        verbs::stats_events_and_lookups_tell_of_running_tasks,
        verbs::an_image_in_use_stays,
        verbs::mounts_and_names_are_in_place,
        verbs::users_are_those_of_the_image,
        copy::files_are_copied_while_a_container_runs_and_after_its_end,
        copy::owners_are_the_container_s_own_also_in_a_user_namespace,
        copy::a_read_only_container_takes_nothing_in,
        health::a_task_is_found_once_a_command_in_it_ends_well,
        health::a_task_that_is_unhealthy_is_ended_failed_and_replaced,
        health::http_and_tcp_are_asked_inside_the_container_s_network,
        health::a_check_that_hangs_is_killed_and_counts_as_failed,
        health::the_image_says_how_it_is_checked_unless_the_task_does,
        health::checks_go_on_when_the_agent_comes_back,
        health::a_task_whose_checks_say_the_same_is_not_told_of_again,
        cluster::a_task_of_the_cluster_is_run_stopped_and_removed,
        cluster::a_task_that_cannot_start_leaves_nothing_but_its_status,
        cluster::many_tasks_start_at_the_same_time,
        cluster::a_stop_that_overtakes_the_start_wins,
    ])
}
