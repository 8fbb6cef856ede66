//! The kubelet's part on this machine: the volume as it lays it out, and the sidecar as it starts it.

#![expect(clippy::indexing_slicing, reason = "a JSON value answers null where there is nothing")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::programs::Program;

/// Gives the pod's service account token for an audience, as the API server gives it to a kubelet.
pub(crate) type TokenFor<'a> = &'a dyn Fn(&str) -> anyhow::Result<String>;

/// A node with one pod.
pub(crate) struct Node<'a> {
    dir: PathBuf,
    uid: &'a str,
    pod: &'a Value,
    sidecar: &'a Value,
}

impl<'a> Node<'a> {
    /// A node that mounts the pod's volume at `dir`, and calls the pod `uid`.
    pub(crate) fn new(dir: PathBuf, uid: &'a str, pod: &'a Value) -> anyhow::Result<Self> {
        let containers = pod["spec"]["initContainers"].as_array();
        let sidecar = containers.and_then(|containers| containers.first());
        let sidecar = sidecar
            .filter(|container| container["name"] == "imdslet")
            .context("the pod's first init container is not the sidecar")?;
        Ok(Self { dir, uid, pod, sidecar })
    }

    /// Fills the projected volume as the kubelet does: the files in a folder of their own, `..data`
    /// pointing to it, and a link for each file. An update makes a new folder and moves `..data`.
    pub(crate) fn mount(&mut self, token: TokenFor<'_>) -> anyhow::Result<()> {
        let volumes = self.pod["spec"]["volumes"].as_array();
        let volume = volumes
            .into_iter()
            .flatten()
            .find(|volume| volume["name"] == "imdslet")
            .context("the pod has no volume imdslet")?;
        let stamp = jiff::Zoned::now().strftime("..%Y_%m_%d_%H_%M_%S.0").to_string();
        let data = self.dir.join(&stamp);
        fs::create_dir_all(&data).context("cannot make the volume")?;
        symlink(&stamp, self.dir.join("..data")).context("cannot link ..data")?;
        for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
            let (path, content) = self.project(source, token)?;
            fs::write(data.join(&path), content).context("cannot write the volume")?;
            symlink(Path::new("..data").join(&path), self.dir.join(&path))
                .context("cannot link a file")?;
        }
        Ok(())
    }

    fn project(&self, source: &Value, token_for: TokenFor<'_>) -> anyhow::Result<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if let Some(token) = source.get("serviceAccountToken") {
            let audience = text(&token["audience"]);
            return Ok((text(&token["path"]), token_for(&audience)?));
        }
        let item = &source["downwardAPI"]["items"][0];
        Ok((text(&item["path"]), self.field(&text(&item["fieldRef"]["fieldPath"]))?))
    }

    /// The value of a field reference.
    fn field(&self, path: &str) -> anyhow::Result<String> {
        if path == "metadata.uid" {
            return Ok(self.uid.to_owned());
        }
        let key = path.strip_prefix("metadata.annotations['").and_then(|p| p.strip_suffix("']"));
        let value = key.and_then(|key| self.pod["metadata"]["annotations"][key].as_str());
        value.map(str::to_owned).with_context(|| format!("no kubelet is here to fill in {path}"))
    }

    /// What lies in the volume, one line a file.
    pub(crate) fn files(&self) -> anyhow::Result<Vec<String>> {
        let mut lines = Vec::new();
        for entry in fs::read_dir(&self.dir).context("cannot read the volume")? {
            let path = entry?.path();
            if let Ok(target) = fs::read_link(&path) {
                lines.push(format!("{} -> {}", path.display(), target.display()));
            }
        }
        lines.sort();
        Ok(lines)
    }

    fn strings(&self, key: &str) -> Vec<String> {
        let list = self.sidecar[key].as_array();
        let texts = list.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    }

    /// The command line as it stands in the pod.
    pub(crate) fn injected_command(&self) -> String {
        [self.strings("command"), self.strings("args")].concat().join(" ")
    }

    /// Starts `program` as the sidecar: the injected arguments but for the folder and the port,
    /// the injected environment with its field references filled in.
    pub(crate) async fn start_sidecar(&self, program: &Path, port: u16) -> anyhow::Result<Program> {
        let args: Vec<_> = self
            .strings("args")
            .into_iter()
            .map(|arg| match arg.split_once('=') {
                Some(("--dir", _)) => format!("--dir={}", self.dir.display()),
                Some(("--port", _)) => format!("--port={port}"),
                _ => arg,
            })
            .collect();
        Program::start(program, &args, &self.environment(self.sidecar)?, &[""]).await
    }

    /// The variables of the pod's first container, the application's.
    pub(crate) fn application(&self) -> anyhow::Result<Vec<(String, String)>> {
        self.environment(&self.pod["spec"]["containers"][0])
    }

    fn environment(&self, container: &Value) -> anyhow::Result<Vec<(String, String)>> {
        let mut environment = Vec::new();
        for variable in container["env"].as_array().into_iter().flatten() {
            let name = variable["name"].as_str().unwrap_or_default();
            let value = match (&variable["value"], &variable["valueFrom"]["fieldRef"]["fieldPath"])
            {
                (Value::String(value), _) => value.clone(),
                (_, Value::String(path)) => self.field(path)?,
                _ => bail!("no kubelet is here to fill in the variable {name}"),
            };
            environment.push((name.to_owned(), value));
        }
        Ok(environment)
    }
}

/// The value of a variable as it is here, where the sidecar listens on `port`.
pub(crate) fn here(value: &str, port: u16) -> String {
    match value.strip_prefix("http://127.0.0.1:") {
        Some(rest) => {
            let path = rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default();
            format!("http://127.0.0.1:{port}{path}")
        }
        None => value.to_owned(),
    }
}
