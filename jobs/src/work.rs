//! What is done with a project's views and logs: builds, verification, upkeep, and their schedule.

pub mod apply;
pub mod build;
pub mod compare;
pub mod dead_letters;
pub mod diff;
pub mod doer;
pub mod history;
pub mod job_states;
pub mod judge;
pub mod plan;
pub mod refresh_requests;
pub mod schedule;
pub mod schedule_times;
pub mod schedulers;
pub mod served;
pub mod upkeep;
pub mod verify;
pub mod verify_view;
