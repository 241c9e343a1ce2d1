//! The list of all proofs, which exists once, and what is made of it.

use crate::conformance::run::Proof;
use crate::conformance::subject::Capability;

/// Gives the list to another macro of this crate, behind what that is to have besides.
#[doc(hidden)]
#[macro_export]
macro_rules! __every_proof {
    ($then:ident $with:tt) => {
        $crate::$then! {
            $with
            every {
                log::l1_an_append_is_one_consecutive_range,
                log::l1_a_refused_append_leaves_no_trace_and_uses_no_sequence,
                log::l1_a_failed_commit_leaves_no_trace_and_uses_no_sequence,
                log::l2_an_append_is_readable_and_published_when_it_returns,
                log::l3_an_append_is_refused_when_its_context_moved,
                log::l3_nothing_after_is_refused_when_something_matches,
                log::l3_of_racing_appends_exactly_one_wins,
                log::l4_what_was_read_once_is_read_again,
                log::l4_what_was_delivered_is_what_was_appended,
                log::l5_bad_input_is_refused_with_the_field_and_the_limit,
                log::l5_a_batch_over_a_limit_is_refused,
                once::l6_a_repeated_append_returns_the_first_result,
                once::l6_a_repetition_does_not_ask_for_its_condition_again,
                once::l6_other_events_under_a_key_are_refused_by_its_name,
                once::l6_of_calls_that_race_one_appends,
                once::l6_a_failed_commit_forgets_its_keys,
                once::l6_a_commit_that_was_reported_to_have_failed_is_found_by_the_retry,
                once::l6_a_bad_key_is_refused_before_it_is_queued,
                once::l6_a_key_is_remembered_as_long_as_its_events,
                streams::s1_a_batch_is_delivered_as_one_with_its_selected_part,
                streams::s1_a_replayed_batch_shows_only_its_selected_part,
                streams::s1_what_is_not_committed_is_not_delivered,
                streams::s2_order_is_the_order_of_the_log,
                streams::s3_replay_becomes_live_without_a_seam,
                streams::s3_a_slow_stream_misses_nothing_of_a_burst,
                streams::s3_a_filter_misses_nothing,
                streams::s3_a_start_inside_a_batch_delivers_the_rest_of_it,
                streams::s3_a_start_inside_a_batch_of_the_window_delivers_the_rest_of_it,
                streams::s3_a_live_stream_misses_nothing,
                streams::s3_a_retry_repeats_one_batch_and_skips_none,
                streams::s3_a_query_over_replay_gives_what_it_gives_live,
                streams::s4_a_handler_that_never_returns_delays_nobody,
                streams::s4_failing_and_panicking_handlers_delay_nobody,
                streams::s5_many_streams_behind_no_window_get_everything,
                streams::s6_a_live_stream_begins_with_the_call,
                streams::s7_no_call_starts_after_unsubscribe,
                streams::s7_no_call_runs_after_stopped,
                history::s8_what_was_committed_before_the_run_is_history,
                history::s8_news_that_falls_out_of_the_window_stays_news,
                history::s8_parts_groups_and_keys_know_it_too,
                history::s8_a_letter_that_is_retried_is_history_when_its_events_are,
                history::s8_to_a_reader_what_was_there_at_first_is_history,
                durable::d1_delivery_resumes_after_the_cursor,
                durable::d1_a_new_name_starts_where_it_says,
                durable::d1_now_is_resolved_once,
                durable::d2_the_cursor_passes_a_batch_after_its_handler,
                durable::d2_the_cursor_does_not_pass_a_batch_that_fails,
                durable::d3_the_checkpoint_bounds_what_is_not_stored,
                durable::d3_a_strict_checkpoint_stores_before_the_next_batch,
                durable::d4_a_query_that_selects_nothing_has_no_lag_and_is_swept_along,
                durable::d4_the_cursor_of_an_idle_stream_is_stored_at_its_end,
                mishaps::d5_an_error_is_retried_and_then_stops_the_stream,
                mishaps::d5_a_panic_is_retried_like_an_error,
                owners::d6_who_owns_a_stream_is_known_until_it_ends,
                mishaps::d6_a_name_is_active_once,
                mishaps::d6_a_name_that_was_unsubscribed_is_free,
                mishaps::d7_a_changed_query_is_refused,
                mishaps::d8_lost_wake_ups_delay_by_the_poll_interval,
                letters::d5_a_parked_batch_is_in_a_letter_and_the_others_are_handled,
                letters::d5_the_event_that_is_named_is_parked_alone,
                letters::d2_a_letter_that_is_not_stored_leaves_the_cursor,
                letters::d5_a_letter_that_is_stored_at_the_second_try_is_stored_once,
                letters::d5_later_events_of_a_parked_key_queue_across_restarts,
                letters::d5_a_failed_batch_of_several_keys_parks_them_all,
                letters::d5_what_is_skipped_is_recorded_and_counted,
                letters::d5_what_cannot_be_decoded_stops_the_stream_unless_told_otherwise,
                letters::d5_a_call_that_takes_too_long_is_dropped_and_has_failed,
                letters::d5_when_most_fail_the_stream_stops_instead,
                letters::d5_over_the_limits_the_stream_stops,
                letters::d5_a_closure_for_keys_that_panics_stops_the_stream,
                retries::d5_a_retry_removes_its_letter_and_never_moves_the_cursor,
                retries::d5_letters_of_a_key_are_retried_in_order_only,
                retries::d5_what_comes_while_its_key_is_worked_off_keeps_the_order,
                retries::s2_a_retry_does_not_overlap_the_streams_own_calls,
                retries::s7_a_stream_has_stopped_when_no_retry_runs,
                retries::d7_a_stream_that_starts_over_has_no_letters_of_what_comes_again,
                retries::prune_is_held_by_the_oldest_letter_that_waits,
                keyed::s2_keys_are_in_order_with_one_call_at_a_time,
                keyed::s1_a_call_gets_the_events_of_one_key_of_one_batch,
                keyed::d2_a_key_that_retries_holds_the_cursor_and_no_other_key,
                keyed::s3_a_commit_while_calls_are_under_way_is_seen,
                keyed::s5_the_lookahead_bounds_how_far_other_keys_get,
                keyed::s7_no_call_starts_after_unsubscribe_and_none_runs_after_stopped,
                keyed::d5_a_letter_is_stored_when_the_position_comes_to_it,
                keyed::d2_a_letter_ahead_that_is_not_stored_comes_again,
                keyed::d5_events_of_a_parked_key_queue_also_those_in_hand,
                keyed::d5_what_queued_in_hand_is_handled_when_its_key_is_free,
                keyed::d5_a_failure_that_stops_waits_for_the_calls_under_way,
                keyed::d5_over_all_keys_when_most_fail_the_stream_stops,
                keyed::s2_a_retry_of_a_letter_waits_for_all_calls_and_is_not_passed_over,
                keyed_steering::d9_a_pause_waits_for_the_calls_and_repeats_nothing_of_the_run,
                keyed_steering::d9_after_a_word_what_failed_is_tried_at_once,
                keyed_steering::d9_a_reset_waits_for_the_calls_and_begins_a_new_run,
                keyed_steering::d9_the_batch_that_stands_failed_is_skipped,
                keyed_steering::d3_the_checkpoint_and_the_lookahead_bound_what_is_repeated,
                keyed_steering::d1_the_number_of_workers_may_change_between_runs,
                keyed_steering::d5_a_closure_that_panics_stops_a_partitioned_stream,
                groups::s3_a_group_has_what_is_there_in_order_and_no_more_than_fits,
                groups::s3_a_live_group_waits_for_more_and_no_longer_than_it_may,
                groups::s7_a_group_that_waits_keeps_nobody_waiting,
                groups::d2_a_group_is_settled_as_a_whole_or_not_at_all,
                groups::d5_of_a_group_that_fails_only_the_batch_at_fault_is_set_aside,
                groups::d5_a_group_that_stops_its_stream_names_the_batch_at_fault,
                groups::d5_a_group_ends_before_events_that_queue,
                groups::d3_a_group_is_no_larger_than_what_may_be_unstored,
                groups::d9_a_pause_while_a_group_waits_loses_nothing,
                groups::s1_groups_of_batches_are_refused_where_calls_are_by_key,
                steering::d9_a_paused_stream_rests_and_goes_on_without_a_gap,
                steering::d9_a_pause_of_a_resting_stream_stores_what_is_settled,
                steering::d9_a_pause_holds_after_a_restart,
                steering::d9_a_reset_of_a_running_stream_begins_a_new_run,
                steering::d9_nothing_of_the_earlier_run_is_stored_after_a_reset,
                steering::d9_a_reset_goes_where_it_says,
                steering::d9_a_reset_before_what_pruning_left_is_refused,
                steering::d9_a_failed_batch_is_skipped_while_its_stream_retries,
                steering::d9_a_failed_batch_is_skipped_after_its_stream_stopped,
                steering_names::d9_a_renamed_stream_keeps_its_cursor_under_the_new_name,
                steering_names::d9_a_deleted_stream_stops_and_is_new_when_it_comes_again,
                steering_names::d9_an_unknown_name_is_told_which_one_was_meant,
                steering_names::d9_a_failed_commit_leaves_a_stream_as_it_was,
                steering_names::d9_streams_are_listed_wherever_they_run,
                requests::d9_letters_are_retried_for_whoever_asks,
                requests::d9_who_asks_for_a_stream_that_nobody_runs_is_refused,
                requests::d9_one_request_at_a_time_and_what_was_begun_is_not_taken_back,
                requests::d9_a_skipped_batch_is_recorded_with_the_events_that_the_query_selects,
                takeover::d1_a_stream_takes_over_where_the_older_one_stood,
                takeover::d1_a_handler_call_of_the_older_stream_ends_before_the_takeover,
                takeover::d1_who_starts_after_an_unknown_stream_is_told_which_one_was_meant,
                takeover::d6_a_stream_that_was_taken_over_does_not_come_back,
                takeover::d1_dead_letters_and_a_pause_go_along,
                takeover::d1_a_takeover_that_fails_leaves_the_older_stream_where_it_was,
                takeover::d1_a_takeover_inside_the_handler_of_the_older_stream_is_refused,
                waiting::wait_ends_when_it_is_handled_and_stored,
                waiting::wait_for_a_stream_that_does_not_go_on_fails_at_once,
                waiting::wait_outlives_a_reset,
                waiting::wait_inside_the_own_handler_is_refused,
                reactors::a1_a_reaction_is_stored_with_the_cursor_behind_what_it_answers,
                reactors::a1_a_reaction_of_nothing_moves_the_cursor,
                reactors::a1_a_reaction_that_fails_half_way_is_appended_once,
                reactors::a1_a_reaction_that_cannot_be_appended_stops_the_stream_before_its_cause,
                reactors::a1_a_commit_that_was_reported_to_have_failed_doubles_no_reaction,
                reactors::a1_no_older_position_follows_the_one_of_a_reaction,
                reactors::a1_a_reset_during_the_call_lets_nothing_of_the_run_before_in,
                reactors::a1_a_condition_that_does_not_hold_is_decided_again,
                reactors::a1_a_condition_that_never_holds_has_its_own_category,
                reactors::a1_a_reaction_that_no_append_takes_is_a_failure_and_loses_nothing,
                reactors::a1_a_letter_is_removed_with_its_reaction_or_not_at_all,
                reactors::a1_a_letter_that_was_discarded_meanwhile_is_not_answered,
                reactors::a1_an_error_that_names_an_event_leaves_none_before_it_unanswered,
                reactors::a1_a_reactor_of_several_keys_at_once_is_refused,
                chains::a2_the_cause_travels_down_a_chain,
                chains::a2_reactors_that_answer_each_other_end_at_the_depth_limit,
                retention::prune_removes_whole_batches_only,
                retention::prune_goes_on_over_batches_that_are_larger_than_a_step,
                retention::prune_gives_no_sequence_again_when_nothing_is_left,
                retention::prune_is_held_by_the_slowest_cursor_and_says_so,
                retention::prune_is_not_held_by_a_cursor_that_rests_behind_its_stream,
                retention::prune_is_held_by_a_running_stream_without_a_cursor,
                retention::prune_past_cursors_is_told_to_the_stream_that_was_passed,
                retention::prune_stops_a_running_stream_that_needs_what_is_gone,
                retention::prune_is_told_to_whoever_starts_before_what_is_left,
                retention::prune_lets_no_append_overlook_what_was_pruned,
                retention::prune_holds_up_neither_appends_nor_streams,
                retention::prune_stops_between_two_steps_when_it_is_dropped,
                retention::a_prune_that_fails_leaves_the_step_undone,
                retention::a_pruned_log_finds_what_is_left_by_type_tag_and_payload,
            }
            shared {
                owners::d6_a_stream_that_another_store_owns_is_refused_and_free_when_that_ends,
                owners::d6_who_stands_by_takes_over_where_the_owner_stopped,
                owners::d6_of_several_who_stand_by_one_takes_over_and_all_is_delivered_once,
                owners::d6_owners_share_the_streams_and_stay_with_that,
                owners::d6_an_owner_that_does_not_stand_by_gives_nothing_away,
                owners::d6_words_from_outside_reach_the_owner_and_who_stands_by,
                owners::d6_who_does_not_fit_is_refused_before_and_when_it_takes_over,
                owners::d6_a_registration_that_nobody_waits_for_owns_nothing,
                once::l6_keys_of_another_store_are_seen,
                once::l6_upcasters_that_came_meanwhile_change_no_key,
                streams::s3_commits_of_another_store_are_delivered,
                streams::s3_two_stores_that_append_at_once_deliver_everything_once,
                durable::d1_now_is_stored_before_the_call_returns,
                durable::d3_a_crash_repeats_no_more_than_the_checkpoint_allows,
                mishaps::d6_who_lost_the_name_cannot_write_the_cursor_and_stops,
                reactors::a1_who_lost_the_name_appends_nothing,
                reactors::a1_a_reaction_that_is_refused_tells_its_stream_of_the_reset,
                reactors::a1_a_store_that_closes_during_the_call_loses_no_reaction,
                retries::d6_who_lost_the_name_sets_nothing_aside,
                keyed::d5_a_watched_stretch_goes_on_behind_a_letter_that_waits,
                steering_names::d9_another_store_is_heeded_within_the_poll_interval,
                steering_names::d9_a_cursor_that_is_refused_tells_its_stream_of_the_reset,
                steering_names::d6_a_reset_gives_a_lost_name_back_to_nobody,
                takeover::d6_an_older_stream_elsewhere_can_store_nothing_after_the_takeover,
                requests::d9_a_request_is_heard_by_the_store_that_runs_the_stream,
            }
            tampered {
                log::l4_sequences_of_removed_events_are_not_given_again,
                mishaps::d7_a_cursor_ahead_of_the_log_is_refused,
                mishaps::d7_a_cursor_of_another_log_is_refused,
            }
        }
    };
}

/// The list as values.
#[doc(hidden)]
#[macro_export]
macro_rules! __proof_list {
    (
        ()
        every { $($folder:ident :: $name:ident),* $(,)? }
        shared { $($shared_folder:ident :: $shared:ident),* $(,)? }
        tampered { $($tampered_folder:ident :: $tampered:ident),* $(,)? }
    ) => {
        /// All proofs, by what they are about.
        pub const PROOFS: &[Proof] = &[
            $(Proof {
                name: stringify!($name),
                needs: None,
                show: |subject| Box::pin($crate::conformance::proofs::$folder::$name(subject)),
            },)*
            $(Proof {
                name: stringify!($shared),
                needs: Some(Capability::Shared),
                show: |subject| Box::pin($crate::conformance::proofs::$shared_folder::$shared(subject)),
            },)*
            $(Proof {
                name: stringify!($tampered),
                needs: Some(Capability::Tampered),
                show: |subject| Box::pin($crate::conformance::proofs::$tampered_folder::$tampered(subject)),
            },)*
        ];
    };
}

crate::__every_proof!(__proof_list());

/// The list as tests.
#[doc(hidden)]
#[macro_export]
macro_rules! __proof_tests {
    (
        ($subject:expr; $($can:ident)*)
        every { $($folder:ident :: $name:ident),* $(,)? }
        shared $shared:tt
        tampered $tampered:tt
    ) => {
        #[test]
        fn the_log_can_do_what_the_macro_was_told() {
            $crate::conformance::hold_capabilities(
                &[$($crate::__capability!($can)),*],
                $subject,
            );
        }

        $($crate::__proof_test! { [] $name $subject })*
        $crate::__proof_tests_if! { shared "left out: the log is not said to be shared" [$($can)*] $shared $subject }
        $crate::__proof_tests_if! { tampered "left out: the log is not said to be tampered" [$($can)*] $tampered $subject }
    };
}

/// A group of tests, which are ignored when what they need is not among what the log can do.
#[doc(hidden)]
#[macro_export]
macro_rules! __proof_tests_if {
    (shared $reason:literal [shared $($rest:ident)*] { $($folder:ident :: $name:ident),* $(,)? } $subject:expr) => {
        $($crate::__proof_test! { [] $name $subject })*
    };
    (tampered $reason:literal [tampered $($rest:ident)*] { $($folder:ident :: $name:ident),* $(,)? } $subject:expr) => {
        $($crate::__proof_test! { [] $name $subject })*
    };
    ($need:ident $reason:literal [] { $($folder:ident :: $name:ident),* $(,)? } $subject:expr) => {
        $($crate::__proof_test! { [#[ignore = $reason]] $name $subject })*
    };
    ($need:ident $reason:literal [$other:ident $($rest:ident)*] $proofs:tt $subject:expr) => {
        $crate::__proof_tests_if! { $need $reason [$($rest)*] $proofs $subject }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __proof_test {
    ([$($attribute:tt)*] $name:ident $subject:expr) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        $($attribute)*
        async fn $name() {
            $crate::conformance::hold_named(stringify!($name), $subject).await;
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __capability {
    (shared) => {
        $crate::conformance::Capability::Shared
    };
    (tampered) => {
        $crate::conformance::Capability::Tampered
    };
}

/// Makes a `#[tokio::test]` of each proof, named after it, on the log that the expression gives: a
/// [`Subject`](crate::conformance::Subject), new for each test, or an `Option` of one, with which a test whose log is not there passes
/// without doing anything. Put it into a module of its own; the crate that it is in needs tokio, with its macros and its runtime of
/// several threads.
///
/// What the log can do, besides being opened again, follows the expression: `shared`, `tampered`. Tests of proofs that need something
/// else are ignored, so that the test runner tells of them. That the log itself [says the same](crate::conformance::TestLog::has)
/// is a test too.
///
/// ```
/// # use millstream::conformance::{Capability, Subject, TestLog};
/// # use millstream::{OpenError, Store, StoreBuilder};
/// # struct MyLog;
/// # impl MyLog { fn empty() -> Self { Self } }
/// # impl TestLog for MyLog {
/// #     fn open(&self, builder: StoreBuilder) -> Result<Store, OpenError> { builder.in_memory() }
/// #     fn has(&self, capability: Capability) -> bool { capability == Capability::Shared }
/// # }
/// mod my_log {
/// #   use super::*;
///     millstream::conformance_tests!(Subject::new(MyLog::empty()), shared);
/// }
/// ```
#[macro_export]
macro_rules! conformance_tests {
    ($subject:expr $(, $can:ident)* $(,)?) => {
        $crate::__every_proof!(__proof_tests ($subject; $($can)*));
    };
}

/// Makes a test of each way in which a log may break a promise: the log that the expression gives is made to, and a proof of that
/// promise has to fail. The expression is as in [`conformance_tests!`](crate::conformance_tests).
#[macro_export]
macro_rules! conformance_guards {
    ($subject:expr $(,)?) => {
        $crate::__guard_tests! {
            $subject;
            a_log_that_loses_batches_is_caught_by_completeness: Loses,
            a_log_that_doubles_batches_is_caught_by_completeness: Doubles,
            a_log_that_reorders_batches_is_caught_by_order: Reorders,
            a_log_that_publishes_before_it_commits_is_caught_by_reading_at_once: PublishesEarly,
            a_log_that_ignores_conditions_is_caught_by_conditional_appends: IgnoresConditions,
            a_log_that_forgets_cursors_is_caught_by_resuming: ForgetsCursors,
            a_log_that_loses_letters_is_caught_by_setting_aside: LosesLetters,
            a_log_that_forgets_keys_is_caught_by_repeated_appends: ForgetsKeys,
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __guard_tests {
    ($subject:expr; $($name:ident : $sabotage:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::conformance::hold_guard(
                    $crate::conformance::Sabotage::$sabotage,
                    || $subject.into(),
                )
                .await;
            }
        )*
    };
}
