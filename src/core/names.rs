//! The names that other programs and people meet. Changing one breaks a cluster.

/// The label that opts a pod in. Its value is compared byte for byte with a binding's selector.
pub const POD_LABEL: &str = "aadpodidbinding";

/// The API group of the custom resources, as aad-pod-identity named it.
pub const GROUP: &str = "aadpodidentity.k8s.io";

/// The sidecar container, and the one volume that only it mounts.
pub const SIDECAR: &str = "imdslet";

/// The init container of link-local mode.
pub const ADDRESS_CONTAINER: &str = "imdslet-address";

/// Where the sidecar finds its projected files.
pub const VOLUME_DIR: &str = "/var/run/imdslet";

/// Where the sidecar finds the Secrets of types 1 and 2, one folder each.
pub const SECRETS_DIR: &str = "/var/run/imdslet-secrets";

/// The program in the sidecar's image.
pub const SIDECAR_PROGRAM: &str = "/imdslet-sidecar";

/// The environment variable that carries the pod's uid to the sidecar.
pub const HEADER_VARIABLE: &str = "IMDSLET_HEADER";

/// The environment variable that carries the PEM of `--extra-ca` to the sidecar.
pub const EXTRA_CA_VARIABLE: &str = "IMDSLET_EXTRA_CA";

/// The file in [`VOLUME_DIR`] with the pod's [`IDENTITIES`] annotation.
pub const IDENTITIES_FILE: &str = "identities.json";

/// The file in [`VOLUME_DIR`] with the service account token for the cloud's audience.
pub const TOKEN_FILE: &str = "token";

/// The file in [`VOLUME_DIR`] with the service account token for AKS identity bindings.
pub const BINDING_TOKEN_FILE: &str = "binding-token";

/// The file in [`VOLUME_DIR`] with the CA of the AKS token proxy.
pub const BINDING_CA_FILE: &str = "binding-ca.crt";

/// The audience of [`BINDING_TOKEN_FILE`].
pub const BINDING_AUDIENCE: &str = "api://AKSIdentityBinding";

/// Written by us on the pod: what the sidecar reads, see [`crate::contract`].
pub const IDENTITIES: &str = "imdslet.dev/identities";

/// Written by us on the pod: the format number that the pod's sidecar understands.
pub const VERSION: &str = "imdslet.dev/version";

/// What the keys of our annotations and labels begin with.
pub const PREFIX: &str = "imdslet.dev/";

/// Set by people on a pod or a namespace: where its containers ask.
pub const ENDPOINT: &str = "imdslet.dev/endpoint";

/// Set by people on a pod or a namespace: what becomes of it while it has no identity.
pub const WHEN_UNBOUND: &str = "imdslet.dev/when-unbound";

/// Set by people on a pod or a namespace: the containers that get no variables.
pub const SKIP_CONTAINERS: &str = "imdslet.dev/skip-containers";

/// Set by people on a pod or a namespace: what the sidecar requests and may use.
pub const RESOURCES: &str = "imdslet.dev/resources";

/// Set by people on a pod or a namespace: the port of the token endpoint.
pub const PORT: &str = "imdslet.dev/port";

/// Set by people on a pod or a namespace: which kind of container the sidecar is.
pub const SIDECAR_MODE: &str = "imdslet.dev/sidecar";

/// A label that people set on a namespace: `disabled` keeps imdslet out.
pub const INJECTION: &str = "imdslet.dev/injection";

/// Set by people on an AzureIdentity: its tenant.
pub const TENANT_ID: &str = "imdslet.dev/tenant-id";

/// Set by people on an AzureIdentity: its object id.
pub const OBJECT_ID: &str = "imdslet.dev/object-id";

/// Set by people on an AzureIdentity of type 0: what proves it.
pub const SOURCE: &str = "imdslet.dev/source";

/// Set by people on an AzureIdentity: the only resources that it gives tokens for.
pub const ALLOWED_RESOURCES: &str = "imdslet.dev/allowed-resources";

/// On an AzureAssignedIdentity of ours: what its content was when we wrote it, since the watch does not
/// bring the content.
pub const CONTENT: &str = "imdslet.dev/content";

/// Who reports our Events.
pub const REPORTER: &str = "imdslet.dev/controller";

/// The kubelet's mark of the picture of a static pod.
pub const MIRROR_POD: &str = "kubernetes.io/config.mirror";

/// The longest name of an object.
pub const NAME_LIMIT: usize = 253;

/// On the CRD of a kind: objects of it that are missing are meant to be gone, see [`crate::hold`].
pub const LET_GO: &str = "imdslet.dev/let-go";

/// The API group of SecretProviderClass, which secrets-store-csi-driver defines.
pub const CLASS_GROUP: &str = "secrets-store.csi.x-k8s.io";

/// The kind of [`CLASS_GROUP`] that says which secrets a volume has, and how they are asked for.
pub const CLASS_KIND: &str = "SecretProviderClass";

/// The name of secrets-store-csi-driver, in volumes and as a CSIDriver.
pub const DRIVER: &str = "secrets-store.csi.k8s.io";

/// Marks an object as ours. No other is ever changed.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "imdslet");

/// On a SecretProviderClass of ours: the one whose place it takes.
pub const ORIGINAL: &str = "imdslet.dev/secret-provider-class";

/// On a SecretProviderClass of ours: the label of the pods that it is for.
pub const SELECTOR: &str = "imdslet.dev/selector";

/// The port of the token endpoint where nothing else is said. It was NMI's.
pub const DEFAULT_PORT: u16 = 2579;

/// The path of `IDENTITY_ENDPOINT` and `MSI_ENDPOINT`.
pub const APP_SERVICE_PATH: &str = "/msi/token";

/// The name of the sidecar's metrics port: at most 15 characters, as Kubernetes has it.
pub const METRICS_PORT: &str = "imdslet-metrics";

/// The path of Azure's Instance Metadata Service for tokens.
pub const IMDS_PATH: &str = "/metadata/identity/oauth2/token";

/// The literal address of Azure's Instance Metadata Service.
pub const LINK_LOCAL: &str = "169.254.169.254";
