//! The report as text and as JSON. The token is in neither.

use serde_json::{Map, Value, json};

use super::Report;
use super::answer::Token;
use super::claims::relative;

/// How wide the column of names is: `expires_on` and its like, and two spaces.
const COLUMN: usize = 10;

pub(super) fn text(report: &Report) -> String {
    let question = &report.question;
    let mut lines = vec![
        line("asked", &format!("{} {}", question.method(), question.url)),
        line("as", &format!("{}: {}", question.protocol.as_str(), question.because)),
        line("answer", &format!("{} after {} ms", report.status, report.took.as_millis())),
    ];
    match &report.answer {
        Ok(token) => lines.extend(token_lines(token, report)),
        Err(refused) => {
            lines.push(line("problem", &refused.message));
            lines.push(line("remedy", &refused.remedy));
        }
    }
    lines.extend(report.notes.iter().map(|note| line("note", note)));
    lines.join("\n") + "\n"
}

fn token_lines(token: &Token, report: &Report) -> Vec<String> {
    let kind = token.kind.as_deref().unwrap_or("of no type");
    let size = format!("{kind}, {} characters; --raw prints it", token.text().len());
    let mut lines = vec![line("token", &size)];
    if let Some(end) = token.expires() {
        lines.push(line("expires", &format!("{end} ({})", relative(end, report.now))));
    }
    if let Ok(claims) = &token.claims {
        lines.push("claims".to_owned());
        let width = claims.0.keys().map(String::len).max().unwrap_or_default();
        for (name, value) in &claims.0 {
            let value = match value {
                Value::String(text) => text.clone(),
                value => value.to_string(),
            };
            let time = claims.time(name).map(|at| format!("  {at} ({})", relative(at, report.now)));
            lines.push(format!("  {name:<width$}  {value}{}", time.unwrap_or_default()));
        }
    }
    lines
}

fn line(name: &str, value: &str) -> String {
    format!("{name:<COLUMN$}{value}")
}

pub(super) fn json(report: &Report) -> String {
    let question = &report.question;
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("as", json!(question.protocol.as_str()));
    put("because", json!(question.because));
    put("method", json!(question.method().as_str()));
    put("url", json!(question.url));
    put("status", json!(report.status));
    put("notes", json!(report.notes));
    match &report.answer {
        Ok(token) => {
            put("expiresOn", json!(token.expires().map(|end| end.to_string())));
            put("claims", token.claims.as_ref().map_or(Value::Null, |claims| json!(claims.0)));
        }
        Err(refused) => {
            put("problem", json!(refused.message));
            put("remedy", json!(refused.remedy));
        }
    }
    format!("{:#}\n", Value::Object(object))
}
