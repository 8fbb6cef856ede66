//! The commands that read objects, or a cluster, and print what comes of them.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use imdslet::check::{self, CheckArgs, Report, Verdict, Wanted};
use imdslet::config::{InjectArgs, SettingsArgs, wants_no_colour};
use imdslet::documents;
use imdslet::explain::{ExplainArgs, Target};
use imdslet::https::{Client, Trust};
use imdslet::inject::inject as inject_all;
use imdslet::issuer::Issuer;
use imdslet::live::{Access, Cluster, LiveError};
use imdslet::migrate::{self, MigrateArgs};

use super::{NO, UNKNOWN, complain, print, print_by};

pub(super) fn inject(args: InjectArgs) -> anyhow::Result<u8> {
    let settings = args.settings.read()?;
    let documents = documents::read(&args.files)?;
    let injected = inject_all(documents, &settings, &args.namespace)?;
    for warning in &injected.warnings {
        complain(&format!("warning: {warning}"));
    }
    for refusal in &injected.refusals {
        complain(&format!("refused: {refusal}"));
    }
    if !injected.refusals.is_empty() {
        // Nothing at all, so that nobody applies half of it.
        return Ok(NO);
    }
    let text = injected.write(args.output).context("cannot write the result")?;
    print(text.as_bytes())?;
    complain(&injected.summary());
    Ok(0)
}

pub(super) fn explain(mut args: ExplainArgs) -> anyhow::Result<u8> {
    let (documents, issuer) = match args.objects.access() {
        Some(access) => {
            let read = async |cluster: &Cluster| cluster.documents().await;
            of_cluster(&access, args.objects.issuer, &mut args.settings, read)?
        }
        None => (documents::read(&args.objects.files)?, args.objects.issuer),
    };
    let settings = args.settings.read()?;
    let pods = args.pod.iter().map(|name| Target::pod(name));
    let targets: Vec<_> = args.targets.into_iter().chain(pods).collect();
    let issuer = issuer.as_ref().map(Issuer::as_str);
    let explained =
        imdslet::explain::explain(&documents, &settings, issuer, &args.namespace, &targets)?;
    for problem in &explained.problems {
        complain(&format!("warning: {problem}"));
    }
    let text = explained.write(args.output);
    print(text.as_bytes())?;
    Ok(if explained.is_fine() { 0 } else { NO })
}

pub(super) fn migrate(mut args: MigrateArgs) -> anyhow::Result<u8> {
    let is_watched = io::stderr().is_terminal();
    let mut tell = |line: String| {
        if is_watched {
            complain(&line);
        }
    };
    let (dump, issuer) = match args.objects.access() {
        Some(access) => {
            let read = async |cluster: &Cluster| migrate::read_live(cluster, &mut tell).await;
            of_cluster(&access, args.objects.issuer, &mut args.settings, read)?
        }
        None => (migrate::read(&args.objects.files, &mut tell)?, args.objects.issuer),
    };
    let settings = args.settings.read()?;
    let issuer = issuer.context("the issuer is not known; name it by --issuer")?;
    let plan = migrate::plan(dump.objects(), &settings, &issuer, &args.namespace)?;
    print_by(|out| plan.write_to(out, args.output))?;
    for migrate::Decision { reason, object, message } in &plan.decisions {
        complain(&format!("decide: {object}: {}: {message}", reason.as_str()));
    }
    complain(&plan.summary());
    if let Some(next) = migrate::Plan::next(args.output) {
        complain(next);
    }
    Ok(if plan.decisions.is_empty() { 0 } else { NO })
}

/// What is read of a cluster, and its issuer where none was named. What imdslet is set to there counts
/// where no flag says otherwise.
fn of_cluster<T>(
    access: &Access,
    issuer: Option<Issuer>,
    settings: &mut SettingsArgs,
    read: impl AsyncFnOnce(&Cluster) -> Result<T, LiveError>,
) -> anyhow::Result<(T, Option<Issuer>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start")?.block_on(async {
        let cluster = Cluster::connect(access).await?;
        let issuer = if let Some(issuer) = issuer {
            issuer
        } else {
            let issuer = cluster.issuer().await?;
            issuer.parse().with_context(|| format!("the cluster's issuer is `{issuer}`"))?
        };
        match cluster.installed().await {
            Ok(installed) => settings.fill(&installed),
            Err(error @ LiveError::Forbidden(_)) => complain(&format!(
                "warning: the settings of the installation are not known, and the flags count: {error}"
            )),
            Err(error) => return Err(error.into()),
        }
        Ok((read(&cluster).await?, Some(issuer)))
    })
}

/// How long to wait before a cluster is looked at again.
const AGAIN: Duration = Duration::from_secs(2);

pub(super) async fn check(args: CheckArgs) -> anyhow::Result<u8> {
    if args.rbac {
        let roles = check::roles(args.workload.iter().map(|(namespace, _)| &**namespace));
        let roles = documents::to_yaml(&roles)?;
        print(roles.as_bytes())?;
        return Ok(0);
    }
    let mut trust = Trust::web();
    if let Some(path) = &args.extra_ca {
        let pem = std::fs::read_to_string(path);
        let pem = pem.with_context(|| format!("--extra-ca: cannot read {}", path.display()))?;
        trust = trust.and(&pem).context("--extra-ca")?;
    }
    let web = Client::new(trust)?;
    let access = Access { kubeconfig: args.kubeconfig, context: args.context };
    let cluster = Cluster::connect(&access).await?;
    let wanted = Wanted { workloads: args.workload, namespace: args.namespace };
    let until = Instant::now() + args.wait.unwrap_or_default();
    let report = checked(&cluster, &web, &wanted, until).await?;
    let is_coloured = io::stdout().is_terminal() && !wants_no_colour();
    let text = report.write(args.output, is_coloured);
    print(text.as_bytes())?;
    Ok(match report.verdict() {
        Verdict::Passed | Verdict::Note | Verdict::Warning => 0,
        Verdict::Failed => NO,
        Verdict::Unknown => UNKNOWN,
    })
}

/// Looks until nothing has failed, or it is too late to look again. Who waits is told what for.
async fn checked(
    cluster: &Cluster,
    web: &Client,
    wanted: &Wanted,
    until: Instant,
) -> Result<Report, LiveError> {
    let is_watched = io::stderr().is_terminal();
    let mut told = String::new();
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let seen = check::gather(cluster, web, wanted, now).await;
        let done = seen.map(|facts| check::judge(&facts, env!("CARGO_PKG_VERSION")));
        if done.as_ref().is_ok_and(Report::is_fine) || Instant::now() + AGAIN > until {
            return done;
        }
        let open = done.map_or_else(|error| error.to_string(), |report| report.open().join(", "));
        if is_watched && open != told {
            complain(&format!("waiting for: {open}"));
            told = open;
        }
        tokio::time::sleep(AGAIN).await;
    }
}
