//! A program that runs beside the daemon. Owns its life: how it is begun, waited for within bounds of
//! time and memory, and ended with all that it has begun itself; and the last words that it wrote.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anabranch_shared::settings::StepProgram;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};

use super::maker::Fault;

/// How often it is looked what a program takes while it is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// How long a program may take to end by itself once its input has ended.
const END: Duration = Duration::from_secs(2);

/// How long it may take until it is known how a program has ended, and what it wrote at last.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// So many of the last lines are kept that a program wrote to standard error.
const LAST_LINES: usize = 12;

/// Of a line so many bytes are read.
const LINE_BYTES: u64 = 1_000;

/// What a step's programs are begun by, and what bounds them.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// The step's name.
    pub(super) step: String,
    pub(super) settings: StepProgram,
    /// The project's folder, in which it runs.
    pub(super) dir: PathBuf,
    /// Where Python finds the module of steps.
    pub(super) python: Option<PathBuf>,
    /// Set when the daemon stops reading.
    pub(super) stop: Arc<AtomicBool>,
}

impl Program {
    /// The command as it is written, for messages.
    fn shown(&self) -> String {
        self.settings.command.join(" ")
    }
}

/// A program that runs.
#[derive(Debug)]
pub(super) struct Process {
    program: Program,
    child: Child,
    /// What reads its standard error, to the end.
    listening: std::thread::JoinHandle<()>,
    last: Arc<Mutex<VecDeque<String>>>,
}

impl Process {
    /// Begins a program, in a process group of its own.
    pub(super) fn begin(program: &Program) -> Result<(Self, ChildStdin, ChildStdout), Fault> {
        let failed = |why: String| {
            Fault::Begin(format!(
                "can't run `{}` in `{}`: {why}; correct `run` in `[steps.{}]`",
                program.shown(),
                shown_dir(&program.dir),
                program.step
            ))
        };
        let (first, arguments) = program
            .settings
            .command
            .split_first()
            .ok_or_else(|| failed("it has no name".into()))?;
        let mut command = Command::new(first);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if !program.dir.as_os_str().is_empty() {
            command.current_dir(&program.dir);
        }
        if let Some(python) = &program.python {
            command.env("PYTHONPATH", python_path(python));
        }
        let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
        let (input, output, errors) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = (input, output, errors) else {
            child.kill().ok();
            child.wait().ok();
            return Err(failed("it has no standard input and output".into()));
        };
        let last = Arc::<Mutex<VecDeque<String>>>::default();
        let (step, words) = (program.step.clone(), last.clone());
        let listening = std::thread::Builder::new()
            .name(format!("step-{step}-errors"))
            .spawn(move || listen(&step, errors, &words));
        let listening = match listening {
            Ok(listening) => listening,
            Err(e) => {
                child.kill().ok();
                child.wait().ok();
                return Err(failed(e.to_string()));
            }
        };
        let process = Self {
            program: program.clone(),
            child,
            listening,
            last,
        };
        Ok((process, input, output))
    }

    /// Notes something that it said as its last words.
    pub(super) fn note(&self, words: &str) {
        note(&self.last, words);
    }

    /// Waits for what a thread hears from the program, for some time at most and not longer than it
    /// keeps within its memory. `None` where the time is over and `patient` says that it may be.
    pub(super) fn wait<T>(
        &mut self,
        heard: &Receiver<T>,
        limit: Duration,
        patient: bool,
    ) -> Result<Option<T>, Fault> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match heard.recv_timeout(left.min(LOOK)) {
                Ok(heard) => return Ok(Some(heard)),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.failed("it ended".to_owned()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.program.stop.load(Ordering::Relaxed) {
                return Err(Fault::Ending);
            }
            let bound = self.program.settings.memory_bytes;
            let taken = resident_bytes(self.child.id()).unwrap_or(0);
            if taken > bound {
                return Err(self.failed(format!(
                    "it took {} MB of memory, more than {} MB (`memory` in `[steps.{}]`)",
                    taken / 1_000_000,
                    bound / 1_000_000,
                    self.program.step
                )));
            }
            if Instant::now() >= until {
                return match patient {
                    true => Ok(None),
                    false => Err(self.late(limit)),
                };
            }
        }
    }

    /// That it took too long.
    pub(super) fn late(&mut self, limit: Duration) -> Fault {
        self.failed(format!(
            "it gave no answer in {} (`timeout` in `[steps.{}]`)",
            humantime(limit),
            self.program.step
        ))
    }

    /// That it failed, with how it ended and its last words.
    pub(super) fn failed(&mut self, why: String) -> Fault {
        // That it has ended, and what it wrote at last, is known a moment later than its output ends.
        let mut ended = None;
        let until = Instant::now() + LAST_MOMENT;
        while why == "it ended" && Instant::now() < until {
            ended = ended.or_else(|| self.child.try_wait().ok().flatten());
            if ended.is_some() && self.listening.is_finished() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut text = match ended {
            Some(status) => format!("it ended with {status}"),
            None => why,
        };
        let last = self.last.lock();
        if !last.is_empty() {
            let last: Vec<&str> = last.iter().map(String::as_str).collect();
            text += &format!("; its last words: {}", last.join(" ⏎ "));
        }
        match ended.and_then(|status| status.signal()) {
            Some(signal) if signal == Signal::KILL.as_raw() => Fault::Killed(text),
            _ => Fault::Facts(text),
        }
    }

    /// Waits for it to end by itself, and ends it with all that it has begun where it doesn't.
    pub(super) fn end(mut self) {
        let until = Instant::now() + END;
        while Instant::now() < until {
            if let Ok(Some(_)) = self.child.try_wait() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process_group(group, Signal::KILL).ok();
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Hands on what a program writes to standard error, and keeps the end of it.
fn listen(step: &str, errors: impl Read, last: &Mutex<VecDeque<String>>) {
    let mut errors = BufReader::new(errors);
    let mut line = Vec::new();
    loop {
        line.clear();
        match errors
            .by_ref()
            .take(LINE_BYTES)
            .read_until(b'\n', &mut line)
        {
            Ok(1..) => {}
            _ => return,
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if text.is_empty() {
            continue;
        }
        tracing::info!(step, "{text}");
        note(last, &text);
    }
}

fn note(last: &Mutex<VecDeque<String>>, words: &str) {
    let mut last = last.lock();
    if last.len() == LAST_LINES {
        last.pop_front();
    }
    last.push_back(words.to_owned());
}

/// Bytes of memory that a process has in use, where the system tells.
fn resident_bytes(id: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1_024)
}

/// Where Python looks for modules: where it would, and in one folder more.
fn python_path(more: &Path) -> std::ffi::OsString {
    let before = std::env::var_os("PYTHONPATH").unwrap_or_default();
    let before = std::env::split_paths(&before).filter(|path| !path.as_os_str().is_empty());
    // A relative folder would be sought in the project's.
    let more = std::path::absolute(more).unwrap_or_else(|_| more.to_path_buf());
    let all: Vec<PathBuf> = before.chain([more.clone()]).collect();
    std::env::join_paths(all).unwrap_or_else(|_| more.into_os_string())
}

fn shown_dir(dir: &Path) -> String {
    match dir.as_os_str().is_empty() {
        true => ".".into(),
        false => dir.display().to_string(),
    }
}

fn humantime(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        seconds => format!("{seconds} s"),
    }
}
