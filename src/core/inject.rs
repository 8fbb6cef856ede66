//! The patch that gives a pod its token endpoint.
//!
//! It only adds, with three exceptions, each a `replace` of one string: a container's own proxy
//! exception list is extended, a Secrets Store volume is pointed to a derived class, and our own
//! two annotations are always set. Applied and asked again, nothing is left to do.

use serde::Serialize;
use serde_json::{Value, json};

use crate::arguments::{Mode, ServeArgs};
use crate::choices::Choices;
use crate::contract::{FORMAT, PodIdentities};
use crate::csi::{CLASS_ATTRIBUTE, Redirect};
use crate::names::{ADDRESS_CONTAINER, IDENTITIES, VERSION};
use crate::patch::{Edits, Patch};
use crate::pod::{Container, List, PodView};
use crate::reserved::{Own, Reserved, check_names};
use crate::resolve::Usable;
use crate::settings::{Endpoint, Settings};
use crate::sidecar::Sidecar;
use crate::variables::{Announcement, Conflict, HeaderValue, pod_uid};
use crate::warning::Warning;

/// The annotation by which kubectl knows which container is meant where none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The sysctl that lets a process without privileges listen on port 80. It is on Kubernetes' list
/// of safe ones.
const UNPRIVILEGED_PORTS: &str = "net.ipv4.ip_unprivileged_port_start";

/// What is to become of one pod.
pub(crate) struct Injection<'a> {
    pub(crate) pod: &'a PodView<'a>,
    /// The sidecar that the pod already has.
    pub(crate) own: Option<Own<'a>>,
    pub(crate) namespace: &'a str,
    pub(crate) settings: &'a Settings,
    pub(crate) choices: &'a Choices,
    pub(crate) identities: &'a [Usable],
    pub(crate) resources: Option<Value>,
    pub(crate) redirects: Vec<Redirect>,
}

impl Injection<'_> {
    /// The patch, and what its author should know. An empty patch: there is nothing left to do.
    pub(crate) fn patch(self, warnings: &mut Vec<Warning>) -> Result<Patch, Reserved> {
        let mut edits = Edits::new();
        check_names(self.pod, self.own, self.identities)?;
        let announcement = if let Some((list, at, sidecar)) = self.own {
            report_order(self.pod, list, at, warnings);
            announcement_of(sidecar, self.choices.port)
        } else {
            self.announcement()
        };
        announce(self.pod, &announcement, &self.choices.skip_containers, &mut edits, warnings);
        for Redirect { at, class } in &self.redirects {
            let place = at.to_string();
            let path = ["spec", "volumes", &place, "csi", "volumeAttributes", CLASS_ATTRIBUTE];
            edits.replace(path, class);
        }
        if self.own.is_none() {
            self.add_sidecar(&mut edits, warnings);
        }
        self.annotate(&mut edits);
        Ok(edits.finish())
    }

    fn announcement(&self) -> Announcement {
        match self.choices.endpoint {
            Endpoint::LinkLocal => Announcement::Address,
            Endpoint::Env => {
                Announcement::Endpoint { port: self.choices.port, header: HeaderValue::pod_uid() }
            }
        }
    }

    fn hold(&self) -> bool {
        self.identities.is_empty()
    }

    /// Where the sidecar serves its metrics. Nowhere where the pod has that port already: as a
    /// native sidecar it would take it before the pod's own containers start.
    fn metrics_port(&self, warnings: &mut Vec<Warning>) -> Option<u16> {
        let port = self.settings.sidecar_metrics_port?;
        let mut foreign = self.pod.foreign().map(|(_, _, container)| container);
        let holder = if port == self.choices.port {
            Some("the token endpoint (imdslet.dev/port)".to_owned())
        } else {
            let declares = |container: &&Container<'_>| container.declares(port);
            foreign.find(declares).map(|container| format!("container `{}`", container.name))
        };
        match holder {
            None => Some(port),
            Some(holder) => {
                warnings.push(Warning::MetricsPortTaken { holder, port });
                None
            }
        }
    }

    fn add_sidecar(&self, edits: &mut Edits, warnings: &mut Vec<Warning>) {
        let sidecar = Sidecar {
            settings: self.settings,
            egress: self.settings.egress_of(self.namespace),
            choices: self.choices,
            identities: self.identities,
            resources: self.resources.clone(),
            uid: pod_uid(),
            metrics_port: self.metrics_port(warnings),
            hold: self.hold(),
        };
        let mut init = Vec::new();
        if self.choices.endpoint == Endpoint::LinkLocal {
            init.push(sidecar.address_container());
            self.unprivileged_ports(edits, warnings);
        }
        match self.choices.sidecar {
            Mode::Native => init.push(sidecar.container()),
            Mode::Container => {
                edits.append("containers", self.has(List::Containers), &[sidecar.container()]);
                warnings.push(Warning::PlainSidecar);
            }
        }
        if !init.is_empty() {
            // First among the init containers: those of the pod's author may need tokens too, and
            // the kubelet starts init containers one after another, in order.
            edits.prepend("initContainers", self.has(List::InitContainers), &init);
        }
        let has_volumes = self.pod.spec.as_ref().is_some_and(|spec| spec.volumes.is_some());
        edits.append("volumes", has_volumes, &sidecar.volumes());
        self.add_pull_secrets(edits);
    }

    /// After the pod's own, which may be those of its service account: Kubernetes adds these before
    /// it asks a webhook, and only where a pod has none.
    fn add_pull_secrets(&self, edits: &mut Edits) {
        let own = self.pod.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_deref());
        let is_there =
            |name: &&String| own.unwrap_or_default().iter().any(|one| *one.name == **name);
        let missing = self.settings.sidecar_pull_secrets.iter().filter(|name| !is_there(name));
        let missing: Vec<_> = missing.map(|name| json!({"name": name})).collect();
        if !missing.is_empty() {
            edits.append("imagePullSecrets", own.is_some(), &missing);
        }
    }

    fn has(&self, list: List) -> bool {
        let spec = self.pod.spec.as_ref();
        spec.is_some_and(|spec| match list {
            List::InitContainers => spec.init_containers.is_some(),
            _ => spec.containers.is_some(),
        })
    }

    fn unprivileged_ports(&self, edits: &mut Edits, warnings: &mut Vec<Warning>) {
        let entry = json!({"name": UNPRIVILEGED_PORTS, "value": "80"});
        let context = self.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        match context.map(|context| &context.sysctls) {
            None => edits.add(["spec", "securityContext"], &json!({"sysctls": [entry]})),
            Some(None) => edits.add(["spec", "securityContext", "sysctls"], &json!([entry])),
            Some(Some(own)) => {
                match own.iter().find(|sysctl| *sysctl.name == *UNPRIVILEGED_PORTS) {
                    None => edits.add(["spec", "securityContext", "sysctls", "-"], &entry),
                    Some(own) if own.value.parse().is_ok_and(|first: u16| first <= 80) => {}
                    Some(_) => warnings.push(Warning::OwnSysctl),
                }
            }
        }
    }

    fn annotate(&self, edits: &mut Edits) {
        let metadata = self.pod.metadata.as_ref();
        if metadata.is_none_or(|metadata| metadata.annotations.is_none()) {
            edits.add(["metadata", "annotations"], &json!({}));
        }
        let identities = PodIdentities {
            version: FORMAT,
            hold: self.hold(),
            identities: self.identities.iter().map(|usable| usable.identity.clone()).collect(),
        };
        // Serialising these plain structs cannot fail.
        let identities = serde_json::to_string(&identities).unwrap_or_default();
        for (key, value) in [(IDENTITIES, identities), (VERSION, FORMAT.to_string())] {
            edits.set_annotation(key, self.pod.annotation(key), &value);
        }
        let needs_default = self.own.is_none()
            && self.choices.sidecar == Mode::Container
            && self.pod.annotation(DEFAULT_CONTAINER).is_none();
        if let (true, Some(first)) = (needs_default, self.pod.list(List::Containers).first()) {
            edits.set_annotation(DEFAULT_CONTAINER, None, &first.name);
        }
    }
}

/// Gives the containers and init containers of a pod what `announcement` says.
pub(crate) fn announce(
    pod: &PodView<'_>,
    announcement: &Announcement,
    skipped: &[String],
    edits: &mut Edits,
    warnings: &mut Vec<Warning>,
) {
    for (list, at, container) in pod.foreign() {
        if !skipped.iter().any(|name| **name == *container.name) {
            edits.set_variables(list, at, container, announcement, warnings);
        }
    }
}

/// What a sidecar that is already there was told decides, not what the pod would get today. `port`
/// stands in where the arguments of a sidecar of another release are not understood.
pub(crate) fn announcement_of(sidecar: &Container<'_>, port: u16) -> Announcement {
    let args = sidecar.args.as_deref().unwrap_or_default().iter().skip(1);
    let port = match ServeArgs::parse(args.map(|arg| &**arg)) {
        Ok(args) if args.link_local => return Announcement::Address,
        Ok(args) => args.port,
        Err(_) => port,
    };
    Announcement::Endpoint { port, header: HeaderValue::of_sidecar(sidecar) }
}

/// A later webhook may have put an init container before ours; it is served too late.
fn report_order(pod: &PodView<'_>, list: List, at: usize, warnings: &mut Vec<Warning>) {
    if list == List::InitContainers {
        let before = pod.list(List::InitContainers).iter().take(at);
        let foreign = before.filter(|container| *container.name != *ADDRESS_CONTAINER);
        warnings.extend(
            foreign.map(|container| Warning::ServedLate { container: container.name.to_string() }),
        );
    }
}

impl Edits {
    /// Puts `items` at the end of `spec.LIST`.
    fn append(&mut self, list: &str, exists: bool, items: &[impl Serialize]) {
        if !exists {
            return self.add(["spec", list], &items);
        }
        for item in items {
            self.add(["spec", list, "-"], item);
        }
    }

    /// Puts `items` at the start of `spec.LIST`. Everything in the list moves: whatever names a
    /// place in it must stand earlier in the patch.
    fn prepend(&mut self, list: &str, exists: bool, items: &[impl Serialize]) {
        if !exists {
            return self.add(["spec", list], &items);
        }
        for item in items.iter().rev() {
            self.add(["spec", list, "0"], item);
        }
    }

    fn set_annotation(&mut self, key: &str, current: Option<&str>, value: &str) {
        let path = ["metadata", "annotations", key];
        match current {
            Some(current) if current == value => {}
            Some(_) => self.replace(path, &value),
            None => self.add(path, &value),
        }
    }

    pub(crate) fn set_variables(
        &mut self,
        list: List,
        at: usize,
        container: &Container<'_>,
        announcement: &Announcement,
        warnings: &mut Vec<Warning>,
    ) {
        let variables = announcement.decide(container);
        let place = at.to_string();
        for extension in variables.extend {
            let entry = extension.at.to_string();
            let path = ["spec", list.field(), &place, "env", &entry, "value"];
            if extension.is_new {
                self.add(path, &extension.value);
            } else {
                self.replace(path, &extension.value);
            }
        }
        if container.env.is_some() {
            for entry in &variables.add {
                self.add(["spec", list.field(), &place, "env", "-"], entry);
            }
        } else if !variables.add.is_empty() {
            self.add(["spec", list.field(), &place, "env"], &variables.add);
        }
        let name = || container.name.to_string();
        warnings.extend(variables.conflicts.into_iter().map(|conflict| match conflict {
            Conflict::Variable(variable) => Warning::OwnVariable { container: name(), variable },
            Conflict::HiddenProxy(from) => Warning::HiddenProxy { container: name(), from },
        }));
    }
}
