//! What a pod serves on its own loopback, by a port-forward of the API server: nothing is opened on
//! this machine.

use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use imdslet_core::with_causes;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::Portforwarder;
use serde_json::Value;
use tokio::time::timeout;

use super::Cluster;

/// How long a pod may take, connections included. It answers in milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// The most of an answer that is read, in bytes: a state of thousands of tokens.
const LARGEST: usize = 1024 * 1024;

/// Why a pod could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unforwarded {
    /// Who asks may not.
    #[error(
        "you may not get and create pods/portforward in namespace {0} (kubectl -n {0} auth can-i \
         create pods/portforward)"
    )]
    Forbidden(String),
    /// No way leads there, or nobody answers.
    #[error("a port-forward to port {port} of pod {pod} fails: {cause}")]
    Failed {
        /// `namespace/name`.
        pod: String,
        /// The port.
        port: u16,
        /// Why.
        cause: String,
    },
}

impl Cluster {
    /// What is answered to `GET path` on the loopback of a pod, which is JSON.
    ///
    /// # Errors
    ///
    /// [`Unforwarded`].
    pub async fn ask_pod(
        &self,
        (namespace, name): (&str, &str),
        port: u16,
        path: &str,
    ) -> Result<Value, Unforwarded> {
        let failed = |cause: String| {
            let pod = format!("{namespace}/{name}");
            Unforwarded::Failed { pod, port, cause }
        };
        let asked = async {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            let mut forwarder = match pods.portforward(name, &[port]).await {
                Ok(forwarder) => forwarder,
                Err(kube::Error::Api(status)) if status.code == StatusCode::FORBIDDEN => {
                    return Err(Unforwarded::Forbidden(namespace.to_owned()));
                }
                Err(error) => return Err(failed(with_causes(&error))),
            };
            let answered = get(&mut forwarder, port, path).await;
            forwarder.abort();
            answered.map_err(failed)
        };
        let late = || failed(format!("no answer within {} s", DEADLINE.as_secs()));
        timeout(DEADLINE, asked).await.unwrap_or_else(|_| Err(late()))
    }
}

async fn get(forwarder: &mut Portforwarder, port: u16, path: &str) -> Result<Value, String> {
    let stream = forwarder.take_stream(port).ok_or("the port was not forwarded")?;
    let trouble = forwarder.take_error(port);
    let told = async {
        match trouble {
            Some(trouble) => trouble.await,
            None => None,
        }
    };
    let trouble = async {
        match told.await {
            Some(trouble) => trouble,
            // The other end has nothing to say against it.
            None => pending().await,
        }
    };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| with_causes(&error))?;
    let answered = async move {
        // The sidecar answers to names of the loopback alone.
        let request = Request::get(path).header(HOST, "localhost").body(Empty::<Bytes>::new());
        let request = request.map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(|error| with_causes(&error))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LARGEST).collect().await;
        let bytes = body.map_err(|error| error.to_string())?.to_bytes();
        if head.status != StatusCode::OK {
            return Err(format!("{path} is answered with {}", head.status));
        }
        serde_json::from_slice(&bytes).map_err(|error| format!("{path} is no JSON: {error}"))
    };
    // Once the answer is there, `sender` is gone, and the connection ends by that.
    let both = async { tokio::join!(connection, answered).1 };
    tokio::select! {
        answered = both => answered,
        trouble = trouble => Err(trouble.trim().to_owned()),
    }
}

#[cfg(test)]
mod tests;
