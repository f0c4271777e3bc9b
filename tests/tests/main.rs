//! What must hold across the layers: one binary, because linking the engine takes long.

mod bad_views;
mod crash;
mod export;
mod law;
mod maintain;
mod open_formats;
mod tables;
mod weblog;
