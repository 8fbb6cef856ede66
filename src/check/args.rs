//! What `imdslet check` is told.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Format;

/// `imdslet check`.
#[derive(Debug, Args)]
#[command(after_help = CHECK_HELP)]
pub struct CheckArgs {
    /// A pod or workload to follow down to its tokens; can be repeated
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced)]
    pub workload: Vec<(String, String)>,
    /// Namespace in which a pod is created by a dry run
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// Look again until nothing has failed, for so long, such as 90s or 5m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub wait: Option<Duration>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Print a ClusterRole with all that is read, and a Role for each --workload; do nothing else
    #[arg(long)]
    pub rbac: bool,
    /// PEM file of CAs to trust for the issuer, beside the web's
    #[arg(long, value_name = "FILE")]
    pub extra_ca: Option<PathBuf>,
    /// The kubeconfig [default: that of kubectl]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// What is done, and what the exit code means.
const CHECK_HELP: &str = "\
Nothing is written. A pod is created by a dry run, to see what would become of it.

Exit code 0: nothing has failed, 1: something has, 3: not everything could be seen.";

fn namespaced(text: &str) -> Result<(String, String), String> {
    match text.split('/').collect::<Vec<_>>()[..] {
        [namespace, name] if !namespace.is_empty() && !name.is_empty() => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("it must be NAMESPACE/NAME".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "it must be a number with s, m or h, such as 90s".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}
