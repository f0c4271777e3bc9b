//! A user's project: its folder, its settings, and what its storage knows of it.

pub mod boards;
pub mod context;
pub mod dead_letter_retries;
mod declare;
pub mod job_history;
pub mod limits;
pub mod planned_views;
mod rollups;
pub mod standing;
