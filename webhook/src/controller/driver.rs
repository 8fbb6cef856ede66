//! Whether the CSI driver gives the Azure provider what it needs.

use imdslet_core::csi::DriverFault;
use imdslet_core::names::DRIVER;
use kube::api::Request;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::Controller;
use super::events::Note;
use super::reconcile::{held_note, tell};
use crate::config::{DRIVER_LOOK, POD_DEADLINE};
use crate::problem::{Ask, Problem};

const ASK: Ask =
    Ask { verb: "get", group: "storage.k8s.io", resource: "csidrivers", name: Some(DRIVER) };

/// Looks at the CSIDriver object now and then, for as long as a derived class is needed, and says
/// what is wrong with it when that changes.
pub(super) async fn watch(
    controller: &Controller,
    mut is_needed: watch::Receiver<bool>,
    notes: &mpsc::Sender<Note>,
) {
    let mut told = None;
    while is_needed.wait_for(|needed| *needed).await.is_ok() {
        let found = look(controller).await;
        if let Err(problem) = &found {
            let reason = problem.reason();
            tracing::warn!(resource = "csidrivers", reason, %problem, "cannot look at the driver");
        }
        if let Ok(fault) = found
            && fault != told
        {
            let note =
                |fault: &DriverFault| held_note(controller, fault.reason(), fault.to_string());
            tell(notes, fault.as_ref().map(note));
            if fault.is_none() {
                tracing::info!(reason = "Recovered", "the CSI driver hands out tokens");
            }
            told = fault;
        }
        sleep(DRIVER_LOOK).await;
    }
}

async fn look(controller: &Controller) -> Result<Option<DriverFault>, Problem> {
    let request = Request::new("/apis/storage.k8s.io/v1/csidrivers")
        .get(DRIVER, &kube::api::GetParams::default())
        .map_err(|error| Problem::Unanswered(error.to_string()))?;
    match timeout(POD_DEADLINE, controller.client.request::<Value>(request)).await {
        Ok(Ok(driver)) => Ok(DriverFault::of(Some(&driver))),
        Ok(Err(error)) => match Problem::of(ASK, &error) {
            Problem::Refused { code: 404, .. } => Ok(DriverFault::of(None)),
            problem => Err(problem),
        },
        Err(_) => Err(Problem::late(POD_DEADLINE)),
    }
}
