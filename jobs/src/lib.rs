//! The `anabranch` command: projects, schedules, and the layers wired together.

pub mod asked;
pub mod builds;
pub mod client;
pub mod commands;
pub mod compare;
pub mod context;
mod door;
pub mod fail_points;
pub mod generate;
pub mod history;
pub mod local;
pub mod output;
pub mod peers;
pub mod presence;
pub mod retries;
pub mod schedulers;
pub mod served;
pub mod shell;
pub mod tasks;
pub mod verify;
