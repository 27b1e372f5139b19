//! The commands `completions` and `man`, generated from the definition of the command line.

use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::{Shell, generate};
use clap_mangen::Man;

use crate::args;
use crate::failure::Failure;
use crate::output::Output;

/// Prints the completion script for a shell.
pub(crate) fn completions(shell: Shell, out: &Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(shell, &mut args::command(), "keyfob", &mut script);
    out.text(&String::from_utf8_lossy(&script))
}

/// The date of the last change to the man pages.
const MAN_DATE: &str = "2026-12-01";

/// Prints the man page, or writes all pages to a directory.
pub(crate) fn man(dir: Option<&Path>, out: &Output) -> Result<(), Failure> {
    let mut keyfob = args::command().disable_help_subcommand(true);
    keyfob.build();
    let Some(dir) = dir else {
        let (_, text) = page(keyfob).map_err(Failure::Output)?;
        return out.text(&text);
    };
    let cannot = |error: io::Error| {
        Failure::Usage(format!("cannot write to {} (--dir): {error}", dir.display()))
    };
    std::fs::create_dir_all(dir).map_err(cannot)?;
    let mut commands = vec![keyfob];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands().cloned());
        let (name, text) = page(command).map_err(cannot)?;
        std::fs::write(dir.join(name), text).map_err(cannot)?;
    }
    Ok(())
}

/// Returns the file name and the text of a page.
fn page(command: Command) -> io::Result<(String, String)> {
    let source = concat!("keyfob ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command).date(MAN_DATE).source(source).manual("User Commands");
    let mut text = Vec::new();
    man.render(&mut text)?;
    // clap_mangen inserts line breaks around the empty line before possible values.
    let text = String::from_utf8_lossy(&text).replace("\n.br\n\n.br\n", "\n.br\n");
    Ok((man.get_filename(), text))
}
