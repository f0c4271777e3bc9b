//! Owns other programs that the shell runs on the terminal: a pager, an editor, a command of the
//! system.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// The pager that a person has chosen, or `less`. `None` where there is none, or an empty choice.
pub fn pager() -> Option<String> {
    match env::var("PAGER") {
        Ok(chosen) => Some(chosen).filter(|chosen| !chosen.trim().is_empty()),
        // One screen is shown as it is, long lines go on to the right, colours stay.
        Err(_) => is_there("less").then(|| "less -SFRX".to_owned()),
    }
}

/// Whether a program is on the path.
fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Lets a pager show what `write` writes, and waits until the person leaves it. That it is left
/// before the end is no error.
///
/// # Errors
/// Where the pager can't be started, and those of `write`.
pub(super) fn page(
    pager: &str,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut command = shell(pager);
    if env::var_os("LESS").is_none() {
        command.env("LESS", "SFRX");
    }
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    let written = match child.stdin.take() {
        Some(stdin) => {
            let mut stdin = io::BufWriter::new(stdin);
            write(&mut stdin).and_then(|()| stdin.flush())
        }
        None => Ok(()),
    };
    child.wait()?;
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// The editor that a person has chosen.
pub(super) fn editor() -> String {
    let chosen = ["VISUAL", "EDITOR"].into_iter().find_map(|name| {
        let chosen = env::var(name).ok()?;
        (!chosen.trim().is_empty()).then_some(chosen)
    });
    chosen.unwrap_or_else(|| "vi".to_owned())
}

/// Lets an editor change a file.
pub(super) fn edit(editor: &str, file: &Path) -> io::Result<ExitStatus> {
    let mut command = shell(&format!("exec {editor} \"$1\""));
    command.args([OsString::from("sh"), file.into()]);
    command.status()
}

/// Runs a command of the system.
pub(super) fn system(command: &str) -> io::Result<ExitStatus> {
    shell(command).status()
}

fn shell(command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]);
    shell
}
