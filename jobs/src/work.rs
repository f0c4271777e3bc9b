//! What is done with a project's views and logs: builds, verification, upkeep, and their schedule.

pub mod build;
pub mod compare;
pub mod job_states;
pub mod refresh_requests;
pub mod schedule;
pub mod schedule_times;
pub mod schedulers;
pub mod served;
pub mod upkeep;
pub mod verify;
pub mod verify_view;
