//! `imdslet token`: asks a token endpoint as each of Azure's SDKs would, and shows what came back.
//!
//! What is asked is decided by [`request`], without I/O; what an answer means by `answer`.

mod answer;
mod args;
mod claims;
pub mod request;
mod write;

use std::time::{Duration, Instant, SystemTime};

use anyhow::anyhow;
use bytes::Bytes;
use clap::ValueEnum;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http_body_util::Full;

use self::answer::{Answer, Refused, Token};
pub use self::args::TokenArgs;
use self::request::{Question, Unclear};
use crate::https::{Client, Trust};

/// How the answer is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Lines for a person.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// What was asked, and what came back.
pub struct Report {
    question: Question,
    status: u16,
    took: Duration,
    now: SystemTime,
    answer: Result<Token, Refused>,
    notes: Vec<String>,
}

impl Report {
    /// The token itself, where there is one.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.answer.as_ref().ok().map(Token::text)
    }

    /// Why there is no token, and what mends it.
    #[must_use]
    pub fn refused(&self) -> Option<String> {
        let refused = self.answer.as_ref().err()?;
        Some(format!("{}\n{}", refused.message, refused.remedy))
    }

    /// What is worth knowing beside the answer, one line each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The report, without the token.
    #[must_use]
    pub fn write(&self, format: Format) -> String {
        match format {
            Format::Text => write::text(self),
            Format::Json => write::json(self),
        }
    }
}

/// Asks once.
///
/// # Errors
///
/// What keeps the endpoint from being reached, and what to look at. An answer that is no token is
/// none: it is in the report.
pub async fn ask(question: Question) -> anyhow::Result<Report> {
    let client = Client::new(Trust::web())?;
    let (name, value) = question.header();
    let request = http::Request::builder().method(question.method()).uri(&question.url);
    let mut request = request.header(name, value);
    if question.form.is_some() {
        request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    }
    let form = Bytes::from(question.form.clone().unwrap_or_default());
    let unusable = || Unclear::Endpoint { url: question.url.clone() };
    let request = request.body(Full::new(form)).map_err(|_| unusable())?;
    let started = Instant::now();
    let answered = client.request(request).await;
    let answered =
        answered.map_err(|error| anyhow!("{error}\n{}", answer::unreached(&question.url)))?;
    let took = started.elapsed();
    let now = SystemTime::now();
    let status = answered.status().as_u16();
    let pause = answered.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let answer = Answer { status, body: answered.body(), retry_after: pause };
    let answer = answer.read(question.protocol);
    let mut notes = question.notes.clone();
    if let Ok(token) = &answer {
        notes.extend(token.doubts(&question.resource, now));
    }
    Ok(Report { question, status, took, now, answer, notes })
}
