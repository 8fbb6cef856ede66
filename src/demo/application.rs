//! The application's part: it asks by the variables that it was given, as Azure's SDKs do.

use anyhow::Context;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::Value;

use crate::https::{Client, Trust};
use crate::node;

/// An application with the environment of its container.
pub(super) struct Application {
    environment: Vec<(String, String)>,
    /// The same, with the port on which the sidecar really listens.
    here: Vec<(String, String)>,
    client: Client,
}

/// A request that is ready to be sent.
pub(super) struct Question<'a> {
    /// The request in one line.
    pub(super) line: String,
    url: String,
    header: (&'static str, String),
    client: &'a Client,
}

/// What was answered.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Application {
    pub(super) fn new(environment: Vec<(String, String)>, port: u16) -> anyhow::Result<Self> {
        let here = |(name, value): &(String, String)| (name.clone(), node::here(value, port));
        let here = environment.iter().map(here).collect();
        Ok(Self { environment, here, client: Client::new(Trust::nobody())? })
    }

    /// The variables whose URL the demo had to replace: as injected, and as they are here.
    pub(super) fn variables(&self) -> Vec<(String, String)> {
        let line = |(name, value): &(String, String)| format!("{name}={value}");
        let both = self.environment.iter().zip(&self.here);
        both.filter(|(injected, here)| injected != here)
            .map(|(injected, here)| (line(injected), line(here)))
            .collect()
    }

    fn variable(&self, name: &str) -> anyhow::Result<&str> {
        let found = self.here.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str()).with_context(|| format!("{name} was not injected"))
    }

    /// `AZURE_POD_IDENTITY_AUTHORITY_HOST`, and the path of IMDS.
    pub(super) fn imds(&self, resource: &str) -> anyhow::Result<Question<'_>> {
        let host = self.variable("AZURE_POD_IDENTITY_AUTHORITY_HOST")?;
        let query = format!("api-version=2018-02-01&resource={resource}");
        let url = format!("{host}/metadata/identity/oauth2/token?{query}");
        Ok(self.question(url, ("Metadata", "true".to_owned())))
    }

    /// `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`; an empty client id is left out.
    pub(super) fn app_service(
        &self,
        resource: &str,
        client_id: &str,
    ) -> anyhow::Result<Question<'_>> {
        let endpoint = self.variable("IDENTITY_ENDPOINT")?;
        let mut url = format!("{endpoint}?api-version=2019-08-01&resource={resource}");
        if !client_id.is_empty() {
            url.push_str("&client_id=");
            url.push_str(client_id);
        }
        let header = self.variable("IDENTITY_HEADER")?.to_owned();
        Ok(self.question(url, ("X-IDENTITY-HEADER", header)))
    }

    /// `MSI_ENDPOINT` and `MSI_SECRET`.
    pub(super) fn old_app_service(&self, resource: &str) -> anyhow::Result<Question<'_>> {
        let endpoint = self.variable("MSI_ENDPOINT")?;
        let url = format!("{endpoint}?api-version=2017-09-01&resource={resource}");
        Ok(self.question(url, ("secret", self.variable("MSI_SECRET")?.to_owned())))
    }

    fn question(&self, url: String, header: (&'static str, String)) -> Question<'_> {
        let line = format!("GET {url}  {}: {}", header.0, header.1);
        Question { line, url, header, client: &self.client }
    }

    /// Lines for a shell.
    pub(super) fn lines_to_try(&self, resource: &str, client_id: &str) -> Vec<String> {
        let mut lines: Vec<_> = self
            .here
            .iter()
            .filter(|(name, _)| name.contains("MSI_") || name.contains("IDENTITY_"))
            .map(|(name, value)| format!("export {name}={value}"))
            .collect();
        lines.push(format!(
            "curl -s -H 'Metadata: true' \"$AZURE_POD_IDENTITY_AUTHORITY_HOST/metadata/identity/\
             oauth2/token?api-version=2018-02-01&resource={resource}\""
        ));
        lines.push(format!(
            "curl -s -H \"X-IDENTITY-HEADER: $IDENTITY_HEADER\" \
             \"$IDENTITY_ENDPOINT?api-version=2019-08-01&resource={resource}&client_id={client_id}\""
        ));
        lines.push("curl -s \"$AZURE_POD_IDENTITY_AUTHORITY_HOST/state\"".to_owned());
        lines
    }
}

impl Question<'_> {
    pub(super) async fn ask(&self) -> anyhow::Result<Answer> {
        let (name, value) = &self.header;
        let request = Request::get(&self.url).header(*name, value);
        let request = request.body(Full::new(Bytes::new())).context("cannot ask")?;
        let response = self.client.request(request).await?;
        let body = serde_json::from_slice(response.body())
            .with_context(|| format!("{} answers no JSON", self.url))?;
        Ok(Answer { status: response.status().as_u16(), body })
    }
}
