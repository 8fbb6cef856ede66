//! The one table of the settings.

/// A flag of the settings, from which both programs make their command line.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Its name, without the dashes.
    pub name: &'static str,
    /// The environment variable that stands in for it.
    pub variable: &'static str,
    /// What its value is called in the help; empty if it takes none.
    pub value: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Whether it may be given more than once.
    pub repeats: bool,
    /// Whether it names a file, whose content is what is read.
    pub is_file: bool,
}

const fn flag(
    name: &'static str,
    variable: &'static str,
    value: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, variable, value, help, repeats: false, is_file: false }
}

const fn file(name: &'static str, variable: &'static str, help: &'static str) -> Flag {
    Flag { is_file: true, ..flag(name, variable, "FILE", help) }
}

/// The flags of the settings.
pub const FLAGS: &[Flag] = &[
    flag("tenant-id", "AZURE_TENANT_ID", "TENANT", "Tenant of identities that name none"),
    flag(
        "cloud",
        "IMDSLET_CLOUD",
        "CLOUD",
        "Azure cloud: public, usgov or china [default: public]",
    ),
    flag(
        "authority",
        "AZURE_AUTHORITY_HOST",
        "URL",
        "Base URL of Microsoft Entra ID [default: the cloud's]",
    ),
    flag(
        "audience",
        "IMDSLET_AUDIENCE",
        "AUDIENCE",
        "Audience of service account tokens [default: the cloud's]",
    ),
    Flag {
        repeats: true,
        ..flag(
            "allow-authority",
            "IMDSLET_ALLOW_AUTHORITY",
            "URL",
            "Authority that spec.adEndpoint may name; can be repeated",
        )
    },
    flag(
        "allow-managed",
        "IMDSLET_ALLOW_MANAGED",
        "",
        "Honour imdslet.dev/source: managed, which any pod of a node could use",
    ),
    flag(
        "binding-proxy",
        "IMDSLET_BINDING_PROXY",
        "URL",
        "Token proxy of AKS identity bindings, for imdslet.dev/source: binding",
    ),
    flag(
        "binding-sni",
        "IMDSLET_BINDING_SNI",
        "NAME",
        "Name of that proxy in TLS [default: the URL's host]",
    ),
    flag(
        "binding-ca-config-map",
        "IMDSLET_BINDING_CA_CONFIG_MAP",
        "NAME",
        "ConfigMap with that proxy's CA (ca.crt), in every namespace [default: kube-root-ca.crt]",
    ),
    file("extra-ca", "IMDSLET_EXTRA_CA", "PEM file of CAs that sidecars also trust"),
    flag(
        "https-proxy",
        "IMDSLET_HTTPS_PROXY",
        "URL",
        "HTTP proxy through which sidecars reach Entra ID; all of it stands in every pod",
    ),
    flag("no-proxy", "IMDSLET_NO_PROXY", "LIST", "Where sidecars use no proxy, as in NO_PROXY"),
    file(
        "namespace-settings",
        "IMDSLET_NAMESPACE_SETTINGS",
        "JSON file of httpsProxy, noProxy and extraCa by namespace, instead of the three above",
    ),
    flag(
        "scope",
        "IMDSLET_SCOPE",
        "SCOPE",
        "Bindings that a pod may match: cluster or namespaced [default: cluster]",
    ),
    flag("sidecar-image", "IMDSLET_SIDECAR_IMAGE", "IMAGE", "Image of the sidecar"),
    Flag {
        repeats: true,
        ..flag(
            "sidecar-pull-secret",
            "IMDSLET_SIDECAR_PULL_SECRET",
            "NAME",
            "Secret of the pod's own namespace by which its node may pull that image; can be repeated",
        )
    },
    flag(
        "sidecar-run-as-user",
        "IMDSLET_SIDECAR_RUN_AS_USER",
        "UID",
        "Uid and gid of the sidecar, or none to leave them to the platform [default: 2579]",
    ),
    flag(
        "sidecar-resources",
        "IMDSLET_SIDECAR_RESOURCES",
        "JSON",
        "Requests and limits of the sidecar [default: memory 16Mi = 16Mi, CPU request 5m]",
    ),
    flag(
        "sidecar-metrics-port",
        "IMDSLET_SIDECAR_METRICS_PORT",
        "PORT",
        "Port of each sidecar's /metrics on all addresses of its pod [default: none]",
    ),
    flag(
        "endpoint",
        "IMDSLET_ENDPOINT",
        "ENDPOINT",
        "How tokens are asked for: env or link-local [default: env]",
    ),
    flag(
        "when-unbound",
        "IMDSLET_WHEN_UNBOUND",
        "WHAT",
        "What becomes of unbound pods: wait or deny [default: wait]",
    ),
    flag(
        "sidecar",
        "IMDSLET_SIDECAR",
        "MODE",
        "How the sidecar runs: native or container [default: native from Kubernetes 1.32]",
    ),
    flag("port", "IMDSLET_PORT", "PORT", "Port of the token endpoint [default: 2579]"),
    flag(
        "kubernetes-version",
        "IMDSLET_KUBERNETES_VERSION",
        "VERSION",
        "Version of the cluster [default: 1.34]",
    ),
];
