//! One identity and who uses it, drawn.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::super::super::Used;
use super::escaped;

/// Heights and widths are in pixels of the drawing.
const LINE: usize = 18;
const PADDING: usize = 10;
const GAP: usize = 12;
const LEFT: usize = 440;
const RIGHT_AT: usize = 560;
const RIGHT: usize = 400;
const WIDTH: usize = RIGHT_AT + RIGHT;
/// What a box holds of a text of 13 pixels.
const LETTERS: usize = 60;
/// More boxes or lines than these are counted only.
const ACCOUNTS: usize = 12;
const WORKLOADS: usize = 4;

/// Boxes of service accounts on the left, each with its workloads, and lines to the identity on the
/// right.
pub(super) fn draw(used: &Used) -> String {
    let identity =
        [used.identity.clone(), format!("client id {}", used.client_id), used.source.to_owned()];
    let boxes = boxes(used);
    let left: usize = boxes.iter().map(|lines| height(lines) + GAP).sum();
    let left = left.saturating_sub(GAP);
    let total = left.max(height(&identity)) + 2;
    let middle = total / 2;

    let label = format!("{} service accounts use {}", used.accounts.len(), used.identity);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {} {total}\" width=\"{WIDTH}\" role=\"img\" aria-label=\"{}\">\n",
        WIDTH + 2,
        escaped(&label)
    );
    let mut top = 1 + (total - 2 - left) / 2;
    for lines in &boxes {
        put(&mut svg, (1, top), LEFT, lines);
        let from = top + height(lines) / 2;
        let (start, bend, end) = (LEFT + 1, usize::midpoint(LEFT, RIGHT_AT), RIGHT_AT);
        writeln!(svg, "<path d=\"M{start} {from}C{bend} {from} {bend} {middle} {end} {middle}\"/>")
            .ok();
        top += height(lines) + GAP;
    }
    put(&mut svg, (RIGHT_AT, middle - height(&identity) / 2), RIGHT, &identity);
    svg.push_str("</svg>\n");
    svg
}

/// The lines of each box on the left.
fn boxes(used: &Used) -> Vec<Vec<String>> {
    let shown = used.accounts.iter().take(ACCOUNTS);
    let mut boxes: Vec<_> = shown.map(|(account, workloads)| lines(account, workloads)).collect();
    let more = used.accounts.len() - boxes.len();
    if more > 0 {
        boxes.push(vec![format!("and {more} more service accounts")]);
    }
    boxes
}

fn lines(account: &str, workloads: &BTreeSet<String>) -> Vec<String> {
    let mut lines = vec![account.to_owned()];
    lines.extend(workloads.iter().take(WORKLOADS).cloned());
    let more = workloads.len().saturating_sub(WORKLOADS);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}

fn height(lines: &[String]) -> usize {
    lines.len() * LINE + PADDING
}

/// A box with lines of text, the first of which is its name.
fn put(svg: &mut String, (left, top): (usize, usize), width: usize, lines: &[String]) {
    let height = height(lines);
    writeln!(
        svg,
        "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>"
    )
    .ok();
    for (at, line) in lines.iter().enumerate() {
        let (x, y) = (left + PADDING, top + (at + 1) * LINE);
        let class = if at == 0 { " class=\"name\"" } else { "" };
        let shown = shortened(line);
        // The whole of it, where it does not fit.
        let title = match escaped(line) {
            _ if shown == *line => String::new(),
            whole => format!("<title>{whole}</title>"),
        };
        writeln!(svg, "<text x=\"{x}\" y=\"{y}\"{class}>{title}{}</text>", escaped(&shown)).ok();
    }
}

fn shortened(line: &str) -> String {
    if line.chars().count() <= LETTERS {
        return line.to_owned();
    }
    let start: String = line.chars().take(LETTERS - 1).collect();
    format!("{start}…")
}
