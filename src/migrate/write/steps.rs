//! The steps of the move as a text to follow.

use std::fmt::Write;

use super::super::{Phase, Plan};

const HEAD: &str = "\
# Made by `imdslet migrate`. Not a script: read each step, run it, look at what it did, go on.
# Words in capitals are to be filled in.
";

pub(super) fn write(plan: &Plan) -> String {
    let mut text = HEAD.to_owned();
    if !plan.decisions.is_empty() {
        let count = plan.decisions.len();
        writeln!(text, "# First decide what must be decided: {count} things, on stderr.").ok();
    }
    for phase in Phase::ALL {
        writeln!(text, "\n## {}", phase.heading()).ok();
        let steps = plan.steps.iter().filter(|step| step.phase == phase);
        for (at, step) in steps.enumerate() {
            writeln!(text, "\n# {}. {}", at + 1, step.title).ok();
            for line in wrapped(&step.why, 96) {
                writeln!(text, "#    {line}").ok();
            }
            for command in &step.commands {
                writeln!(text, "{command}").ok();
            }
        }
    }
    text
}

/// Lines of words, each at most `width` long unless a word is longer.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
