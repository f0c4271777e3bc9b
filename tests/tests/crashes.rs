//! What must hold when processes are killed, clocks jump, disks fill and bytes rot.

mod clock;
mod crash;
mod damage;
mod fail_points;
mod faults;
mod fenced;
mod locks;
mod many;
mod retries;
mod two_processes;
