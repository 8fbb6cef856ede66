//! What admission makes of a pod, in the words of an explanation.

use imdslet_core::admission::{Admission, Outcome, Refusal, Untouched};
use imdslet_core::names::POD_LABEL;
use imdslet_core::warning::Warning;

use super::report::{PodChain, Said, Verdict};

impl PodChain {
    pub(super) fn unlabelled(&mut self, is_label_misplaced: bool) {
        let (reason, message) = if is_label_misplaced {
            (
                "LabelOnWorkload",
                format!(
                    "its own label {POD_LABEL} does not reach its pods; move it to the labels of \
                     the pod template"
                ),
            )
        } else {
            ("NotOptedIn", format!("it has no label {POD_LABEL}, or an empty one"))
        };
        (self.reason, self.message) = (Some(reason), Some(message));
    }

    pub(super) fn decided(&mut self, admission: Result<Admission, Refusal>, is_unbound: bool) {
        let admission = match admission {
            Ok(admission) => admission,
            Err(refusal) => {
                self.outcome = Verdict::Refused;
                self.reason = Some(refusal.reason());
                self.message = Some(refusal.to_string());
                return;
            }
        };
        // A binding that gives nothing says so itself.
        let others = admission.warnings.iter().filter(|one| !matches!(one, Warning::Skipped(_)));
        let mut warnings = others.map(Said::of);
        match admission.outcome {
            Outcome::Untouched(why) => {
                self.reason = Some(why.reason());
                self.message = Some(untouched(&why));
            }
            Outcome::Injected { .. } if is_unbound => {
                self.outcome = Verdict::Waiting;
                // It is the first thing that there is to say of an unbound pod.
                if let Some(Said { reason, message }) = warnings.next() {
                    (self.reason, self.message) = (Some(reason), Some(message));
                }
            }
            Outcome::Injected { .. } => self.outcome = Verdict::Served,
        }
        self.warnings = warnings.collect();
    }
}

/// Why a labelled pod is left as it is.
fn untouched(why: &Untouched) -> String {
    match why {
        Untouched::NotOptedIn => format!("it has no label {POD_LABEL}"),
        Untouched::MirrorPod => "it is a static pod, to which nothing can be added".to_owned(),
        Untouched::InjectionDisabled => {
            "its namespace has the label imdslet.dev/injection: disabled".to_owned()
        }
        Untouched::Excepted(exception) => {
            format!("AzurePodIdentityException {exception} matches it")
        }
        Untouched::HostNetwork => "it is on the node's network".to_owned(),
        Untouched::Windows => "it runs on Windows".to_owned(),
        Untouched::NoSidecar => "it has no sidecar".to_owned(),
    }
}
