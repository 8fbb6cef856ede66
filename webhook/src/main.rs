//! The admission webhook and its controller as a program.

use std::fs;
use std::io::IsTerminal;
use std::mem;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use anyhow::Context;
use imdslet_certs::{Authority, OldestTls, Resolver, TlsListener, serve, server_config};
use imdslet_webhook::certificates::files::Files;
use imdslet_webhook::certificates::{self, First, Keeper};
use imdslet_webhook::config::{
    Config, ConfigError, GRACE, HEALTH_LIMITS, LIMITS, LINGER, Objects, Role, WATCH_LIFE,
    WATCH_SLACK,
};
use imdslet_webhook::controller::{self, Controller};
use imdslet_webhook::feed::{self, Event, Outlet, Published};
use imdslet_webhook::metrics::Metrics;
use imdslet_webhook::readiness::Readiness;
use imdslet_webhook::server::{self, Health, Hook};
use imdslet_webhook::settings;
use imdslet_webhook::watch as objects;
use kube::Client;
use mimalloc::MiMalloc;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// musl's own maps and unmaps memory for each admission, which costs more than the admission.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Used wrongly.
const USAGE: u8 = 2;
/// Could not do it.
const FAILED: u8 = 3;

/// Changes that wait to be taken in. Whoever tells more waits.
const EVENTS: usize = 1024;

/// The part of the program that is asked for admissions, as readiness shows it.
const LISTENER: &str = "admission server";

fn main() -> ExitCode {
    let config = match Config::from_process() {
        Ok(config) => config,
        Err(ConfigError::Usage(error)) => error.exit(),
        Err(error) => return fail(&error.into()),
    };
    log(config.log_level);
    match runtime().and_then(|runtime| runtime.block_on(run(config))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// One thread: workers that hand each other a request, and wake each other for it, cost more than
/// the request, and each has memory of its own.
fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot wait for anything")
}

fn log(level: LevelFilter) {
    // What kube says of a failure is said by us, once and with its remedy. Its client also logs
    // answers that it cannot parse, whole, and one of them is a Secret. Of other libraries nothing
    // below `info` is let through: what they send and receive stands there.
    let targets = Targets::new()
        .with_default(level.min(LevelFilter::INFO))
        .with_target("imdslet", level)
        .with_target("kube_client", LevelFilter::OFF)
        .with_target("kube_runtime", LevelFilter::OFF);
    let json = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_ansi(std::io::stdout().is_terminal());
    tracing_subscriber::registry().with(json).with(targets).init();
}

#[expect(clippy::print_stderr, reason = "the one place where the program says why it ends")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("imdslet-webhook: {error:#}");
    let is_usage = error.downcast_ref().is_some_and(ConfigError::is_usage);
    ExitCode::from(if is_usage { USAGE } else { FAILED })
}

/// Works until it is told to end.
async fn run(mut config: Config) -> anyhow::Result<()> {
    // Before anything can be seen of this program: until then a signal would just kill it.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut program = Program::new();
    match mem::replace(&mut config.objects, Objects::Cluster) {
        Objects::File(events) => program.start_with_file(&config, events).await?,
        Objects::Cluster => program.start_in_cluster(config).await?,
    }

    // Signals and joins are cancel-safe, and only one of the arms is ever taken.
    let failure = tokio::select! {
        _ = terminate.recv() => { tracing::info!(why = "SIGTERM", "ending"); None }
        _ = interrupt.recv() => { tracing::info!(why = "SIGINT", "ending"); None }
        Some(ended) = program.servers.join_next() => Some(why(ended)),
        Some(ended) = program.tasks.join_next() => Some(why(ended.map(Ok))),
    };
    program.ends.shutdown.cancel();
    if failure.is_none() && program.has_endpoints {
        // A second signal is meant.
        tokio::select! {
            () = tokio::time::sleep(LINGER) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    program.ends.closing.cancel();
    let finished =
        tokio::time::timeout(GRACE, async { while program.servers.join_next().await.is_some() {} });
    let reason = if finished.await.is_ok() { "Finished" } else { "GraceExceeded" };
    tracing::info!(reason, "ended");
    failure.map_or(Ok(()), Err)
}

/// Nothing may end before the program is told to: what goes on without a part of it is half a
/// program that looks whole.
fn why(ended: Result<anyhow::Result<&'static str>, tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(part)) => anyhow::anyhow!("{part} has ended although nobody told it to"),
        Ok(Err(error)) => error,
        Err(error) => anyhow::Error::new(error).context("a part of the program has failed"),
    }
}

/// The parts of the program that run.
struct Program {
    readiness: Readiness,
    metrics: Metrics,
    published: Published,
    events: mpsc::Sender<Event>,
    ends: Ends,
    /// Somebody may still be sent here after the program has said that it is not ready.
    has_endpoints: bool,
    /// What finishes its work when it is told to end.
    servers: JoinSet<anyhow::Result<&'static str>>,
    /// What can be dropped at any time.
    tasks: JoinSet<&'static str>,
}

/// The two steps of an end.
#[derive(Clone, Default)]
struct Ends {
    /// The program is not ready any more, and leads nobody.
    shutdown: CancellationToken,
    /// Admissions are not accepted any more.
    closing: CancellationToken,
}

impl Program {
    fn new() -> Self {
        let (events, receiver) = mpsc::channel(EVENTS);
        let (readiness, metrics) = (Readiness::default(), Metrics::default());
        let (outlet, published) = Outlet::new(metrics.clone(), readiness.clone());
        let mut tasks = JoinSet::new();
        let publishing = feed::publish(receiver, outlet);
        tasks.spawn(async {
            publishing.await;
            "the index"
        });
        Self {
            readiness,
            metrics,
            published,
            events,
            ends: Ends::default(),
            has_endpoints: false,
            servers: JoinSet::new(),
            tasks,
        }
    }

    /// Admission by the objects of a file and a CA of this process.
    async fn start_with_file(
        &mut self,
        config: &Config,
        objects: Vec<Event>,
    ) -> anyhow::Result<()> {
        self.readiness.set(LISTENER, true, "does not listen yet");
        let settings = settings::without_cluster(config)?;
        // Before anybody is told the address: who trusts the CA reads its file then.
        let (resolver, authorities) = own_certificate(config)?;
        write_ca(config, &authorities)?;
        self.serve_health(config.health_listen).await?;
        let snapshot = self.published.snapshot.clone();
        let hook = Hook::new(snapshot, Arc::new(settings), self.metrics.clone());
        let tls = (resolver, config.oldest_tls);
        let serving =
            admission(config.listen, tls, hook, self.readiness.clone(), self.ends.clone());
        self.servers.spawn(serving);
        for event in objects {
            self.events.send(event).await.context("the index has ended")?;
        }
        Ok(())
    }

    /// The role that is asked for, by the objects of the cluster.
    async fn start_in_cluster(&mut self, config: Config) -> anyhow::Result<()> {
        let mut cluster = kube::Config::infer().await.context(
            "found no cluster: neither a kubeconfig (KUBECONFIG, ~/.kube/config) nor a pod's \
             service account; --manifests FILE works without one",
        )?;
        // A connection that has died in silence ends with the watch that it should have carried.
        cluster.read_timeout = Some(WATCH_LIFE + WATCH_SLACK);
        let client = Client::try_from(cluster).context("cannot make a client for the cluster")?;
        if config.role == Role::Admission {
            // Else a slow answer about the cluster's version would leave a replica that is ready and
            // refuses connections.
            self.readiness.set(LISTENER, true, "does not listen yet");
        }
        self.serve_health(config.health_listen).await?;
        objects::start(&client, &self.events, (&self.readiness, &self.metrics), &mut self.tasks);
        match config.role {
            Role::Admission => self.start_admission(config, client),
            Role::Controller => self.start_controller(config, client),
        }
        Ok(())
    }

    /// Admissions, as soon as there are settings and a certificate.
    fn start_admission(&mut self, config: Config, client: Client) {
        self.has_endpoints = true;
        let first = self.keep_certificate(&config, &client);
        let (snapshot, metrics) = (self.published.snapshot.clone(), self.metrics.clone());
        let (readiness, ends) = (self.readiness.clone(), self.ends.clone());
        self.servers.spawn(async move {
            let ready = async {
                let settings = settings::of_cluster(&config, &client, &readiness).await?;
                let First { resolver, authorities } =
                    first.await.context("the certificate's watch has ended")?;
                write_ca(&config, &authorities)?;
                anyhow::Ok((settings, resolver))
            };
            // Waiting for the cluster must not outlast the order to end.
            let Some(ready) = ends.shutdown.run_until_cancelled(ready).await else {
                return Ok("the wait for the cluster");
            };
            let (settings, resolver) = ready?;
            let hook = Hook::new(snapshot, Arc::new(settings), metrics);
            admission(config.listen, (resolver, config.oldest_tls), hook, readiness, ends).await
        });
    }

    /// Keeps the serving certificate, its own or somebody else's, and gives the first one.
    fn keep_certificate(&mut self, config: &Config, client: &Client) -> oneshot::Receiver<First> {
        let names = certificates::names(&config.namespace, config.listen);
        let (readiness, metrics) = (self.readiness.clone(), self.metrics.clone());
        let (sender, first) = oneshot::channel();
        if let Some(dir) = config.tls_dir.clone() {
            self.tasks.spawn(Files::new(dir, names, readiness, metrics, sender).run());
        } else {
            let namespace = config.namespace.clone();
            let keeper = Keeper::new(client, namespace, names, readiness, metrics, sender);
            self.tasks.spawn(keeper.run());
        }
        first
    }

    /// The controller, as soon as there are settings.
    fn start_controller(&mut self, config: Config, client: Client) {
        let (published, metrics) = (self.published.clone(), self.metrics.clone());
        let (readiness, shutdown) = (self.readiness.clone(), self.ends.shutdown.clone());
        self.servers.spawn(async move {
            let ready = settings::of_cluster(&config, &client, &readiness);
            let Some(settings) = shutdown.run_until_cancelled(ready).await else {
                return Ok("the wait for the cluster");
            };
            let settings = Arc::new(settings?);
            let Config { replica, namespace, .. } = config;
            let controller =
                Controller { client, published, settings, metrics, replica, namespace };
            controller::run(controller, shutdown).await.context("the controller")?;
            Ok("the controller")
        });
    }

    async fn serve_health(&mut self, addr: SocketAddr) -> anyhow::Result<()> {
        let listener = bind(addr, "health").await?;
        let health = Health {
            snapshot: self.published.snapshot.clone(),
            readiness: self.readiness.clone(),
            metrics: self.metrics.clone(),
            shutdown: self.ends.shutdown.clone(),
        };
        // To the very end: the kubelet shall see why nobody is sent here any more.
        self.tasks.spawn(async {
            serve(listener, server::health(health), HEALTH_LIMITS, CancellationToken::new()).await;
            "the health server"
        });
        Ok(())
    }
}

/// Serves admissions on a thread of their own: neither does a list of ten thousand objects delay
/// them, nor do they delay what the kubelet asks.
async fn admission(
    addr: SocketAddr,
    (resolver, oldest): (Arc<Resolver>, OldestTls),
    hook: Hook,
    readiness: Readiness,
    Ends { shutdown, closing }: Ends,
) -> anyhow::Result<&'static str> {
    let runtime = runtime()?;
    let serving = async move {
        let listener = bind(addr, "admission").await?;
        readiness.clear(LISTENER);
        let tls = Arc::new(server_config(resolver, oldest)?);
        let router = server::admission(hook, shutdown);
        serve(TlsListener::new(listener, tls), router, LIMITS, closing).await;
        Ok("the admission server")
    };
    let (sender, ended) = oneshot::channel();
    let thread = thread::Builder::new().name("admission".to_owned());
    // Whoever waited for the end may be gone: then the program ends too.
    thread
        .spawn(move || sender.send(runtime.block_on(serving)).ok())
        .context("cannot start the thread of admissions")?;
    ended.await.context("the thread of admissions has panicked")?
}

async fn bind(addr: SocketAddr, server: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(addr).await.with_context(|| {
        format!("cannot listen on {addr} ({server}); is another program there?")
    })?;
    let addr = listener.local_addr().context("cannot tell the address")?;
    tracing::info!(%addr, server, "listening");
    Ok(listener)
}

/// A certificate of a CA that ends with this process.
fn own_certificate(config: &Config) -> anyhow::Result<(Arc<Resolver>, String)> {
    let now = SystemTime::now();
    let authority = Authority::generate("imdslet-webhook CA", now)?;
    let serving = authority.issue(&certificates::names(&config.namespace, config.listen), now)?;
    Ok((Arc::new(Resolver::new(serving)?), authority.pem().to_owned()))
}

fn write_ca(config: &Config, authorities: &str) -> anyhow::Result<()> {
    let Some(path) = &config.ca_out else { return Ok(()) };
    fs::write(path, authorities)
        .with_context(|| format!("--ca-out: cannot write {}", path.display()))
}
