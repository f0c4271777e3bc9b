//! The `anabranch` command: projects, schedules, and the layers wired together.

pub mod clock;
pub mod commands;
pub mod fail_points;
pub mod generate;
pub mod logging;
pub mod node;
pub mod output;
pub mod project;
pub mod reader;
pub mod shell;
pub mod signal;
pub mod tasks;
pub mod work;
