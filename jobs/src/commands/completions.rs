//! `anabranch completions`: a script with which a shell of the system completes the command.

use anabranch_shared::Result;
use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::commands::Cli;
use crate::commands::printing::Printing;

/// For which shell.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

const EXAMPLES: &str = "\
Examples:
  source <(anabranch completions bash)                                 in ~/.bashrc
  anabranch completions zsh > ~/.zfunc/_anabranch                      a folder in $fpath
  anabranch completions fish > ~/.config/fish/completions/anabranch.fish";

/// Prints the script.
pub(crate) fn run(args: &CompletionsArgs, printing: Printing) -> Result<()> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "anabranch", &mut script);
    printing.text(&String::from_utf8_lossy(&script))
}
